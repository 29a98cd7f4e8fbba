//! `weir hash-password`: a password from standard input becomes the `password_hash` of an `[[account]]`.

use std::io::IsTerminal;

use rustix::termios::{self, LocalModes, OptionalActions, Termios};

use super::say;
use crate::identity::password;

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
    say(&(password::hash(password).map_err(|error| error.to_string())? + "\n"))
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
