//! Words that no other process uses.

use std::time::SystemTime;

use ring::rand::{SecureRandom as _, SystemRandom};
use weir_storage::oci::Algorithm;

/// 32 hexadecimal digits.
pub(crate) fn unique() -> String {
    let mut random = [0; 16];
    // Where there is no randomness, time and process tell words apart.
    let _ = SystemRandom::new().fill(&mut random);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let text = format!("{random:?} {now:?} {}", std::process::id());
    Algorithm::Sha256.digest(text.as_bytes()).hex()[..32].to_owned()
}
