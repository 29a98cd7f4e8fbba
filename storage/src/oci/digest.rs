//! Content digests: `sha256:<64 hex>` and `sha512:<128 hex>`, nothing else.

use std::{fmt, str::FromStr};

use sha2::Digest as _;

use super::{Invalid, Tag, text::as_text};

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
pub struct Digest(Bytes);

/// There are millions in memory, nearly all of them sha256, so that the longer hash is the one behind a pointer.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Bytes {
    Sha256([u8; 32]),
    Sha512(Box<[u8; 64]>),
}

impl Digest {
    /// The hash function that made it.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Bytes::Sha256(_) => Algorithm::Sha256,
            Bytes::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The hash: 32 or 64 bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Sha256(bytes) => bytes,
            Bytes::Sha512(bytes) => &**bytes,
        }
    }

    /// The hash in lower-case hexadecimal, without the algorithm.
    pub fn hex(&self) -> String {
        let mut hex = String::with_capacity(self.bytes().len() * 2);
        for byte in self.bytes() {
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
        format!("{}-{}", self.algorithm().as_str(), hex.get(..64)?).parse().ok()
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
        Ok(Digest(match algorithm {
            Algorithm::Sha256 => Bytes::Sha256(hash(hex)?),
            Algorithm::Sha512 => Bytes::Sha512(Box::new(hash(hex)?)),
        }))
    }
}

fn hash<const LENGTH: usize>(hex: &str) -> Result<[u8; LENGTH], Invalid> {
    let mut bytes = [0; LENGTH];
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Ok(bytes)
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
        write!(f, "{}:{}", self.algorithm().as_str(), self.hex())
    }
}

as_text!(Digest);

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
            Hasher::Sha256(hasher) => Digest(Bytes::Sha256(hasher.finalize().into())),
            Hasher::Sha512(hasher) => Digest(Bytes::Sha512(Box::new(hasher.finalize().into()))),
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
    fn a_digest_takes_40_bytes_of_memory() {
        assert_eq!(size_of::<Digest>(), 40);
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
