//! The tar inside of a layer, by what its first bytes say it is compressed with: media types lie, and engines look at the bytes too.

use std::io::{self, BufReader, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

use super::problem::Problem;

/// The largest window of Zstandard that is read, in bytes: what the levels up to 19 write has 8 MiB. Its decoder takes three times as much.
const MOST_WINDOW: u64 = 16 << 20;
/// Read at once.
const PIECE: usize = 128 << 10;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTANDARD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// `0x184D2A50` to `5F`, little-endian (RFC 8878 section 3.1.2), with which seekable and chunked layers begin.
const SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// The bytes of a layer, the first of which were read already.
type Input<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// Reads the tar of a layer.
pub(super) enum Tar<R: Read> {
    Plain(Input<R>),
    Gzip(Box<MultiGzDecoder<Input<R>>>),
    Zstandard(Frames<Input<R>>),
}

/// Begins to read a layer.
pub(super) fn unpack<R: Read>(mut input: R) -> Result<Tar<R>, Problem> {
    let mut magic = Vec::new();
    input.by_ref().take(4).read_to_end(&mut magic).map_err(|error| Problem::of(&error))?;
    let is_zstandard = magic == ZSTANDARD || (magic.ends_with(&SKIPPABLE) && magic[0] & 0xf0 == 0x50);
    let is_gzip = magic.starts_with(&GZIP);
    let input = BufReader::with_capacity(PIECE, Cursor::new(magic).chain(input));
    Ok(if is_gzip {
        Tar::Gzip(Box::new(MultiGzDecoder::new(input)))
    } else if is_zstandard {
        Tar::Zstandard(Frames::new(input))
    } else {
        Tar::Plain(input)
    })
}

impl<R: Read> Read for Tar<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Tar::Plain(input) => input.read(buffer),
            Tar::Gzip(input) => input.read(buffer),
            Tar::Zstandard(input) => input.read(buffer),
        }
    }
}

/// One frame of Zstandard behind the other, as seekable layers are made of many.
pub(super) struct Frames<R> {
    input: R,
    decoder: Box<FrameDecoder>,
    is_within: bool,
}

impl<R: io::BufRead> Frames<R> {
    fn new(input: R) -> Frames<R> {
        let mut decoder = Box::new(FrameDecoder::new());
        decoder.set_max_window_size(MOST_WINDOW);
        Frames { input, decoder, is_within: false }
    }

    /// Begins the next frame; `false` when there is none.
    fn begin(&mut self) -> io::Result<bool> {
        loop {
            if self.input.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.input) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let length = u64::from(length);
                    if io::copy(&mut self.input.by_ref().take(length), &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(FrameDecoderError::WindowSizeTooBig { .. }) => return Err(io::Error::other(Problem::Window)),
                Err(error) => return Err(ends_early(io::Error::other(error))),
            }
        }
    }
}

impl<R: io::BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() {
            if !self.is_within && !self.begin()? {
                break;
            }
            self.is_within = true;
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let block = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder
                    .decode_blocks(&mut self.input, block)
                    .map_err(|error| ends_early(io::Error::other(error)))?;
            }
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            self.is_within = false;
        }
        Ok(0)
    }
}

/// The decoder hides in its errors that the input ended.
fn ends_early(error: io::Error) -> io::Error {
    let mut source: Option<&(dyn std::error::Error + 'static)> = error.get_ref().map(|error| error as _);
    while let Some(inner) = source {
        if inner.downcast_ref::<io::Error>().is_some_and(|inner| inner.kind() == io::ErrorKind::UnexpectedEof) {
            return io::ErrorKind::UnexpectedEof.into();
        }
        source = inner.source();
    }
    io::Error::other(Problem::Damaged)
}
