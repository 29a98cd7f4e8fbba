//! When an image was made, as its publisher says, and whether that is evidence.

use std::time::{Duration, SystemTime};

/// What `created` of a config says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// A time at which images were made.
    At(SystemTime),
    /// No date, or one before there were images: reproducible builds write 1970, and Go's zero time is in the year 1.
    Unknown,
}

/// 2013-03-20, when Docker was published. Nothing before it dates an image.
const FIRST_IMAGE: Duration = Duration::from_secs(1_363_737_600);

impl Created {
    /// Reads a time as RFC 3339 writes it, with an offset or without.
    pub fn parse(text: Option<&str>) -> Created {
        match text.and_then(parse) {
            Some(at) if at >= SystemTime::UNIX_EPOCH + FIRST_IMAGE => Created::At(at),
            _ => Created::Unknown,
        }
    }
}

/// RFC 3339; `None` for what is no such time, or before 1970.
fn parse(text: &str) -> Option<SystemTime> {
    let text = text.trim();
    if let Ok(at) = humantime::parse_rfc3339(text) {
        return Some(at);
    }
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (sign, offset) = offset.split_at_checked(1)?;
    let (hours, minutes) = offset.split_once(':')?;
    let offset = Duration::from_secs(hours.parse::<u64>().ok()? * 3600 + minutes.parse::<u64>().ok()? * 60);
    let at = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    match sign {
        "+" => at.checked_sub(offset),
        "-" => at.checked_add(offset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_evidence_unless_it_is_absent_or_older_than_images_are() {
        let at = |seconds| Created::At(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        for text in ["2026-01-01T00:00:00Z", "2026-01-01T02:00:00+02:00", "2025-12-31T18:30:00-05:30"] {
            assert_eq!(Created::parse(Some(text)), at(1_767_225_600), "{text}");
        }
        let bad = [
            "1970-01-01T00:00:00Z",
            "1980-01-01T00:00:01Z",
            "0001-01-01T00:00:00Z",
            "",
            "yesterday",
            "+02:00",
            "é+02:00",
        ];
        for text in bad {
            assert_eq!(Created::parse(Some(text)), Created::Unknown, "{text}");
        }
        assert_eq!(Created::parse(None), Created::Unknown);
    }
}
