//! `weir hash-password`: a password from standard input becomes the `password_hash` of an `[[account]]`.

use std::io::IsTerminal;

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, SaltString, rand_core::OsRng},
};
use rustix::termios::{self, LocalModes, OptionalActions, Termios};

use super::say;

pub(super) fn run() -> Result<(), String> {
    let stdin = std::io::stdin();
    let quiet = stdin.is_terminal().then(Quiet::start).flatten();
    if quiet.is_some() {
        eprint!("password: ");
    }
    let mut line = String::new();
    stdin.read_line(&mut line).map_err(|error| format!("standard input: {error}"))?;
    if quiet.is_some() {
        eprintln!();
    }
    drop(quiet);
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(
            "the password is empty; type one, or pipe it: printf %s \"$PASSWORD\" | weir hash-password".to_owned()
        );
    }
    say(&(hash(password)? + "\n"))
}

/// Argon2id with the parameters of OWASP's recommendation (19 MiB, 2 passes), which are the crate's defaults.
fn hash(password: &str) -> Result<String, String> {
    let salt = SaltString::generate(&mut OsRng);
    let hash = Argon2::default().hash_password(password.as_bytes(), &salt);
    hash.map(|hash| hash.to_string()).map_err(|error| error.to_string())
}

/// A terminal that does not echo, until this is dropped.
struct Quiet(Termios);

impl Quiet {
    fn start() -> Option<Quiet> {
        let before = termios::tcgetattr(std::io::stdin()).ok()?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &silent).ok()?;
        Some(Quiet(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use argon2::password_hash::{PasswordHash, PasswordVerifier};

    use super::*;

    #[test]
    fn a_hash_verifies_its_password_and_no_other() {
        let text = hash("hunter2").unwrap();
        let hash = PasswordHash::new(&text).unwrap();
        assert!(Argon2::default().verify_password(b"hunter2", &hash).is_ok());
        assert!(Argon2::default().verify_password(b"hunter3", &hash).is_err());
        assert!(text.starts_with("$argon2id$"));
    }
}
