//! The few query parameters that mean something on a registry. Pure.
//!
//! Unknown parameters are ignored, as clients expect; of a repeated one the first counts.

use std::borrow::Cow;

/// The longest query that is looked at, in bytes: `ns`, `last` and a mount fit many times over.
pub(crate) const MAX_QUERY_BYTES: usize = 8 << 10;

/// The longest value that is looked at, in bytes: a repository name or a tag fits, a media type too.
const MAX_VALUE_BYTES: usize = 255;

/// Why a parameter cannot be what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QueryError {
    /// Longer than [`MAX_QUERY_BYTES`].
    #[error("the query is longer than {MAX_QUERY_BYTES} bytes; leave out what is not needed")]
    TooLong,
    /// `n` is no number, or none that any list could have.
    #[error("invalid n: it is a count of entries, 0 or more")]
    Count,
    /// The named parameter is too long or not properly percent-encoded.
    #[error("invalid {0}: it is longer than {MAX_VALUE_BYTES} bytes or not properly encoded")]
    Value(&'static str),
}

/// The decoded value of a parameter.
pub(crate) fn value<'a>(query: Option<&'a str>, name: &'static str) -> Result<Option<Cow<'a, str>>, QueryError> {
    let Some(query) = query else { return Ok(None) };
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if key == name {
            let decoded = decode(value).ok_or(QueryError::Value(name))?;
            return if decoded.len() > MAX_VALUE_BYTES { Err(QueryError::Value(name)) } else { Ok(Some(decoded)) };
        }
    }
    Ok(None)
}

/// The decoded values of a parameter that may stand there several times.
pub(crate) fn values(query: Option<&str>, name: &'static str) -> Result<Vec<String>, QueryError> {
    let pairs = query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let values = pairs.filter(|(key, _)| *key == name).map(|(_, value)| decode(value).ok_or(QueryError::Value(name)));
    values.map(|value| value.map(Cow::into_owned)).collect()
}

/// `n`: how many entries a page may have (end-8b).
pub(crate) fn count(query: Option<&str>) -> Result<Option<usize>, QueryError> {
    match value(query, "n").map_err(|_| QueryError::Count)? {
        None => Ok(None),
        Some(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().map(Some).map_err(|_| QueryError::Count)
        }
        Some(_) => Err(QueryError::Count),
    }
}

/// Percent-decodes, `+` as a blank. `None` when an escape is broken, a control character hides in it, or the result is not UTF-8.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains(['%', '+']) {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let [high, low, tail @ ..] = rest else { return None };
                let nibble = |byte: &u8| char::from(*byte).to_digit(16);
                let byte = u8::try_from(nibble(high)? << 4 | nibble(low)?).ok()?;
                if byte.is_ascii_control() {
                    return None;
                }
                bytes.push(byte);
                rest = tail;
            }
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// Percent-encodes everything but what RFC 3986 calls unreserved, so that the result can stand in a `Link`.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'~' | b'/') {
            encoded.push(char::from(byte));
        } else {
            let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0').to_ascii_uppercase();
            encoded.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counts_are_numbers_or_refused() {
        assert_eq!(count(None), Ok(None));
        assert_eq!(count(Some("last=x&n=10")), Ok(Some(10)));
        assert_eq!(count(Some("n=0")), Ok(Some(0)));
        assert_eq!(count(Some("n=2147483648")), Ok(Some(2_147_483_648)));
        for bad in ["n=-1", "n=abc", "n=", "n", "n=+1", "n=1.0", "n=99999999999999999999", "n=%00"] {
            assert_eq!(count(Some(bad)), Err(QueryError::Count), "{bad}");
        }
    }

    #[test]
    fn values_are_decoded_once() {
        let ns = |query| value(Some(query), "ns").map(|value| value.map(Cow::into_owned));
        assert_eq!(ns("ns=docker.io"), Ok(Some("docker.io".into())));
        assert_eq!(ns("a=b&ns=localhost%3A5000&ns=second"), Ok(Some("localhost:5000".into())));
        assert_eq!(ns("ns=%2541"), Ok(Some("%41".into())));
        assert_eq!(ns("nsx=a"), Ok(None));
        for bad in ["ns=%", "ns=%4", "ns=%zz", "ns=%0d%0a", "ns=%ff"] {
            assert_eq!(ns(bad), Err(QueryError::Value("ns")), "{bad}");
        }
        assert_eq!(ns(&format!("ns={}", "a".repeat(10_000))), Err(QueryError::Value("ns")));
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes(text in "\\PC{0,60}") {
            let encoded = encode(&text);
            prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"&?#".contains(&byte)));
            let decoded = decode(&encoded);
            prop_assert_eq!(decoded.as_deref(), Some(text.as_str()));
        }

        #[test]
        fn nothing_panics(query in ".*") {
            let _ = value(Some(&query), "last");
            let _ = count(Some(&query));
        }
    }
}
