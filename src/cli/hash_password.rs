//! `weir hash-password`: a password from standard input becomes the `password_hash` of an `[[account]]`.

use std::io::{BufRead, IsTerminal, Read as _};

use rustix::termios::{self, LocalModes, OptionalActions, Termios};

use super::say;
use crate::identity::{MAX_PASSWORD, password};

pub(super) fn run() -> Result<(), String> {
    let stdin = std::io::stdin();
    let quiet = stdin.is_terminal().then(Quiet::start).flatten();
    let password = match quiet {
        Some(quiet) => {
            let password = twice(&mut stdin.lock());
            drop(quiet);
            password?
        }
        None => read(&mut stdin.lock())?,
    };
    say(&(password::hash(&password).map_err(|error| error.to_string())? + "\n"))
}

/// A password that is typed without being shown, so that one wrong key would lock its owner out.
fn twice(input: &mut impl BufRead) -> Result<String, String> {
    let password = ask("password: ", input)?;
    if password != ask("the same again: ", input)? {
        return Err("the two are not the same; nothing was hashed".to_owned());
    }
    Ok(password)
}

/// Asks for a password and takes one line.
fn ask(prompt: &str, input: &mut impl BufRead) -> Result<String, String> {
    eprint!("{prompt}");
    let line = line(input);
    eprintln!();
    check(line?)
}

/// A password that is piped in: one line.
fn read(input: &mut impl BufRead) -> Result<String, String> {
    let password = check(line(input)?)?;
    match line(input)?.is_empty() {
        true => Ok(password),
        false => Err("a password is one line, and there is a second one; nothing was hashed".to_owned()),
    }
}

fn line(input: &mut impl BufRead) -> Result<String, String> {
    let mut line = String::new();
    let mut input = input.by_ref().take(2 * MAX_PASSWORD as u64);
    input.read_line(&mut line).map_err(|error| format!("standard input: {error}"))?;
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(line)
}

fn check(password: String) -> Result<String, String> {
    match password.len() {
        0 => {
            Err("the password is empty; type one, or pipe it: printf %s \"$PASSWORD\" | weir hash-password".to_owned())
        }
        1..=MAX_PASSWORD => Ok(password),
        _ => Err(format!("the password is longer than the {MAX_PASSWORD} bytes that a login may have")),
    }
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
    use super::*;

    #[test]
    fn a_typed_password_is_asked_for_twice() {
        let typed = |text: &str| twice(&mut text.as_bytes());
        assert_eq!(typed("hunter2\nhunter2\n"), Ok("hunter2".to_owned()));
        assert!(typed("hunter2\nhunter3\n").unwrap_err().contains("not the same"));
        assert!(typed("hunter2\n").is_err());
    }

    #[test]
    fn a_piped_password_is_one_line_that_a_login_can_carry() {
        let read = |text: &str| read(&mut text.as_bytes());
        assert_eq!(read("hunter2"), Ok("hunter2".to_owned()));
        assert_eq!(read("hunter2\r\n"), Ok("hunter2".to_owned()));
        assert_eq!(read(&"a".repeat(MAX_PASSWORD)), Ok("a".repeat(MAX_PASSWORD)));
        assert!(read("").unwrap_err().contains("empty"));
        assert!(read("one\ntwo\n").unwrap_err().contains("second"));
        for long in [MAX_PASSWORD + 1, 20_000] {
            assert!(read(&"a".repeat(long)).unwrap_err().contains("longer than the 1024 bytes"), "{long}");
        }
    }
}
