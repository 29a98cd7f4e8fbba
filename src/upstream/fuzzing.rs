//! What the fuzz targets of an upstream's header fields hold. Compiled for them and for the tests, which run the committed inputs.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::{challenge, link, ratelimit, retry_after};

/// The lines of the input as fields of one name; a line that no field can hold is left out.
fn fields(name: &'static str, bytes: &[u8]) -> HeaderMap {
    let values = bytes.split(|byte| *byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok());
    values.map(|value| (HeaderName::from_static(name), value)).collect()
}

/// At most sixteen challenges, each with its scheme in lower case.
pub fn challenge(bytes: &[u8]) {
    let challenges = challenge::Challenge::read(&fields("www-authenticate", bytes));
    assert!(challenges.len() <= 16);
    for challenge in challenges {
        assert!(!challenge.scheme.is_empty() && challenge.scheme == challenge.scheme.to_ascii_lowercase());
        let _ = (challenge.get("realm"), challenge.get("scope"));
    }
}

/// The query of a next page is not empty and begins no fragment.
pub fn link(bytes: &[u8]) {
    if let link::Next::Query(query) = link::next(&fields("link", bytes)) {
        assert!(!query.is_empty() && !query.contains('#'), "{query}");
    }
}

/// A window is at most a year, a source at most 64 bytes; any time to wait can be added to now.
pub fn limits(bytes: &[u8]) {
    let mut headers = fields("ratelimit-limit", bytes);
    for name in ["ratelimit-remaining", "docker-ratelimit-source"] {
        headers.extend(fields(name, bytes));
    }
    let window = ratelimit::RateLimit::read(&headers).and_then(|reading| reading.window);
    assert!(window.is_none_or(|window| window <= Duration::from_secs(366 * 86_400)));
    assert!(ratelimit::source(&headers).is_none_or(|source| source.len() <= 64));
    let text = String::from_utf8_lossy(bytes);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000);
    let _ = (retry_after::parse(&text, now), retry_after::in_message(&text, now));
}

#[cfg(test)]
mod tests {
    fn each(target: &str, holds: fn(&[u8])) {
        let corpus = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
        for input in std::fs::read_dir(corpus).unwrap() {
            holds(&std::fs::read(input.unwrap().path()).unwrap());
        }
    }

    #[test]
    fn the_committed_inputs_hold() {
        each("challenge", super::challenge);
        each("link", super::link);
        each("limits", super::limits);
    }
}
