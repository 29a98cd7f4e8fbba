//! The kinds of value a configuration file holds besides plain ones: spans of time and sizes.
//!
//! Each refuses nonsense with a sentence that says what to write instead; the key is added by the one that reads the file.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serializer};

use crate::oci::as_text;

/// A span of time, written `"5m"`, `"1h 30m"`, `"250ms"` or `"0s"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// So many seconds.
    pub const fn seconds(seconds: u64) -> Span {
        Span(Duration::from_secs(seconds))
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        humantime::parse_duration(text)
            .map(Span)
            .map_err(|_| r#"not a span of time; write a number and a unit, such as "30s" or "5m""#.to_owned())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A number of bytes, written `"50GiB"`, `"100MB"` or `"4096B"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Largest first, so that a size is printed in the largest unit that leaves no remainder.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let parse = || {
            let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let (number, unit) = (&text[..digits], text[digits..].trim());
            let (_, factor) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
            let bytes = match number.parse::<u64>() {
                Ok(whole) => whole.checked_mul(*factor)?,
                Err(_) => {
                    let bytes = number.parse::<f64>().ok()? * *factor as f64;
                    (bytes < (1_u64 << 53) as f64).then_some(bytes as u64)?
                }
            };
            Some(Size(bytes))
        };
        parse()
            .ok_or_else(|| r#"not a size; write a number and a unit, such as "50GiB", "500MB" or "4096B""#.to_owned())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS.iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor));
        let (name, factor) = whole.copied().unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / factor)
    }
}

as_text!(Span, Size);

/// A [`Duration`] that is written as a [`Span`]: `#[serde(with = "as_span")]`.
pub mod as_span {
    use super::{Deserialize, Deserializer, Duration, Serializer, Span};

    /// As [`Span`] is written.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Span(*duration))
    }

    /// As [`Span`] is read.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Span::deserialize(deserializer).map(|span| span.0)
    }
}

/// A number of bytes that is written as a [`Size`]: `#[serde(with = "as_size")]`.
pub mod as_size {
    use super::{Deserialize, Deserializer, Serializer, Size};

    /// As [`Size`] is written.
    pub fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Size(*bytes))
    }

    /// As [`Size`] is read.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        Size::deserialize(deserializer).map(|size| size.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_numbers_with_a_unit() {
        for (text, bytes) in [("50GiB", 50 << 30), ("1.5KiB", 1536), ("0B", 0), ("100 MB", 100_000_000), ("1kb", 1000)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for bad in ["50GB!", "50", "", "GiB", "-1B", "1.2.3GiB", "99999999999TiB", "1e3B", "NaNB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
        for text in ["50GiB", "4MiB", "4096KiB", "100MB", "1B", "0B", "65537B"] {
            let size: Size = text.parse().unwrap();
            assert_eq!(size.to_string().parse(), Ok(size), "{text}");
        }
    }

    #[test]
    fn spans_are_numbers_with_a_unit() {
        assert_eq!("5m".parse(), Ok(Span::seconds(300)));
        assert_eq!("0s".parse(), Ok(Span::seconds(0)));
        for bad in ["5", "", "-5m", "5 parsecs", "m"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
        assert_eq!(Span::seconds(7 * 86_400).to_string().parse(), Ok(Span::seconds(7 * 86_400)));
    }
}
