//! Why a request to the bucket failed.

use std::sync::Arc;

/// What a caller can act on. None of them holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It failed lately, and is not asked until it answers a probe.
    #[error("the bucket is away")]
    Away,
    /// Connect, time-out, 5xx.
    #[error("the bucket does not answer: {0}")]
    Unreachable(Arc<str>),
    /// It answers that this may not be, such as 403 or that there is no such bucket.
    #[error("the bucket refuses: {0}")]
    Refused(Arc<str>),
    /// The key exists, or is no longer as it was.
    #[error("the key exists, or has changed")]
    Conflict,
    /// What came is not what was written.
    #[error("the bucket's answer is malformed: {0}")]
    Malformed(&'static str),
}

impl Error {
    /// What the library says, without what the store sends beside its code and message: that may name an access key.
    pub(crate) fn of(error: &object_store::Error) -> Error {
        use object_store::Error as Store;
        match error {
            Store::AlreadyExists { .. } | Store::Precondition { .. } | Store::NotModified { .. } => Error::Conflict,
            Store::PermissionDenied { .. } | Store::Unauthenticated { .. } | Store::NotFound { .. } => {
                Error::Refused(reason(error))
            }
            Store::NotImplemented { .. } | Store::NotSupported { .. } => Error::Refused(reason(error)),
            _ if error.to_string().contains("non-partial response") => Error::Malformed("all of an object for a range"),
            _ => match code(&error.to_string()) {
                // The store answers, and not with a failure of its own.
                Some(found)
                    if !matches!(&*found, "InternalError" | "ServiceUnavailable" | "SlowDown" | "RequestTimeout") =>
                {
                    Error::Refused(reason(error))
                }
                _ => Error::Unreachable(reason(error)),
            },
        }
    }
}

/// The store's code and message, else what the innermost error says.
fn reason(error: &object_store::Error) -> Arc<str> {
    let text = error.to_string();
    if let Some(code) = code(&text) {
        let message = between(&text, "<Message>", "</Message>").unwrap_or_default();
        return [&*code, message].join(": ").trim_end_matches(": ").chars().take(200).collect::<String>().into();
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(inner) = innermost.source() {
        innermost = inner;
    }
    let said = innermost.to_string();
    said.lines().next().unwrap_or_default().chars().take(200).collect::<String>().into()
}

fn code(text: &str) -> Option<String> {
    between(text, "<Code>", "</Code>").map(str::to_owned)
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    text.split_once(begin)?.1.split_once(end).map(|(inside, _)| inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_sends_beside_code_and_message_is_not_repeated() {
        let body = "<Error><Code>SignatureDoesNotMatch</Code><Message>It does not match.</Message><AWSAccessKeyId>AKIA1</AWSAccessKeyId></Error>";
        let error = object_store::Error::Generic { store: "S3", source: body.into() };
        assert_eq!(Error::of(&error), Error::Refused("SignatureDoesNotMatch: It does not match.".into()));
        let error = object_store::Error::Generic { store: "S3", source: "<Code>SlowDown</Code>".into() };
        assert_eq!(Error::of(&error), Error::Unreachable("SlowDown".into()));
    }
}
