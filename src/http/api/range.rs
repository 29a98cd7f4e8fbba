//! A `Range` header and a size to the bytes that are meant (RFC 9110, section 14). Pure, fuzzed.
//!
//! One range is served as asked. Several, another unit, or anything malformed are as if the header were not there, which the RFC
//! allows and every client copes with.

use std::ops::Range;

/// One range as it was asked, before the size is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RangeSpec {
    /// From this byte on, to that one (exclusive) when given.
    From(u64, Option<u64>),
    /// The last so many bytes.
    Last(u64),
    /// The end lies before the start. The RFC calls it invalid; the conformance suite wants it refused.
    Reversed,
}

/// What to answer with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RangeOutcome {
    /// 200, everything.
    Whole,
    /// 206, these bytes; never empty.
    Part(Range<u64>),
    /// 416.
    Unsatisfiable,
}

impl RangeSpec {
    /// Reads the header's value; `None` when it is to be ignored.
    pub(crate) fn parse(value: &str) -> Option<RangeSpec> {
        let (unit, ranges) = value.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") || ranges.contains(',') {
            return None;
        }
        let (first, last) = ranges.trim().split_once('-')?;
        match (first.trim_end(), last.trim_start()) {
            ("", suffix) => Some(RangeSpec::Last(number(suffix)?)),
            (first, "") => Some(RangeSpec::From(number(first)?, None)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                Some(if last < first {
                    RangeSpec::Reversed
                } else {
                    RangeSpec::From(first, Some(last.saturating_add(1)))
                })
            }
        }
    }

    /// The bytes of a blob of `size` that are meant.
    pub(crate) fn select(self, size: u64) -> RangeOutcome {
        match self {
            RangeSpec::From(start, end) if start < size => RangeOutcome::Part(start..end.unwrap_or(size).min(size)),
            RangeSpec::Last(0) | RangeSpec::From(..) | RangeSpec::Reversed => RangeOutcome::Unsatisfiable,
            RangeSpec::Last(_) if size == 0 => RangeOutcome::Whole,
            RangeSpec::Last(count) => RangeOutcome::Part(size.saturating_sub(count)..size),
        }
    }
}

/// Digits only: `parse` would take a sign. More than 64 bits is past every end, not malformed.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn selected(value: &str, size: u64) -> RangeOutcome {
        RangeSpec::parse(value).map_or(RangeOutcome::Whole, |asked| asked.select(size))
    }

    #[test]
    fn ranges_mean_what_the_rfc_says() {
        use RangeOutcome::*;
        for (value, size, expected) in [
            ("bytes=0-0", 10, Part(0..1)),
            ("bytes=0-", 10, Part(0..10)),
            ("bytes=5-", 10, Part(5..10)),
            ("bytes=5-6", 10, Part(5..7)),
            ("bytes=5-99", 10, Part(5..10)),
            ("bytes=-3", 10, Part(7..10)),
            ("bytes=-99", 10, Part(0..10)),
            ("Bytes = 1-2", 10, Part(1..3)),
            ("bytes=9-18446744073709551615", 10, Part(9..10)),
            ("bytes=1-99999999999999999999999", 10, Part(1..10)),
            ("bytes=10-", 10, Unsatisfiable),
            ("bytes=10-20", 10, Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, Unsatisfiable),
            ("bytes=-0", 10, Unsatisfiable),
            ("bytes=500-0", 1000, Unsatisfiable),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=-5", 0, Whole),
            ("bytes=0-1,3-4", 10, Whole),
            ("items=0-1", 10, Whole),
            ("bytes=", 10, Whole),
            ("bytes=-", 10, Whole),
            ("bytes=a-b", 10, Whole),
            ("bytes=+1-2", 10, Whole),
            ("bytes=1--2", 10, Whole),
            ("bytes 0-1", 10, Whole),
            ("", 10, Whole),
        ] {
            assert_eq!(selected(value, size), expected, "{value} of {size}");
        }
    }

    proptest! {
        #[test]
        fn a_part_is_never_empty_nor_outside(value in "(bytes)?=?[0-9]{0,21}-?[0-9]{0,21}.{0,3}", size: u64) {
            if let RangeOutcome::Part(part) = selected(&value, size) {
                prop_assert!(part.start < part.end && part.end <= size);
            }
        }

        #[test]
        fn nothing_panics(value in ".*", size: u64) {
            selected(&value, size);
        }
    }
}
