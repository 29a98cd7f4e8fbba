//! A terminal that is drawn over and read key by key, and given back as it was.

use std::time::Duration;

use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex, Termios};

use crate::cli::output::say;

/// A second buffer without a cursor; the first one, with what stands in it, comes back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// What a reader has to read, when the size is not known.
const USUAL: (usize, usize) = (24, 80);

pub(super) struct Screen(Termios);

impl Screen {
    /// `None` when keys cannot be read, as without a terminal on standard input.
    pub(super) fn start() -> Option<Screen> {
        let before = termios::tcgetattr(std::io::stdin()).ok()?;
        let mut keys = before.clone();
        // Ctrl-C is a key, too, so that the terminal is given back.
        keys.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &keys).ok()?;
        let screen = Screen(before);
        say(ENTER).ok()?;
        Some(screen)
    }

    /// Shows as much of the lines as there is space for.
    pub(super) fn draw(&self, text: &str) -> Result<(), String> {
        let (rows, columns) = termios::tcgetwinsize(std::io::stdout())
            .ok()
            .map(|size| (usize::from(size.ws_row), usize::from(size.ws_col)))
            .filter(|size| size.0 > 0 && size.1 > 0)
            .unwrap_or(USUAL);
        say(&frame(text, rows, columns))
    }

    /// Whether `q`, Escape or Ctrl-C came within this time, of 25 s at most.
    pub(super) fn is_left_within(&self, pause: Duration) -> bool {
        let mut keys = self.0.clone();
        keys.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        keys.special_codes[SpecialCodeIndex::VMIN] = 0;
        keys.special_codes[SpecialCodeIndex::VTIME] = u8::try_from(pause.as_millis() / 100).unwrap_or(u8::MAX);
        if termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &keys).is_err() {
            return true;
        }
        let mut key = [0];
        match rustix::io::read(std::io::stdin(), &mut key) {
            Ok(0) | Err(rustix::io::Errno::INTR) => false,
            Ok(_) => matches!(key[0], b'q' | 0x1b | 0x03),
            Err(_) => true,
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = say(LEAVE);
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// The lines from the top left corner, each to its end, with nothing in them that moves the cursor.
fn frame(text: &str, rows: usize, columns: usize) -> String {
    let shown = |line: &str| {
        let visible = line.chars().map(|c| if c.is_control() { '?' } else { c });
        visible.take(columns).chain("\x1b[K".chars()).collect::<String>()
    };
    let lines: Vec<_> = text.lines().take(rows).map(shown).collect();
    format!("\x1b[H{}\x1b[J", lines.join("\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_the_terminal_and_obeys_nothing_in_the_text() {
        assert_eq!(frame("abc\nd\u{1b}[2Jef\ng\n", 2, 4), "\x1b[Habc\x1b[K\r\nd?[2\x1b[K\x1b[J");
    }
}
