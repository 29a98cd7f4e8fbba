//! Content codings (RFC 9110 section 8.4.1), which Weir never asks for and some registries name all the same.

use std::io::{self, Read as _, Write as _};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use bytes::{Buf as _, Bytes};
use flate2::write::{MultiGzDecoder, ZlibDecoder};
use reqwest::header::{CONTENT_ENCODING, HeaderMap};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder, StreamingDecoder};

use super::error::Error;

/// The window of a frame of Zstandard that is sent over HTTP, at most (RFC 9659).
const WINDOW: u64 = 8 << 20;

/// Decodes a body while it arrives.
#[derive(Debug)]
pub(super) struct Decoder {
    input: Bytes,
    coding: Coding,
    /// Bytes that may still come out.
    left: u64,
}

#[derive(Debug)]
enum Coding {
    Gzip(MultiGzDecoder<Vec<u8>>),
    Deflate(ZlibDecoder<Vec<u8>>),
    Zstandard(Box<Frame>),
    Brotli(Box<Stream>),
}

impl Decoder {
    /// For a body of this coding that decodes to `size` bytes; `None` when it encodes nothing that is known.
    pub(super) fn new(headers: &HeaderMap, size: u64) -> Option<Decoder> {
        let coding = match coding(headers)?.as_str() {
            "gzip" | "x-gzip" => Coding::Gzip(MultiGzDecoder::new(Vec::new())),
            "deflate" => Coding::Deflate(ZlibDecoder::new(Vec::new())),
            "zstd" => Coding::Zstandard(Box::new(Frame::new())),
            "br" => Coding::Brotli(Box::new(Stream::new())),
            _ => return None,
        };
        Some(Decoder { input: Bytes::new(), coding, left: size })
    }

    /// More of the body; what came before must be decoded.
    pub(super) fn give(&mut self, input: Bytes) {
        self.input = input;
    }

    /// Some of what the input decodes to, at most a few MiB; `None` when more input is wanted.
    ///
    /// # Errors
    /// [`Error::Malformed`] for what cannot be decoded, or decodes to more than was said.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while !self.input.is_empty() || self.coding.has_more() {
            let decoded = self.coding.decode(&mut self.input);
            let decoded =
                decoded.map_err(|error| Error::Malformed(format!("a body that cannot be decoded: {error}").into()))?;
            let size = decoded.len() as u64;
            self.left =
                self.left.checked_sub(size).ok_or(Error::Malformed("a body that decodes to too much".into()))?;
            if size > 0 {
                return Ok(Some(decoded.into()));
            }
        }
        Ok(None)
    }
}

impl Coding {
    /// Takes some of the input; what it decodes to is a few MiB at most.
    fn decode(&mut self, input: &mut Bytes) -> io::Result<Vec<u8>> {
        // A byte of these decodes to a thousand at most; four bytes of Zstandard to a block of 128 KiB.
        let step = |input: &mut Bytes, most: usize| input.split_to(input.len().min(most));
        match self {
            Coding::Gzip(decoder) => {
                decoder.write_all(&step(input, 4096))?;
                decoder.flush()?;
                Ok(std::mem::take(decoder.get_mut()))
            }
            Coding::Deflate(decoder) => {
                decoder.write_all(&step(input, 4096))?;
                decoder.flush()?;
                Ok(std::mem::take(decoder.get_mut()))
            }
            Coding::Zstandard(frame) => frame.decode(&step(input, 64)),
            Coding::Brotli(stream) => {
                let (taken, decoded) = stream.decode(input)?;
                input.advance(taken);
                Ok(decoded)
            }
        }
    }

    /// Whether more comes out without more input.
    fn has_more(&self) -> bool {
        matches!(self, Coding::Brotli(stream) if stream.state == StreamState::Full)
    }
}

/// A stream of Brotli (RFC 7932). A few bytes decode to megabytes, so that its decoder stops whenever it gave a piece.
struct Stream {
    decoder: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    state: StreamState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StreamState {
    /// More input is wanted.
    Open,
    /// A piece was given, and the next one needs no input.
    Full,
    Ended,
}

impl Stream {
    /// What comes out at once, in bytes.
    const PIECE: usize = 64 << 10;

