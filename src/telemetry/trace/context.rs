//! The ids of traces and spans, what a client says of its trace, and which requests are sampled. Pure but for random numbers.

use std::{
    cell::Cell,
    fmt,
    hash::{BuildHasher as _, Hasher as _, RandomState},
};

/// The id of a trace; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TraceId(pub(super) [u8; 16]);

/// The id of a span; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SpanId(pub(super) [u8; 8]);

/// What is known of a request that is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sampled {
    /// Its trace: the client's, or a new one.
    pub(crate) trace: TraceId,
    /// The span of the client.
    pub(crate) parent: Option<SpanId>,
}

impl TraceId {
    fn random() -> TraceId {
        let (high, low) = (random().to_be_bytes(), random().to_be_bytes());
        TraceId(std::array::from_fn(|at| if at < 8 { high[at] } else { low[at - 8] }))
    }

    pub(super) fn parse(text: &str) -> Option<TraceId> {
        parse(text.as_bytes()).map(TraceId)
    }
}

impl SpanId {
    pub(super) fn random() -> SpanId {
        SpanId(random().to_be_bytes())
    }

    pub(super) fn parse(text: &str) -> Option<SpanId> {
        parse(text.as_bytes()).map(SpanId)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Lower-case hexadecimal digits that are not all zero.
fn parse<const LENGTH: usize>(text: &[u8]) -> Option<[u8; LENGTH]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut id = [0; LENGTH];
    let (pairs, rest) = text.as_chunks::<2>();
    if pairs.len() != LENGTH || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in id.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    id.iter().any(|byte| *byte != 0).then_some(id)
}

/// SplitMix64 from a random start of each thread; never zero.
fn random() -> u64 {
    thread_local!(static NEXT: Cell<u64> = Cell::new(RandomState::new().build_hasher().finish()));
    let state = NEXT.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    NEXT.set(state);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)).max(1)
}

/// What decides, as `OTEL_TRACES_SAMPLER` names it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::telemetry) struct Sampler {
    /// Whether a client that sends `traceparent` decides for its own requests.
    pub(super) follows_parent: bool,
    /// The share of all others, of 1.
    pub(super) ratio: f64,
}

impl Sampler {
    pub(super) fn sample(self, traceparent: Option<&[u8]>) -> Option<Sampled> {
        let parent = traceparent.and_then(parent);
        let trace = parent.map_or_else(TraceId::random, |(trace, ..)| trace);
        let is_sampled = match parent {
            Some((.., is_sampled)) if self.follows_parent => is_sampled,
            _ => self.takes(trace),
        };
        is_sampled.then_some(Sampled { trace, parent: parent.map(|(_, span, _)| span) })
    }

    /// By the last 63 bits of the id, so that all programs that see a trace decide alike.
    fn takes(self, trace: TraceId) -> bool {
        let low = trace.0.iter().skip(8).fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
        self.ratio >= 1.0 || ((low >> 1) as f64) < self.ratio * (1_u64 << 63) as f64
    }
}

/// Trace, span and whether it is sampled, of a header of a version that is known or later (section 3.2.4 of Trace Context).
fn parent(header: &[u8]) -> Option<(TraceId, SpanId, bool)> {
    let mut parts = header.split(|byte| *byte == b'-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |part: &[u8]| -> Option<u8> {
        let is_hex = part.len() == 2 && part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_hex.then(|| u8::from_str_radix(std::str::from_utf8(part).ok()?, 16).ok())?
    };
    let (version, flags) = (hex(version)?, hex(flags)?);
    if version == 0xff || version == 0 && parts.next().is_some() {
        return None;
    }
    Some((TraceId(parse(trace)?), SpanId(parse(span)?), flags & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const NOT_SAMPLED: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    #[test]
    fn a_client_s_trace_is_taken_when_it_is_sane() {
        let always = Sampler { follows_parent: true, ratio: 1.0 };
        let sampled = always.sample(Some(SENT)).unwrap();
        assert_eq!(sampled.trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(sampled.parent.map(|span| span.to_string()).as_deref(), Some("b7ad6b7169203331"));
        let later = [b"cc".as_slice(), &SENT[2..], b"-more"].concat();
        assert_eq!(always.sample(Some(&later)), Some(sampled));
        for wrong in [
            &b""[..],
            b"00",
            b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            b"00-00000000000000000000000000000000-b7ad6b7169203331-01",
            b"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            b"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            b"00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x",
        ] {
            let text = String::from_utf8_lossy(wrong);
            let other = always.sample(Some(wrong)).unwrap();
            assert!(other.parent.is_none() && other.trace != sampled.trace, "{text}");
        }
    }

    #[test]
    fn the_parent_decides_only_where_the_sampler_says_so() {
        let of = |follows_parent, ratio, header| Sampler { follows_parent, ratio }.sample(header).is_some();
        assert!(of(true, 0.0, Some(SENT)) && !of(true, 1.0, Some(NOT_SAMPLED)));
        assert!(!of(false, 0.0, Some(SENT)) && of(false, 1.0, Some(NOT_SAMPLED)));
        assert!(!of(true, 0.0, None) && of(true, 1.0, None));
        let one_percent = (0..100_000).filter(|_| of(true, 0.01, None)).count();
        assert!((500..1500).contains(&one_percent), "{one_percent} of 100,000");
    }
}
