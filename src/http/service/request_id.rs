//! The id of a request, by which a client, a proxy and the log speak of it.

use std::cell::Cell;

use actix_http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::random;

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The longest id that is taken over, in bytes.
const MAX_BYTES: usize = 128;

/// `X-Request-Id`, or the trace id of `traceparent` (W3C Trace Context, section 3.2), when they are sane; else a new one.
pub(crate) fn of(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(X_REQUEST_ID).filter(|id| is_sane(id.as_bytes())).cloned();
    let given = given.or_else(|| HeaderValue::from_bytes(trace_id(headers.get(TRACEPARENT)?.as_bytes())?).ok());
    given.unwrap_or_else(new)
}

/// A new one, of 16 hexadecimal digits. It is no secret and may be guessed.
pub(crate) fn new() -> HeaderValue {
    thread_local!(static NEXT: Cell<u64> = Cell::new(random::number()));
    // SplitMix64: one addition, and bits that look like no counter.
    let state = NEXT.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    NEXT.set(state);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let mixed = mixed ^ (mixed >> 31);
    let digits: [u8; 16] = std::array::from_fn(|at| b"0123456789abcdef"[(mixed >> (at * 4)) as usize & 15]);
    HeaderValue::from_bytes(&digits).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

fn is_sane(id: &[u8]) -> bool {
    let is_fine = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte);
    (1..=MAX_BYTES).contains(&id.len()) && id.iter().all(is_fine)
}

fn trace_id(traceparent: &[u8]) -> Option<&[u8]> {
    let mut parts = traceparent.split(|byte| *byte == b'-');
    let (version, id, parent) = (parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let lengths = [(version, 2), (id, 32), (parent, 16)].iter().all(|(part, length)| part.len() == *length);
    (lengths && is_hex(version) && is_hex(id) && is_hex(parent) && id.iter().any(|byte| *byte != b'0')).then_some(id)
}