    /// Windows of up to 16 MiB, as RFC 7932 has them; the larger ones of the library are its own.
    fn new() -> Stream {
        let allocator = StandardAlloc::default;
        let decoder = BrotliState::new_strict(allocator(), allocator(), allocator());
        Stream { decoder, state: StreamState::Open }
    }

    /// How much of the input was taken, and what came out.
    fn decode(&mut self, input: &[u8]) -> io::Result<(usize, Vec<u8>)> {
        if self.state == StreamState::Ended {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more follows the stream"));
        }
        let mut decoded = vec![0; Self::PIECE];
        let (mut available, mut taken) = (input.len(), 0);
        let (mut room, mut given, mut total) = (decoded.len(), 0, 0);
        let result = BrotliDecompressStream(
            &mut available,
            &mut taken,
            input,
            &mut room,
            &mut given,
            &mut decoded,
            &mut total,
            &mut self.decoder,
        );
        self.state = match result {
            BrotliResult::NeedsMoreInput => StreamState::Open,
            BrotliResult::NeedsMoreOutput => StreamState::Full,
            BrotliResult::ResultSuccess => StreamState::Ended,
            BrotliResult::ResultFailure => return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no Brotli")),
        };
        decoded.truncate(given);
        Ok((taken, decoded))
    }

