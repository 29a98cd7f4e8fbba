//! Passwords and their hashes: Argon2 in PHC form, as `weir hash-password` makes them, or bcrypt out of an htpasswd file.

use std::sync::Arc;

use argon2::{
    Algorithm, Argon2, Block, Params, PasswordHasher as _, Version,
    password_hash::{self, Output, PasswordHash, Salt, SaltString},
};
use tokio::sync::Mutex;

use crate::random;

/// Argon2id with the parameters that OWASP recommends (19 MiB, 2 passes), which are the crate's defaults.
pub(crate) fn hash(password: &str) -> Result<String, password_hash::Error> {
    let salt = SaltString::encode_b64(&random::bytes::<16>())?;
    Ok(Argon2::default().hash_password(password.as_bytes(), &salt)?.to_string())
}

/// Compares passwords with hashes, one at a time, for each takes tens of milliseconds of a core and the memory that its hash names, 19 MiB by
/// default. The memory is kept and used again: freed and taken anew on whichever thread, it would stay with the allocator once for each of
/// the allocator's arenas.
#[derive(Default)]
pub(super) struct PasswordVerifier(Arc<Mutex<Vec<Block>>>);

impl PasswordVerifier {
    /// Whether `hash` was made of this password. Waits until those before it are compared; when the caller leaves, the work goes on.
    pub(super) async fn matches(&self, password: String, hash: Arc<str>) -> bool {
        let mut memory = self.0.clone().lock_owned().await;
        tokio::task::spawn_blocking(move || matches(&password, &hash, &mut memory)).await.unwrap_or(false)
    }
}

fn matches(password: &str, hash: &str, memory: &mut Vec<Block>) -> bool {
    if hash.starts_with("$2") {
        return bcrypt::verify(password, hash).unwrap_or(false);
    }
    PasswordHash::new(hash).is_ok_and(|hash| argon2_matches(password, &hash, memory).is_ok_and(|is_match| is_match))
}

fn argon2_matches(password: &str, hash: &PasswordHash<'_>, memory: &mut Vec<Block>) -> password_hash::Result<bool> {
    let (Some(salt), Some(expected)) = (hash.salt, hash.hash) else { return Ok(false) };
    let version = hash.version.map_or(Ok(Version::default()), Version::try_from)?;
    let argon2 = Argon2::new(Algorithm::try_from(hash.algorithm)?, version, Params::try_from(hash)?);
    let mut salt_bytes = [0; Salt::MAX_LENGTH];
    let salt = salt.decode_b64(&mut salt_bytes)?;
    let blocks = argon2.params().block_count();
    if memory.len() < blocks {
        // As long as it must be and no longer: a vector that grows doubles.
        memory.reserve_exact(blocks - memory.len());
        memory.resize(blocks, Block::default());
    }
    let computed = Output::init_with(expected.len(), |output| {
        Ok(argon2.hash_password_into_with_memory(password.as_bytes(), salt, output, &mut memory[..blocks])?)
    })?;
    // Takes as long for any two outputs of one length.
    Ok(computed == expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_of_its_hash_and_of_no_other() {
        let mut memory = Vec::new();
        for hash in [bcrypt::hash("hunter2", 4).unwrap(), hash("hunter2").unwrap()] {
            assert!(matches("hunter2", &hash, &mut memory), "{hash}");
            assert!(!matches("hunter3", &hash, &mut memory), "{hash}");
        }
        for broken in ["", "$2y$", "$argon2id$", "hunter2", "$argon2id$v=19$m=16,t=2,p=1$c29tZXNhbHQ"] {
            assert!(!matches("hunter2", broken, &mut memory), "{broken}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_passwords_at_once_take_the_memory_of_one() {
        let verifier = Arc::new(PasswordVerifier::default());
        let hash: Arc<str> = hash("hunter2").unwrap().into();
        let checks = (0..40).map(|_| {
            let (verifier, hash) = (verifier.clone(), hash.clone());
            tokio::spawn(async move { verifier.matches("hunter3".to_owned(), hash).await })
        });
        for check in checks.collect::<Vec<_>>() {
            assert!(!check.await.unwrap());
        }
        assert_eq!(verifier.0.lock().await.capacity(), Params::DEFAULT_M_COST as usize);
    }
}
