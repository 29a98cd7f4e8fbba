//! Standard output, as every command writes to it.

use std::io::Write;

/// Prints to standard output. A reader that has gone (`weir budget | head -1`) is no error, and never a panic.
///
/// # Errors
/// Any other failure to write, such as a full disk behind a redirection.
pub fn say(text: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(format!("standard output: {error}")),
        _ => Ok(()),
    }
}
