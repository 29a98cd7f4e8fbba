//! `Upgrade` in a request head (RFC 9110, section 7.8). Pure.
//!
//! A server may ignore it, and this one does: it speaks HTTP/1.1 alone. actix-http does not; it takes what follows `Upgrade: websocket`
//! for a body without end, and closes the connection after the response to any `Connection: upgrade`.

const UPGRADE: &[u8] = b"upgrade";
/// Of the same length: an option and a field that have no meaning.
const IGNORED: &[u8] = b"ignored";

/// Makes `Upgrade`, and the option of that name in `Connection`, say nothing. `head` is whole.
pub(super) fn ignore(head: &mut [u8]) {
    for line in head.split_mut(|byte| *byte == b'\n') {
        // Few fields begin so.
        if !matches!(line.first(), Some(b'c' | b'C' | b'u' | b'U')) {
            continue;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = line.split_at_mut(colon);
        if name.eq_ignore_ascii_case(UPGRADE) {
            name.copy_from_slice(IGNORED);
        } else if name.eq_ignore_ascii_case(b"connection") {
            for option in value[1..].split_mut(|byte| *byte == b',') {
                let blank = option.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
                let option = &mut option[blank..];
                let length = option.trim_ascii_end().len();
                if option[..length].eq_ignore_ascii_case(UPGRADE) {
                    option[..length].copy_from_slice(IGNORED);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_says_nothing_and_all_else_stays() {
        for (head, expected) in [
            ("GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n", "GET / HTTP/1.1\r\nignored: h2c\r\n\r\n"),
            ("Connection: Upgrade, HTTP2-Settings\r\n", "Connection: ignored, HTTP2-Settings\r\n"),
            ("connection:close ,UPGRADE \r\n", "connection:close ,ignored \r\n"),
            ("Connection: not-upgrade\r\nX: upgrade\r\n", "Connection: not-upgrade\r\nX: upgrade\r\n"),
            ("Upgrade-Insecure-Requests: 1\r\n", "Upgrade-Insecure-Requests: 1\r\n"),
            ("Connection:\n", "Connection:\n"),
        ] {
            let mut bytes = head.as_bytes().to_vec();
            ignore(&mut bytes);
            assert_eq!(String::from_utf8(bytes).unwrap(), expected);
        }
    }
}
