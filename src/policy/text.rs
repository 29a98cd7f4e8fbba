//! Whether bytes are text, which no container engine can unpack into programs.

/// How bzip2 begins, which is text itself.
const BZIP2: &[u8] = b"BZh";

/// Looks at bytes that come in pieces. Text is UTF-8 without control characters: a program has some, and so has what compresses one.
#[derive(Debug, Default)]
pub struct Text {
    /// The first bytes.
    begin: Vec<u8>,
    /// The beginning of a character that the next piece ends.
    rest: Vec<u8>,
}

impl Text {
    /// Whether it is text up to the end of this piece.
    pub fn goes_on(&mut self, piece: &[u8]) -> bool {
        let missing = BZIP2.len() - self.begin.len();
        self.begin.extend_from_slice(&piece[..missing.min(piece.len())]);
        if self.begin == BZIP2 {
            return false;
        }
        let joined = [&*self.rest, piece].concat();
        let end = match std::str::from_utf8(&joined) {
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => return false,
        };
        let (text, rest) = joined.split_at(end);
        self.rest = rest.to_vec();
        text.iter().all(|byte| *byte >= b' ' || matches!(byte, b'\t' | b'\n' | b'\r'))
    }

    /// Whether it ended with a whole character.
    pub fn is_whole(&self) -> bool {
        self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_text(bytes: &[u8], piece: usize) -> bool {
        let mut text = Text::default();
        bytes.chunks(piece).all(|piece| text.goes_on(piece)) && text.is_whole()
    }

    #[test]
    fn what_engines_unpack_is_no_text_however_it_arrives() {
        for piece in [1, 2, 1000] {
            for text in ["", "{\"a\": \"é€😀\"}\r\n", "SPDXVersion: SPDX-2.3\n\t", "BZ"] {
                assert!(is_text(text.as_bytes(), piece), "{text} {piece}");
            }
            for bytes in
                [&b"\x1f\x8b\x08"[..], b"\x28\xb5\x2f\xfd", b"BZh91AY&SY", b"\xfd7zXZ", b"a file\0\0\0", b"{}\xc3"]
            {
                assert!(!is_text(bytes, piece), "{bytes:?} {piece}");
            }
        }
    }
}
