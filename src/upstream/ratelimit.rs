//! What `ratelimit-*` headers say is left of a pull limit. Pure.

use std::time::Duration;

use reqwest::header::HeaderMap;

/// One reading of an upstream's counter, as Docker Hub gives it with every manifest GET and HEAD. Absent headers are no reading:
/// that request was not metered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Pulls per window.
    pub limit: Option<i64>,
    /// Pulls left; seen negative in the field.
    pub remaining: Option<i64>,
    /// The length of the window.
    pub window: Option<Duration>,
}

impl RateLimit {
    /// Reads `ratelimit-limit: 100;w=21600` and `ratelimit-remaining: 20;w=21600`; `None` when there is neither.
    pub(crate) fn read(headers: &HeaderMap) -> Option<RateLimit> {
        let item = |name| headers.get(name).and_then(|value| value.to_str().ok()).and_then(quantity);
        let limit = item("ratelimit-limit");
        let remaining = item("ratelimit-remaining");
        let window = limit.and_then(|(_, window)| window).or(remaining.and_then(|(_, window)| window));
        let reading = RateLimit { limit: limit.map(|(n, _)| n), remaining: remaining.map(|(n, _)| n), window };
        (reading.limit.is_some() || reading.remaining.is_some()).then_some(reading)
    }
}

/// Whom upstream counts: an address, an IPv6 /64, or an account's id. Printable and short, or nothing.
pub(crate) fn source(headers: &HeaderMap) -> Option<&str> {
    let source = headers.get("docker-ratelimit-source")?.to_str().ok()?.trim();
    (!source.is_empty() && source.len() <= 64).then_some(source)
}

/// `100;w=21600` → 100 and six hours. Of a list the first item counts.
fn quantity(text: &str) -> Option<(i64, Option<Duration>)> {
    let mut parts = text.split(',').next()?.split(';').map(str::trim);
    let number = parts.next()?.parse().ok()?;
    let window = parts
        .filter_map(|parameter| parameter.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("w"))
        .and_then(|(_, seconds)| seconds.trim().parse().ok())
        // A window of years, or of none, is no window.
        .filter(|seconds| (1..=366 * 86_400).contains(seconds))
        .map(Duration::from_secs);
    Some((number, window))
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    fn read(pairs: &[(&'static str, &'static str)]) -> Option<RateLimit> {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        RateLimit::read(&pairs.iter().map(pair).collect())
    }

    #[test]
    fn the_headers_of_hub_are_read_and_their_absence_is_no_reading() {
        let six_hours = Some(Duration::from_secs(21_600));
        let reading = |limit, remaining, window| Some(RateLimit { limit, remaining, window });
        for (limit, remaining, expected) in [
            ("100;w=21600", "20;w=21600", reading(Some(100), Some(20), six_hours)),
            ("100;w=21600", "-3;w=21600", reading(Some(100), Some(-3), six_hours)),
            ("100, 100;w=60", "20", reading(Some(100), Some(20), None)),
            (" 100 ; W = 21600 ", "x", reading(Some(100), None, six_hours)),
            ("100;w=0", "1;w=99999999999", reading(Some(100), Some(1), None)),
            ("99999999999999999999", "", None),
        ] {
            let read = read(&[("ratelimit-limit", limit), ("ratelimit-remaining", remaining)]);
            assert_eq!(read, expected, "{limit} {remaining}");
        }
        assert_eq!(read(&[("content-type", "text/html")]), None);
    }
}
