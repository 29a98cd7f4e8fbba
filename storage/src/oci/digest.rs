//! Content digests: `sha256:<64 hex>` and `sha512:<128 hex>`, nothing else.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

use super::{Invalid, Tag};

/// The hash functions a digest may name. Others (md5, sha1) are refused: a mirror that cannot verify must not serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, the registered default.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// The name before the colon.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// How many bytes the hash has.
    pub fn length(self) -> usize {
        match self {
            Algorithm::Sha256 => 32,
            Algorithm::Sha512 => 64,
        }
    }

    /// The digest of `bytes`.
    pub fn digest(self, bytes: &[u8]) -> Digest {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finish()
    }

    /// A hasher for content that arrives in pieces.
    pub fn hasher(self) -> Hasher {
        match self {
            Algorithm::Sha256 => Hasher::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(Box::new(sha2::Sha512::new())),
        }
    }
}

/// The name of some content: its algorithm and its hash.
///
/// The private bytes are the point: a `Digest` can be put into a path because nothing but hexadecimal can come out.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    // sha256 leaves the upper half zero, so equality and hashing need no special case.
    bytes: [u8; 64],
}

impl Digest {
    /// The hash function that made it.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hash in lower-case hexadecimal, without the algorithm.
    pub fn hex(&self) -> String {
        let mut hex = String::with_capacity(self.algorithm.length() * 2);
        for byte in &self.bytes[..self.algorithm.length()] {
            for nibble in [byte >> 4, byte & 15] {
                hex.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
        hex
    }

    /// The tag under which clients keep referrers at registries without the API: the algorithm cut to 32 characters, a dash,
    /// the hash cut to 64 (distribution-spec, "Referrers tag schema").
    pub fn fallback_tag(&self) -> Option<Tag> {
        let hex = self.hex();
        format!("{}-{}", self.algorithm.as_str(), hex.get(..64)?).parse().ok()
    }

    fn from_hash(algorithm: Algorithm, hash: &[u8]) -> Digest {
        let mut bytes = [0; 64];
        bytes[..hash.len()].copy_from_slice(hash);
        Digest { algorithm, bytes }
    }
}

impl FromStr for Digest {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Digest, Invalid> {
        let (algorithm, hex) = text.split_once(':').ok_or(Invalid::Digest("it has the form algorithm:hex"))?;
        let algorithm = match algorithm {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(Invalid::Digest("the algorithms served are sha256 and sha512")),
        };
        if hex.len() != algorithm.length() * 2 {
            return Err(Invalid::Digest("the hash has the wrong length for its algorithm"));
        }
        let mut bytes = [0; 64];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Digest { algorithm, bytes })
    }
}

fn nibble(character: u8) -> Result<u8, Invalid> {
    match character {
        b'0'..=b'9' => Ok(character - b'0'),
        b'a'..=b'f' => Ok(character - b'a' + 10),
        _ => Err(Invalid::Digest("the hash is lower-case hexadecimal")),
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Hashes content in the order it arrives.
#[derive(Clone, Debug)]
pub enum Hasher {
    /// In progress, SHA-256.
    Sha256(sha2::Sha256),
    /// In progress, SHA-512.
    Sha512(Box<sha2::Sha512>),
}

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all bytes taken.
    pub fn finish(self) -> Digest {
        match self {
            Hasher::Sha256(hasher) => Digest::from_hash(Algorithm::Sha256, &hasher.finalize()),
            Hasher::Sha512(hasher) => Digest::from_hash(Algorithm::Sha512, &hasher.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_prints_as_it_was_read() {
        assert_eq!(EMPTY.parse::<Digest>().unwrap().to_string(), EMPTY);
        assert_eq!(Algorithm::Sha256.digest(b"").to_string(), EMPTY);
        let long = Algorithm::Sha512.digest(b"weir");
        assert_eq!(long.to_string().parse::<Digest>().unwrap(), long);
    }

    #[test]
    fn what_is_not_a_served_digest_is_refused() {
        let upper = EMPTY.to_uppercase().replace("SHA256", "sha256");
        for bad in [
            "",
            "sha256",
            "sha256:",
            "sha256:../../x",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            "SHA256:e3b0",
            &upper,
            &EMPTY[..70],
            &format!("{EMPTY}0"),
            &format!("{EMPTY}/.."),
            &EMPTY.replace("sha256", "sha512"),
            "sha256:éééééééééééééééééééééééééééééééé",
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
