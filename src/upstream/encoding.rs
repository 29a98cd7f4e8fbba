//! Content codings (RFC 9110 section 8.4.1), which Weir never asks for and some registries name all the same.

use std::io::Read as _;

use bytes::Bytes;
use reqwest::{
    Response,
    header::{CONTENT_ENCODING, HeaderMap},
};

use super::error::Error;

/// A listing has no digest that would tell whether a coding encodes anything.
pub(super) fn refuse(response: &Response) -> Result<(), Error> {
    match coding(response.headers()) {
        Some(_) => Err(Error::Malformed("a compressed answer, which was not asked for".into())),
        None => Ok(()),
    }
}

/// What a body may stand for: the bytes as they came, for codings that encode nothing, and what they decode to. The digest decides.
pub(super) fn readings(headers: &HeaderMap, bytes: Bytes, longest: usize) -> Vec<Bytes> {
    let decoded = match coding(headers).as_deref() {
        Some("gzip" | "x-gzip") => read(flate2::read::MultiGzDecoder::new(&bytes[..]), longest),
        Some("deflate") => read(flate2::read::ZlibDecoder::new(&bytes[..]), longest),
        _ => None,
    };
    std::iter::once(bytes.clone()).chain(decoded).collect()
}

fn coding(headers: &HeaderMap) -> Option<String> {
    let coding = headers.get(CONTENT_ENCODING)?.to_str().ok()?.trim().to_ascii_lowercase();
    (!coding.is_empty() && coding != "identity").then_some(coding)
}

/// `None` for what cannot be decoded or is longer than it may be.
fn read(decoder: impl std::io::Read, longest: usize) -> Option<Bytes> {
    let mut decoded = Vec::new();
    decoder.take(longest as u64 + 1).read_to_end(&mut decoded).ok()?;
    (decoded.len() <= longest).then(|| decoded.into())
}
