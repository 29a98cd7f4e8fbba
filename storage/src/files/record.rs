//! Small records in files: JSON under a line with a checksum, so that a torn one is known for what it is.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::Error;

/// The first word of every record; a later format says something else and is not read as this one.
const FORMAT: &str = "weir1";

/// A record as its bytes: `weir1 <crc32 of the JSON, 8 hex>\n<JSON>`.
///
/// # Errors
/// [`Error::Unusable`] for what JSON cannot hold.
pub fn seal(value: &impl Serialize) -> Result<Bytes, Error> {
    let unusable = |error| Error::Unusable(format!("cannot be a record: {error}"));
    let json = serde_json::to_vec(value).map_err(unusable)?;
    let mut bytes = format!("{FORMAT} {:08x}\n", crc32fast::hash(&json)).into_bytes();
    bytes.extend_from_slice(&json);
    Ok(bytes.into())
}

/// What was sealed, or `None` when the bytes are not what was written.
pub fn unseal<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let line = bytes.iter().position(|byte| *byte == b'\n')?;
    let (head, json) = (std::str::from_utf8(&bytes[..line]).ok()?, &bytes[line + 1..]);
    let (format, sum) = head.split_once(' ')?;
    let sound = format == FORMAT && u32::from_str_radix(sum, 16).ok()? == crc32fast::hash(json);
    if sound { serde_json::from_slice(json).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_lost_or_changed_a_byte_is_no_record() {
        let sealed = seal(&vec!["a", "b"]).unwrap();
        assert_eq!(unseal::<Vec<String>>(&sealed).unwrap(), ["a", "b"]);
        for at in 0..sealed.len() {
            assert!(unseal::<Vec<String>>(&sealed[..at]).is_none(), "cut at {at}");
            let mut flipped = sealed.to_vec();
            flipped[at] ^= 4;
            assert!(unseal::<Vec<String>>(&flipped).is_none(), "flipped at {at}");
        }
    }
}