    /// All of a short stream; `None` for what cannot be decoded or is longer than it may be.
    fn read(mut self, mut input: &[u8], longest: usize) -> Option<Bytes> {
        let mut whole = Vec::new();
        while self.state == StreamState::Full || !input.is_empty() {
            let (taken, decoded) = self.decode(input).ok()?;
            input = &input[taken..];
            whole.extend_from_slice(&decoded);
            if whole.len() > longest {
                return None;
            }
        }
        (self.state == StreamState::Ended).then(|| whole.into())
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

/// One frame of Zstandard (RFC 8878 section 3.1.1), decoded block by block.
///
/// The library reads blocks from a source and cannot wait within one: so the input is kept until a block is complete.
struct Frame {
    decoder: FrameDecoder,
    /// What has arrived of the next block, or of the frame's header.
    input: Vec<u8>,
    /// The bytes that follow the last block; `None` until the frame's header is read.
    checksum: Option<usize>,
}

impl Frame {
    /// The longest header of a frame. A body that is decoded as it arrives is longer.
    const HEADER: usize = 18;

    fn new() -> Frame {
        Frame { decoder: frame_decoder(), input: Vec::new(), checksum: None }
    }

    fn decode(&mut self, input: &[u8]) -> io::Result<Vec<u8>> {
        self.input.extend_from_slice(input);
        if self.checksum.is_none() && self.input.len() >= Self::HEADER {
            // The descriptor follows the magic number.
            let checksum = if self.input[4] & 4 == 0 { 0 } else { 4 };
            self.read(|decoder, source| decoder.reset(source))?;
            self.checksum = Some(checksum);
        }
        let mut decoded = Vec::new();
        while let Some(checksum) = self.checksum
            && !self.decoder.is_finished()
            && block(&self.input, checksum).is_some_and(|length| length <= self.input.len())
        {
            self.read(|decoder, source| {
                decoder.decode_blocks(source, BlockDecodingStrategy::UptoBlocks(1)).map(|_| ())
            })?;
            decoded.append(&mut self.decoder.collect().unwrap_or_default());
        }
        if self.checksum.is_some() && self.decoder.is_finished() && !self.input.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more follows the frame"));
        }
        Ok(decoded)
    }

    /// Lets the decoder take from the input what it wants.
    fn read<E: std::error::Error + Send + Sync + 'static>(
        &mut self,
        read: impl FnOnce(&mut FrameDecoder, &mut &[u8]) -> Result<(), E>,
    ) -> io::Result<()> {
        let mut source = &self.input[..];
        read(&mut self.decoder, &mut source).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let taken = self.input.len() - source.len();
        self.input.drain(..taken);
        Ok(())
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frame").field("input", &self.input.len()).finish_non_exhaustive()
    }
}

/// The length of the block that begins here, with its header and what follows the last one (RFC 8878 section 3.1.1.2).
fn block(input: &[u8], checksum: usize) -> Option<usize> {
    let header = input.first_chunk::<3>()?;
    let header = u32::from_le_bytes([header[0], header[1], header[2], 0]);
    // A block of type 1 is one byte that is repeated.
    let content = if (header >> 1) & 3 == 1 { 1 } else { (header >> 3) as usize };
    Some(3 + content + if header & 1 == 1 { checksum } else { 0 })
}

/// What a body may stand for: the bytes as they came, for codings that encode nothing, and what they decode to. The digest decides.
pub(super) fn readings(headers: &HeaderMap, bytes: Bytes, longest: usize) -> Vec<Bytes> {
    let decoded = match coding(headers).as_deref() {
        Some("gzip" | "x-gzip") => read(flate2::read::MultiGzDecoder::new(&bytes[..]), longest),
        Some("deflate") => read(flate2::read::ZlibDecoder::new(&bytes[..]), longest),
        Some("zstd") => frame(&bytes).and_then(|decoder| read(decoder, longest)),
        Some("br") => Stream::new().read(&bytes, longest),
        _ => None,
    };
    std::iter::once(bytes.clone()).chain(decoded).collect()
}

/// The coding that a body is said to have. Of several, Weir knows no order that registries mean by it.
pub(super) fn coding(headers: &HeaderMap) -> Option<String> {
    let fields = headers.get_all(CONTENT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let codings = fields.flat_map(|field| field.split(',')).map(|coding| coding.trim().to_ascii_lowercase());
    let codings: Vec<String> = codings.filter(|coding| !coding.is_empty() && coding != "identity").collect();
    (!codings.is_empty()).then(|| codings.join(","))
}

fn frame(bytes: &[u8]) -> Option<impl io::Read> {
    StreamingDecoder::new_with_decoder(bytes, frame_decoder()).ok()
}

fn frame_decoder() -> FrameDecoder {
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(WINDOW);
    decoder
}

/// `None` for what cannot be decoded or is longer than it may be.
fn read(decoder: impl std::io::Read, longest: usize) -> Option<Bytes> {
    let mut decoded = Vec::new();
    decoder.take(longest as u64 + 1).read_to_end(&mut decoded).ok()?;
    (decoded.len() <= longest).then(|| decoded.into())
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    /// What a compressor makes of 64 MiB of zeros.
    const BOMB: &[u8] = b"\xcb\xff\xff\x3f\xf8\x27\x00\xe2\xb1\x40\x20\xf7\xfe\x8f\xff\xff\x7f\xf0\x4f\x00\xc4\x61\x11\x80\
        \xee\xfd\x1f\xff\xff\xff\xe0\x9f\x00\x88\xc3\x02\x00\xdd\xfb\x3f\xfe\xff\xff\xc1\x3f\x01\x10\x87\x05\x00\xba\xf7\x7f\
        \xfc\xff\xff\x83\x7f\x02\x20\x0e\x0b\x00\x74\xef\xff\xf8\xff\xff\x07\xff\x04\x40\x1c\x16\x00\xe8\xde\xff\xf1\xff\xff\
        \x0f\xfe\x09\x80\x38\x2c\x00\xd0\xbd\xff\xe3\xff\xff\x1f\xfc\x13\x00\x71\x58\x00\xa0\x7b\xff\x37";

    #[test]
    fn a_bomb_of_brotli_ends_at_its_cap_and_comes_in_small_pieces() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("br"));
        let bomb = Bytes::from_static(BOMB);
        assert_eq!(readings(&headers, bomb.clone(), 64 << 20).len(), 2);
        assert_eq!(readings(&headers, bomb.clone(), 1 << 20), std::slice::from_ref(&bomb));
        let mut decoder = Decoder::new(&headers, 1 << 20).unwrap();
        decoder.give(bomb);
        let mut size = 0;
        let ended = loop {
            match decoder.next() {
                Ok(Some(piece)) if piece.len() <= Stream::PIECE => size += piece.len(),
                ended => break ended,
            }
        };
        assert!(matches!(ended, Err(Error::Malformed(_))) && size == 1 << 20, "{size}: {ended:?}");
    }
}
