//! How long a server asks to be left alone, in all the forms that registries write it. Pure.

use std::time::{Duration, SystemTime};

/// Numbers from here on are points in time, not lengths: 2017 in seconds since 1970.
const EPOCH_FROM: f64 = 1.5e9;
/// And from here on they count milliseconds.
const EPOCH_MILLIS_FROM: f64 = 1.5e12;

/// Reads a `Retry-After` (RFC 9110 section 10.2.3): seconds or an HTTP-date, and what is seen in the field besides: seconds since
/// 1970 (Docker's Hub API), fractions, and lengths with units as Go prints them (ghcr's `880.092µs`).
///
/// `None` is what cannot be read; a time gone by is zero. The caller caps it.
pub(crate) fn parse(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(number) = text.parse::<f64>() {
        return number_of_seconds(number, now);
    }
    if let Ok(date) = httpdate::parse_http_date(text) {
        return Some(date.duration_since(now).unwrap_or_default());
    }
    units(text)
}

/// Finds `retry-after: <length>` within the text of an error, which is where ghcr puts it.
pub(crate) fn in_message(message: &str, now: SystemTime) -> Option<Duration> {
    const WORD: &str = "retry-after:";
    // Folding ASCII alone keeps every offset valid for the original.
    let at = message.to_ascii_lowercase().find(WORD)? + WORD.len();
    let rest = message.get(at..)?.trim_start();
    let end = rest.find([',', ';', ' ', '"']).unwrap_or(rest.len());
    parse(&rest[..end], now)
}

fn number_of_seconds(number: f64, now: SystemTime) -> Option<Duration> {
    if !number.is_finite() || number < 0.0 {
        return None;
    }
    let epoch = |seconds: f64| {
        let since = Duration::try_from_secs_f64(seconds).ok()?;
        let at = SystemTime::UNIX_EPOCH.checked_add(since)?;
        Some(at.duration_since(now).unwrap_or_default())
    };
    match number {
        millis if millis >= EPOCH_MILLIS_FROM => epoch(millis / 1000.0),
        seconds if seconds >= EPOCH_FROM => epoch(seconds),
        seconds => Duration::try_from_secs_f64(seconds).ok(),
    }
}

fn units(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|character: char| character.is_ascii_digit()).unwrap_or(rest.len());
        let scale = match rest[..end].trim() {
            "ns" => 1e-9,
            // Both code points for "micro": U+00B5 and U+03BC.
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
            "ms" => 1e-3,
            "s" | "sec" | "second" | "seconds" => 1.0,
            "m" | "min" | "minute" | "minutes" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        sum += number * scale;
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(sum).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_of_retry_after_is_read() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        for (text, expected) in [
            ("7", Some(7.0)),
            (" 60 ", Some(60.0)),
            ("0", Some(0.0)),
            ("1.5", Some(1.5)),
            ("1000000000", Some(1e9)),
            ("1800000030", Some(30.0)),
            ("1799999999", Some(0.0)),
            ("1800000030000", Some(30.0)),
            ("Fri, 15 Jan 2027 08:00:05 GMT", Some(5.0)),
            ("Fri, 15 Jan 2021 08:00:05 GMT", Some(0.0)),
            ("880.092µs", Some(880.092e-6)),
            ("5ms", Some(0.005)),
            ("1m30s", Some(90.0)),
            ("2 seconds", Some(2.0)),
            ("", None),
            ("-1", None),
            ("soon", None),
            ("NaN", None),
            ("inf", None),
            ("1e400", None),
            ("5 parsecs", None),
        ] {
            let read = parse(text, now).map(|wait| wait.as_secs_f64());
            match (read, expected) {
                (Some(read), Some(expected)) => assert!((read - expected).abs() < 1e-6, "{text}: {read}"),
                (read, expected) => assert_eq!(read, expected, "{text}"),
            }
        }
    }

    #[test]
    fn ghcr_hides_it_in_the_message() {
        let message = "TOOMANYREQUESTS: retry-after: 880.092µs, allowed: 44000/minute";
        assert_eq!(in_message(message, SystemTime::now()), Some(Duration::from_nanos(880_092)));
        assert_eq!(in_message("Retry-After: 2s", SystemTime::now()), Some(Duration::from_secs(2)));
        assert_eq!(in_message("You have reached your pull rate limit.", SystemTime::now()), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,64}") {
            let _ = parse(&text, SystemTime::now());
            let _ = in_message(&format!("retry-after:{text}"), SystemTime::now());
        }
    }
}
