//! When a failed request is repeated, and how long is waited before that.

use std::time::Duration;

use reqwest::StatusCode;

/// How often a request is repeated that got no response, or a 502, 503 or 504.
pub(super) const RETRIES: u32 = 2;
/// A repeated request waits between nothing and 100 ms, then 200 ms, and never beyond this.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// Full jitter over an exponential step.
pub(super) fn backoff(attempt: u32) -> Duration {
    jitter(Duration::from_millis(100).saturating_mul(1 << attempt.min(8)).min(MAX_BACKOFF))
}

/// Anything from nothing to `most`, so that those who wait do not come back together.
pub(super) fn jitter(most: Duration) -> Duration {
    let random = crate::random::number() >> 32;
    most.mul_f64(random as f64 / f64::from(u32::MAX))
}

/// Answers that a gateway gives while what is behind it restarts.
pub(super) fn is_transient(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// How often a request is repeated that got this answer.
pub(super) fn after(status: StatusCode) -> u32 {
    if is_transient(status) { RETRIES } else { 0 }
}
