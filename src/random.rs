//! Random numbers for the whole program, from the operating system.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use rustix::rand::{GetRandomFlags, getrandom};

/// So many random bytes that cannot be guessed: for keys, salts and session identifiers.
///
/// # Panics
/// When the kernel has no `getrandom(2)`. The keys that are made at the start find that out before anything is served.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            #[cfg_attr(not(any(test, fuzzing)), expect(clippy::panic, reason = "nothing may be served without"))]
            Err(error) => panic!("getrandom(2): {error}"),
        }
    }
    bytes
}

/// A random number over the whole range.
pub fn number() -> u64 {
    u64::from_le_bytes(bytes())
}

/// 256 random bits as 43 characters that a URL, a header and a cookie can carry.
pub fn token() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes::<32>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_tokens_are_alike_and_every_byte_is_filled() {
        assert_ne!(token(), token());
        assert_eq!(token().len(), 43);
        let seen = (0..64).fold([0_u8; 32], |seen, _| std::array::from_fn(|index| seen[index] | bytes::<32>()[index]));
        assert!(seen.iter().all(|byte| *byte != 0), "{seen:?}");
    }
}
