//! The next page of a listing: the query of a `Link` header. Pure.
//!
//! Registries behind proxies name pages by hosts and paths that only they know (Artifactory leaves the repository key out, Nexus
//! adds one, TLS proxies change the scheme). The next page is this very listing with the link's query, so that neither matters and
//! no link can lead to another host (GHSA-h7vf-4x9w-h99v).

use reqwest::header::{HeaderMap, LINK};

/// Where the next page is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// This was the last page.
    End,
    /// Go on with this query.
    Query(String),
    /// There is a next page, and the link does not say which: an error, since the list would be cut short.
    Unreadable,
}

/// Reads the `Link` headers (RFC 8288, end-8b): in angle brackets or bare, quoted or not.
pub(crate) fn next(headers: &HeaderMap) -> Next {
    let links = headers.get_all(LINK).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let mut found = links.map(|header| next_in(&header)).filter(|next| *next != Next::End);
    found.next().unwrap_or(Next::End)
}

/// The first link with relation `next` in one header.
fn next_in(header: &str) -> Next {
    let mut rest = header;
    while !rest.trim().is_empty() {
        let (link, others) = split(rest.trim_start_matches([',', ' ', '\t']));
        rest = others;
        let (target, parameters) = target(link);
        let relation = relation_in(parameters);
        if relation.as_ref().is_some_and(|names| !names.split_ascii_whitespace().any(|name| name == "next")) {
            continue;
        }
        let query = target.split('#').next().unwrap_or_default().split_once('?').map(|(_, query)| query.trim());
        match (query.filter(|query| !query.is_empty()), relation) {
            (Some(query), Some(_)) => return Next::Query(query.to_owned()),
            // A link without a relation is the next page when it looks like one.
            (Some(query), None) if ["last=", "page=", "/tags/list?"].iter().any(|part| target.contains(part)) => {
                return Next::Query(query.to_owned());
            }
            (None, Some(_)) => return Next::Unreadable,
            // What is no link at all may have meant one.
            (_, None) if !link.trim().is_empty() && !is_bracketed(link) => return Next::Unreadable,
            (_, None) => {}
        }
    }
    Next::End
}

/// The first link of a list, and what follows its comma. A comma within brackets or quotes separates nothing, nor does one of a
/// bare target's query.
fn split(header: &str) -> (&str, &str) {
    let (mut quoted, mut bracketed, mut behind) = (false, false, !header.trim_start().starts_with('<'));
    for (at, character) in header.char_indices() {
        match character {
            '"' if !bracketed => quoted = !quoted,
            '<' if !quoted => bracketed = true,
            '>' if !quoted => bracketed = false,
            ';' if !quoted && !bracketed => behind = false,
            ',' if !quoted && !bracketed && !behind => return (&header[..at], &header[at + 1..]),
            _ => {}
        }
    }
    (header, "")
}

fn target(link: &str) -> (&str, &str) {
    let link = link.trim();
    match link.strip_prefix('<').and_then(|link| link.split_once('>')) {
        Some(parts) => parts,
        None => link.split_once(';').unwrap_or((link, "")),
    }
}

fn is_bracketed(link: &str) -> bool {
    link.trim().strip_prefix('<').is_some_and(|link| link.contains('>'))
}

/// The first relation among the parameters of a link. A semicolon within quotes separates nothing.
fn relation_in(parameters: &str) -> Option<String> {
    let mut quoted = false;
    let separates = |character| {
        quoted ^= character == '"';
        character == ';' && !quoted
    };
    parameters.split(separates).find_map(relation).filter(|relation| !relation.is_empty())
}

/// The value of `rel`, in lower case.
fn relation(parameter: &str) -> Option<String> {
    let (name, value) = parameter.split_once('=')?;
    let quotes = ['"', '\'', ' '];
    name.trim().eq_ignore_ascii_case("rel").then(|| value.trim().trim_matches(quotes).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn a_next_page_is_the_links_query_whatever_else_it_says() {
        let at = |query: &str| Next::Query(query.to_owned());
        for (header, expected) in [
            (r#"</v2/a/tags/list?last=b&n=2>; rel="next""#, at("last=b&n=2")),
            (r#"<?last=b>; rel=next"#, at("last=b")),
            (r#"<?last=b>; rel='next'"#, at("last=b")),
            (r#"</x>; rel="prev", </y?z=1>; title="a, b"; REL="first next""#, at("z=1")),
            (r#"<https://elsewhere.example:8443/other/v2/a?last=b>;rel=next"#, at("last=b")),
            (r#"<https://user@elsewhere.example/?last=b#top>; rel="next""#, at("last=b")),
            (r#"/v2/a/tags/list?last=b&n=2; rel="next""#, at("last=b&n=2")),
            (r#"/v2/a/tags/list?last=a,b; rel=next"#, at("last=a,b")),
            (r#"</v2/a/tags/list?last=b>"#, at("last=b")),
            (r#"</v2/a/tags/list?last=a"b>; rel="next""#, at("last=a\"b")),
            (r#"<//169.254.169.254/latest>; rel="next""#, Next::Unreadable),
            (r#"<http://>; rel="next""#, Next::Unreadable),
            (r#"; rel="next""#, Next::Unreadable),
            (r#"</x?last=a>; rel="prev""#, Next::End),
            (r#"</docs>"#, Next::End),
            (r#"</v2/a/tags/list?last=b>; title="x; rel=prev"; rel="next""#, at("last=b")),
            (r#"</v2/a/tags/list?last=b>; title="a; b, c"; rel=next"#, at("last=b")),
            (r#"</v2/a/tags/list?last=b>; rel="""#, at("last=b")),
            (r#"</v2/a/tags/list?page=2>"#, at("page=2")),
            (r#"</v2/a/tags/list?n=5>"#, at("n=5")),
            (r#"<https://h/docs?a=1>"#, Next::End),
            (r#", , <?last=b>; rel=next"#, at("last=b")),
            ("garbage", Next::Unreadable),
            ("<", Next::Unreadable),
            (r#"{"next":"2"}"#, Next::Unreadable),
            ("", Next::End),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(LINK, HeaderValue::from_static(header));
            assert_eq!(next(&headers), expected, "{header}");
        }
        assert_eq!(next(&HeaderMap::new()), Next::End);
        let mut headers = HeaderMap::new();
        headers.insert(LINK, HeaderValue::from_bytes("<?last=é>; rel=next".as_bytes()).unwrap());
        assert_eq!(next(&headers), at("last=é"));
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parser_panic(header in "\\PC{0,64}") {
            let _ = next_in(&header);
        }

        #[test]
        fn no_mess_of_separators_makes_the_parser_panic(header in "[<>;,\"=?rel next]{0,64}") {
            let _ = next_in(&header);
        }
    }
}
