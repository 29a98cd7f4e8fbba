//! Standard output, as every command writes to it.

use std::io::Write;

use serde_json::Value;

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

/// A number of bytes of an answer, for people.
pub(super) fn bytes(bytes: &Value) -> String {
    let bytes = bytes.as_f64().unwrap_or_default();
    match bytes {
        _ if bytes >= 1e9 => format!("{:.1} GB", bytes / 1e9),
        _ if bytes >= 1e6 => format!("{:.1} MB", bytes / 1e6),
        _ if bytes >= 1e3 => format!("{:.1} kB", bytes / 1e3),
        _ => format!("{bytes:.0} B"),
    }
}

/// A list of an answer; none when it is not there.
pub(super) fn entries<'a>(answer: &'a Value, key: &str) -> &'a [Value] {
    answer[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_a_digit_after_the_point_unless_it_is_bytes() {
        for (size, said) in [
            (0_u64, "0 B"),
            (1, "1 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (136_600, "136.6 kB"),
            (3_200_000, "3.2 MB"),
            (26_800_000_000, "26.8 GB"),
        ] {
            assert_eq!(bytes(&Value::from(size)), said);
        }
        // A rate, and an answer that makes no sense.
        assert_eq!([bytes(&Value::from(12.34)), bytes(&Value::Null)], ["12 B", "0 B"]);
    }
}
