//! Content codings (RFC 9110 section 8.4.1), which nobody asked for.

use reqwest::{Response, header::CONTENT_ENCODING};

use super::error::Error;

/// A body that was compressed on the way has not the bytes that the digest names.
pub(super) fn refuse(response: &Response) -> Result<(), Error> {
    match response.headers().get(CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            Err(Error::Malformed("a compressed reply, which was not asked for".into()))
        }
        _ => Ok(()),
    }
}
