//! Content codings (RFC 9110 section 8.4.1), which Weir never asks for and some registries name all the same.

use std::io::{self, Read as _, Write as _};

use bytes::{Buf as _, Bytes};
use flate2::write::{MultiGzDecoder, ZlibDecoder};
use reqwest::{
    Response,
    header::{CONTENT_ENCODING, HeaderMap},
};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder, StreamingDecoder};

use super::error::Error;

/// A listing has no digest that would tell whether a coding encodes anything.
pub(super) fn refuse(response: &Response) -> Result<(), Error> {
    match coding(response.headers()) {
        Some(_) => Err(Error::Malformed("a compressed answer, which was not asked for".into())),
        None => Ok(()),
    }
}

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
}

impl Decoder {
    /// For a body of this coding that decodes to `size` bytes; `None` when it encodes nothing that is known.
    pub(super) fn new(headers: &HeaderMap, size: u64) -> Option<Decoder> {
        let coding = match coding(headers)?.as_str() {
            "gzip" | "x-gzip" => Coding::Gzip(MultiGzDecoder::new(Vec::new())),
            "deflate" => Coding::Deflate(ZlibDecoder::new(Vec::new())),
            "zstd" => Coding::Zstandard(Box::new(Frame::new())),
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
        while !self.input.is_empty() {
            let step = &self.input[..self.input.len().min(self.coding.step())];
            let taken = step.len();
            let decoded = self.coding.decode(step);
            self.input.advance(taken);
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
    /// What is given to the decoder at once, in bytes: it decodes to a few MiB at most.
    fn step(&self) -> usize {
        match self {
            // A byte decodes to a thousand at most.
            Coding::Gzip(_) | Coding::Deflate(_) => 4096,
            // Four bytes decode to a block of 128 KiB at most.
            Coding::Zstandard(_) => 64,
        }
    }

    fn decode(&mut self, input: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Coding::Gzip(decoder) => {
                decoder.write_all(input)?;
                decoder.flush()?;
                Ok(std::mem::take(decoder.get_mut()))
            }
            Coding::Deflate(decoder) => {
                decoder.write_all(input)?;
                decoder.flush()?;
                Ok(std::mem::take(decoder.get_mut()))
            }
            Coding::Zstandard(frame) => frame.decode(input),
        }
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
        _ => None,
    };
    std::iter::once(bytes.clone()).chain(decoded).collect()
}

/// The coding that a body is said to have.
pub(super) fn coding(headers: &HeaderMap) -> Option<String> {
    let coding = headers.get(CONTENT_ENCODING)?.to_str().ok()?.trim().to_ascii_lowercase();
    (!coding.is_empty() && coding != "identity").then_some(coding)
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
