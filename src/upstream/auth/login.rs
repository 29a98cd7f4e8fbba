//! A user and what it proves itself with.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use reqwest::header::HeaderValue;

use crate::upstream::settings::Secret;

/// The bounds within which a credential is used before it is read again.
const LIFETIME: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(24 * 3600));

/// What an account logs in with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: Arc<str>,
    pub(super) secret: Secret,
    /// The secret is an identity token, which only a token service takes.
    pub(super) identity_token: bool,
}

impl Login {
    pub(super) fn new(user: &str, secret: &str) -> Login {
        Login { user: user.into(), secret: Secret(secret.into()), identity_token: false }
    }

    /// `Authorization: Basic` (RFC 7617).
    ///
    /// # Errors
    /// In words, when no registry can be sent this.
    pub(super) fn basic(&self) -> Result<HeaderValue, &'static str> {
        if self.identity_token {
            return Err("it has an identity token, and this registry asks for a password");
        }
        let pair = STANDARD.encode(format!("{}:{}", self.user, self.secret.0));
        let mut header = HeaderValue::from_str(&format!("Basic {pair}")).map_err(|_| "its password is not text")?;
        header.set_sensitive(true);
        Ok(header)
    }
}

/// How long a secret is good that says so itself: a JWT (`exp`, RFC 7519) or the base64 of JSON (`expiration`, as Amazon ECR's).
/// A tenth of it is left unused, at most five minutes.
pub(super) fn lifetime(secret: &str) -> Option<Duration> {
    let part = secret.split('.').nth(1).unwrap_or(secret).trim_end_matches('=');
    let bytes = URL_SAFE_NO_PAD.decode(part).or_else(|_| STANDARD.decode(secret)).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    let until = claims["exp"].as_u64().or_else(|| claims["expiration"].as_u64())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(usable(until.saturating_sub(now)))
}

/// Of a credential that is good for so many seconds.
pub(super) fn usable(seconds: u64) -> Duration {
    Duration::from_secs(seconds - (seconds / 10).min(300)).clamp(LIFETIME.0, LIFETIME.1)
}
