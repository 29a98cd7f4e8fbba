//! Text of clients as it may stand in a log.

/// Characters of a path or a client's name that a log line holds.
const MAX_LOGGED: usize = 512;

/// Text as it may stand in a log: control characters, what is not ASCII, and quotes escaped; cut when it is long.
pub(crate) fn printable(text: &str) -> String {
    let cut = text.char_indices().nth(MAX_LOGGED).map_or(text, |(end, _)| &text[..end]);
    if cut.len() == text.len() && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\')) {
        return text.to_owned();
    }
    let mut escaped: String = cut.escape_default().collect();
    if cut.len() < text.len() {
        escaped.push('…');
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_client_sends_writes_in_the_log_but_characters() {
        assert_eq!(printable("/v2/a/manifests/1.0"), "/v2/a/manifests/1.0");
        assert_eq!(printable("a\r\nb\x1b[2J\0\u{202e}\"\\"), r#"a\r\nb\u{1b}[2J\u{0}\u{202e}\"\\"#);
        assert!(printable(&"é".repeat(100_000)).len() < 8 * MAX_LOGGED);
    }
}
