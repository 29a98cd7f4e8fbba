//! Where the body of a request ends (RFC 9112, section 6). Pure.
//!
//! The connection hands up a body that a handler takes, and nothing behind it: the next request waits until this one is answered.
//! actix-http decodes the body; this only finds its end, in the same way. What is malformed has no end, and actix-http
//! closes the connection over it.

use actix_http::{
    RequestHead,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};

/// How far a body has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// So many bytes are to come.
    Length(u64),
    /// Chunks are to come.
    Chunked(Chunk),
}

/// What comes next in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// Digits of a chunk's size.
    Size(u64),
    /// What follows the size up to the end of its line.
    Extension(u64),
    /// Bytes of a chunk.
    Data(u64),
    /// The end of the line behind them.
    DataEnd,
    /// The empty line behind the last chunk, or trailers before it; `true` at the beginning of a line.
    Trailer(bool),
    /// Nothing.
    End,
    /// Something malformed.
    Broken,
}

impl BodyLength {
    /// How the body of this request is framed; `None` when it has none.
    pub(crate) fn of(head: &RequestHead) -> Option<BodyLength> {
        // actix-http has refused every other encoding.
        if head.headers().contains_key(TRANSFER_ENCODING) {
            return Some(BodyLength::Chunked(Chunk::Size(0)));
        }
        let length = head.headers().get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()?;
        (length > 0).then_some(BodyLength::Length(length))
    }

    /// Whether the end was seen.
    pub(crate) fn is_over(self) -> bool {
        matches!(self, BodyLength::Length(0) | BodyLength::Chunked(Chunk::End))
    }

    /// Takes the next bytes; how many of them belong to the body.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> usize {
        match self {
            BodyLength::Length(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= count as u64;
                count
            }
            BodyLength::Chunked(state) => chunked(state, bytes),
        }
    }
}

fn chunked(state: &mut Chunk, bytes: &[u8]) -> usize {
    let mut at = 0;
    while at < bytes.len() && *state != Chunk::End {
        let byte = bytes[at];
        *state = match *state {
            Chunk::Data(left) => {
                let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                at += count;
                *state = match left - count as u64 {
                    0 => Chunk::DataEnd,
                    left => Chunk::Data(left),
                };
                continue;
            }
            Chunk::Size(size) | Chunk::Extension(size) if byte == b'\n' => match size {
                0 => Chunk::Trailer(true),
                size => Chunk::Data(size),
            },
            Chunk::Size(size) => match char::from(byte).to_digit(16) {
                Some(digit) => size
                    .checked_mul(16)
                    .and_then(|size| size.checked_add(u64::from(digit)))
                    .map_or(Chunk::Broken, Chunk::Size),
                None => Chunk::Extension(size),
            },
            Chunk::Extension(size) => Chunk::Extension(size),
            Chunk::DataEnd if byte == b'\n' => Chunk::Size(0),
            Chunk::DataEnd if byte == b'\r' => Chunk::DataEnd,
            Chunk::DataEnd => Chunk::Broken,
            Chunk::Trailer(true) if byte == b'\n' => Chunk::End,
            Chunk::Trailer(true) if byte == b'\r' => Chunk::Trailer(true),
            Chunk::Trailer(_) => Chunk::Trailer(byte == b'\n'),
            Chunk::End => Chunk::End,
            Chunk::Broken => Chunk::Broken,
        };
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_body_of_a_length_ends_there() {
        let mut framing = BodyLength::Length(5);
        assert_eq!(framing.feed(b"abc"), 3);
        assert_eq!(framing.feed(b"deGET /"), 2);
        assert!(framing.is_over());
        assert_eq!(framing.feed(b"GET"), 0);
    }

    proptest! {
        #[test]
        fn a_chunked_body_ends_where_its_last_line_does(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..5),
            extension in "(;[a-z]{1,5}(=[a-z]{1,3})?)?",
            behind in proptest::collection::vec(any::<u8>(), 0..20),
            cut in 0usize..400,
        ) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend(format!("{:X}{extension}\r\n", chunk.len()).bytes());
                body.extend(chunk);
                body.extend(b"\r\n");
            }
            body.extend(b"0\r\n\r\n");
            let all = [body.as_slice(), &behind].concat();
            let cut = cut.min(all.len());
            let mut framing = BodyLength::Chunked(Chunk::Size(0));
            let mut taken = framing.feed(&all[..cut]);
            if taken == cut {
                taken += framing.feed(&all[cut..]);
            }
            prop_assert_eq!(taken, body.len());
            prop_assert!(framing.is_over());
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut framing = BodyLength::Chunked(Chunk::Size(0));
            prop_assert!(framing.feed(&bytes) <= bytes.len());
        }
    }
}
