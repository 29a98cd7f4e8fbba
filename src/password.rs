//! Is this the password? For everybody who asks: registry clients and people on the admin listener.

use argon2::{Argon2, PasswordHash, PasswordVerifier as _};

/// Whether `hash` was made of this password: Argon2 as `weir hash-password` makes it, or bcrypt out of an htpasswd file. Takes tens of
/// milliseconds of a core, and 19 MiB with Argon2's defaults: to be called where waiting harms nobody, and by few at once.
pub(crate) fn matches(password: &str, hash: &str) -> bool {
    if hash.starts_with("$2") {
        return bcrypt::verify(password, hash).unwrap_or(false);
    }
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_of_its_hash_and_of_no_other() {
        let hash = bcrypt::hash("hunter2", 4).unwrap();
        assert!(matches("hunter2", &hash) && !matches("hunter3", &hash));
        for broken in ["", "$2y$", "$argon2id$", "hunter2"] {
            assert!(!matches("hunter2", broken), "{broken}");
        }
    }
}
