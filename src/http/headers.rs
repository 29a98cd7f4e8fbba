//! The headers of an answer: the registry's own, the cache's facts, and those that are built once and reused.

use std::{cell::RefCell, collections::HashMap, time::Duration};

use actix_http::header::{AGE, HeaderMap, HeaderName, HeaderValue, WARNING};

use crate::{
    mirror::{Facts, Status},
    oci::Digest,
};

pub(crate) const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub(crate) const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
pub(crate) const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
pub(crate) const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
pub(crate) const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// All `Warning` headers of an answer together (distribution-spec, "Warnings").
const MOST_WARNING_BYTES: usize = 4096;

/// Digests whose header values are kept per worker; about 300 bytes each.
const KEPT_DIGESTS: usize = 4096;

/// A digest as two header values. Cloning shares the bytes.
#[derive(Clone, Debug)]
pub(crate) struct DigestHeaders {
    /// `sha256:…`
    pub(crate) plain: HeaderValue,
    /// `"sha256:…"`
    pub(crate) etag: HeaderValue,
}

/// The header values of a digest: a look-up for those that are asked often, and no formatting.
pub(crate) fn of_digest(digest: &Digest) -> DigestHeaders {
    thread_local! {
        static KEPT: RefCell<HashMap<Digest, DigestHeaders>> = RefCell::new(HashMap::new());
    }
    KEPT.with_borrow_mut(|kept| {
        if let Some(headers) = kept.get(digest) {
            return headers.clone();
        }
        let value = |text: String| HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
        let headers = DigestHeaders { plain: value(digest.to_string()), etag: value(format!("\"{digest}\"")) };
        // Starting over is crude and rare; a worker that serves more than this many manifests is not helped by an order of age.
        if kept.len() >= KEPT_DIGESTS {
            kept.clear();
        }
        kept.insert(digest.clone(), headers.clone());
        headers
    })
}

/// What every answer under `/v2/` carries.
pub(crate) fn common(headers: &mut HeaderMap) {
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
}

/// How the answer came about: `X-Cache`, `Cache-Status` (RFC 9211), `Age`, `Warning`.
pub(crate) fn facts(headers: &mut HeaderMap, facts: &Facts) {
    let (word, rfc) = match facts.status {
        Status::Hit => ("hit", "weir; hit"),
        Status::Miss => ("miss", "weir; fwd=miss"),
        Status::Revalidated => ("revalidated", "weir; fwd=stale; fwd-status=304"),
        Status::Stale => ("stale", "weir; hit; detail=stale"),
        Status::Bypass => ("bypass", "weir; fwd=bypass"),
    };
    headers.insert(X_CACHE, HeaderValue::from_static(word));
    headers.insert(CACHE_STATUS, HeaderValue::from_static(rfc));
    if matches!(facts.status, Status::Hit | Status::Stale) {
        headers.insert(AGE, seconds(facts.age));
    }
    if let Some(text) = &facts.warning {
        headers.insert(WARNING, warning(text));
    }
}

/// The word for a status in the log and the metrics.
pub(crate) fn word(status: Status) -> &'static str {
    match status {
        Status::Hit => "hit",
        Status::Miss => "miss",
        Status::Revalidated => "revalidated",
        Status::Stale => "stale",
        Status::Bypass => "bypass",
    }
}

fn seconds(age: Duration) -> HeaderValue {
    match age.as_secs() {
        0 => HeaderValue::from_static("0"),
        seconds => HeaderValue::from(seconds),
    }
}

/// Header fields of limits, whose names are in lower case.
pub(crate) fn fields(headers: &mut HeaderMap, fields: &[(&'static str, String)]) {
    for (name, value) in fields {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// One more `Warning: 299`.
pub(crate) fn warn(headers: &mut HeaderMap, text: &str) {
    headers.append(WARNING, warning(text));
}

/// `299 - "text"`: no date, quotes and backslashes escaped, what is not visible ASCII a question mark, cut at the spec's bound.
fn warning(text: &str) -> HeaderValue {
    let mut value = String::with_capacity(text.len() + 10);
    value.push_str("299 - \"");
    for character in text.chars() {
        if value.len() + 3 > MOST_WARNING_BYTES {
            break;
        }
        match character {
            '"' | '\\' => value.extend(['\\', character]),
            ' '..='~' => value.push(character),
            _ => value.push('?'),
        }
    }
    value.push('"');
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static("299 - \"\""))
}

/// Whether `If-None-Match` names this entity tag, weakly compared (RFC 9110, section 13.1.2).
pub(crate) fn none_match(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let Ok(etag) = etag.to_str() else { return false };
    headers.get_all(actix_http::header::IF_NONE_MATCH).filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_one_quoted_string_within_the_spec_s_bound() {
        assert_eq!(warning("docker.io answers 429"), "299 - \"docker.io answers 429\"");
        assert_eq!(warning("a \"b\\c\"\r\nX: y\u{202e}"), "299 - \"a \\\"b\\\\c\\\"??X: y?\"");
        for text in ["x", "\"", "é"] {
            let long = warning(&text.repeat(10_000));
            assert!(long.len() <= MOST_WARNING_BYTES && long.as_bytes().ends_with(b"\""), "{}", long.len());
        }
    }

    #[test]
    fn an_entity_tag_matches_itself_weak_or_in_a_list() {
        let etag = HeaderValue::from_static("\"sha256:aa\"");
        let matches = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(actix_http::header::IF_NONE_MATCH, HeaderValue::from_static(value));
            none_match(&headers, &etag)
        };
        for value in ["\"sha256:aa\"", "W/\"sha256:aa\"", "\"x\", \"sha256:aa\"", "*"] {
            assert!(matches(value), "{value}");
        }
        for value in ["", "sha256:aa", "\"sha256:ab\"", "\"sha256:aa"] {
            assert!(!matches(value), "{value}");
        }
        assert!(!none_match(&HeaderMap::new(), &etag));
    }

    #[test]
    fn header_values_of_digests_are_kept_within_bounds() {
        for number in 0..(KEPT_DIGESTS as u32 + 10) {
            let digest = crate::oci::Algorithm::Sha256.digest(&number.to_le_bytes());
            let headers = of_digest(&digest);
            assert_eq!(headers.plain, digest.to_string());
            assert_eq!(of_digest(&digest).etag, format!("\"{digest}\""));
        }
    }
}
