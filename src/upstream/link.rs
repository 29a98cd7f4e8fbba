//! The next page of a listing: one `Link: <…>; rel="next"` of the same origin. Pure.

use reqwest::header::{HeaderMap, LINK};
use url::Url;

/// Where the next page is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// This was the last page.
    End,
    /// Go on here.
    Page(Url),
    /// The next page is said to be on another origin, or nowhere: a listing that would make us ask a foreign_token
    /// (GHSA-h7vf-4x9w-h99v) is not followed.
    Foreign,
}

/// Reads the `Link` headers (RFC 8288, end-8b) of the answer that came from `page`.
pub(crate) fn next(headers: &HeaderMap, page: &Url) -> Next {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let Some(target) = links.filter_map(next_in).next() else { return Next::End };
    match page.join(target) {
        Ok(url) if url.origin() == page.origin() && url.username().is_empty() && url.password().is_none() => {
            Next::Page(url)
        }
        _ => Next::Foreign,
    }
}

/// The target of the first link with relation `next` in one header.
fn next_in(header: &str) -> Option<&str> {
    let mut rest = header;
    loop {
        let open = rest.find('<')?;
        let close = open + rest[open..].find('>')?;
        let target = &rest[open + 1..close];
        rest = &rest[close + 1..];
        // The parameters go on to the next comma that is not inside of quotes.
        let mut quoted = false;
        let end = rest
            .find(|character| {
                quoted ^= character == '"';
                character == ',' && !quoted
            })
            .unwrap_or(rest.len());
        if rest[..end].split(';').any(is_next) {
            return Some(target.trim());
        }
        rest = &rest[end..];
    }
}

fn is_next(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else { return false };
    let relations = value.trim().trim_matches('"');
    name.trim().eq_ignore_ascii_case("rel")
        && relations.split_ascii_whitespace().any(|relation| relation.eq_ignore_ascii_case("next"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn a_next_page_is_of_the_same_origin_or_is_not_followed() {
        let page = Url::parse("https://r.example:5000/v2/a/tags/list?n=2").unwrap();
        let at = |path: &str| Next::Page(Url::parse(&format!("https://r.example:5000{path}")).unwrap());
        for (header, expected) in [
            (r#"</v2/a/tags/list?last=b&n=2>; rel="next""#, at("/v2/a/tags/list?last=b&n=2")),
            (r#"<?last=b>; rel=next"#, at("/v2/a/tags/list?last=b")),
            (r#"</x>; rel="prev", </y>; title="a, b"; REL="first next""#, at("/y")),
            (r#"<https://r.example:5000/z>;rel=next"#, at("/z")),
            (r#"<https://r.example/z>; rel="next""#, Next::Foreign),
            (r#"<http://r.example:5000/z>; rel="next""#, Next::Foreign),
            (r#"<https://a@r.example:5000/z>; rel="next""#, Next::Foreign),
            (r#"<//169.254.169.254/latest>; rel="next""#, Next::Foreign),
            (r#"<http://>; rel="next""#, Next::Foreign),
            (r#"</x>; rel="prev""#, Next::End),
            (r#"</x"#, Next::End),
            ("", Next::End),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(LINK, HeaderValue::from_static(header));
            assert_eq!(next(&headers, &page), expected, "{header}");
        }
        assert_eq!(next(&HeaderMap::new(), &page), Next::End);
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parser_panic(header in "[ -~]{0,64}") {
            let _ = next_in(&header);
        }
    }
}
