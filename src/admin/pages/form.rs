//! What a form sends: names and values, bounded.

use std::collections::HashMap;

use actix_web::web::Payload;

use crate::admin::json::BODY_TIMEOUT;

/// The longest form in bytes; the longest of ours names a thousand images to warm. A longer list is a file for `weir cache warm`.
const LONGEST: usize = 64 << 10;

/// The fields of a form. Of a name that is there twice, the first counts.
#[derive(Debug, Default)]
pub(super) struct Form(HashMap<String, String>);

impl Form {
    /// Reads it; nothing when it is too long or does not arrive.
    pub(super) async fn read(payload: Payload) -> Option<Form> {
        let bytes = tokio::time::timeout(BODY_TIMEOUT, payload.to_bytes_limited(LONGEST)).await.ok()?.ok()?.ok()?;
        Some(Form::parse(&bytes))
    }

    pub(super) fn parse(bytes: &[u8]) -> Form {
        let mut fields = HashMap::new();
        for (name, value) in url::form_urlencoded::parse(bytes) {
            fields.entry(name.into_owned()).or_insert_with(|| value.into_owned());
        }
        Form(fields)
    }

    /// The value; empty when it is not there.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// The value without space around it, cut to so many characters and without control characters: for what is kept and shown.
    pub(super) fn line(&self, name: &str, longest: usize) -> String {
        self.get(name).trim().chars().filter(|char| !char.is_control()).take(longest).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_gives_what_was_typed() {
        let form = Form::parse(b"reason=a+%3Cb%3E%0Ac&reason=other&empty=&%FF=%FF");
        assert_eq!(form.get("reason"), "a <b>\nc");
        assert_eq!(form.line("reason", 100), "a <b>c");
        assert_eq!(form.line("reason", 3), "a <");
        assert_eq!((form.get("empty"), form.get("absent")), ("", ""));
    }
}
