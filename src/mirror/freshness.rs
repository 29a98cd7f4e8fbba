//! How old an answer may be: a cached answer's age and a policy give Fresh, Stale or Expired. Pure; time is an argument.

use std::time::{Duration, SystemTime};

/// What may be done with a cached answer before upstream is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Answer with it; nothing touches the network.
    Fresh,
    /// Answer with it, and ask upstream meanwhile (`stale_while_revalidate`).
    Stale,
    /// Ask upstream first.
    Expired,
}

/// Judges an answer last confirmed at `checked_at`, fresh for `ttl`, then usable for `grace` while it is revalidated.
///
/// A clock that went backwards makes an answer Expired and not eternal: one HEAD is free, a tag stuck in the past is not.
pub(super) fn judge(checked_at: SystemTime, ttl: Duration, grace: Duration, now: SystemTime) -> Freshness {
    match now.duration_since(checked_at) {
        Ok(age) if age < ttl => Freshness::Fresh,
        Ok(age) if age < ttl.saturating_add(grace) => Freshness::Stale,
        _ => Freshness::Expired,
    }
}

/// The age of an answer; zero when the clock went backwards.
pub(super) fn age(checked_at: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(checked_at).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn an_answer_ages_from_fresh_to_stale_to_expired() {
        let then = SystemTime::UNIX_EPOCH + MINUTE;
        for (seconds, expected) in [
            (0, Freshness::Fresh),
            (59, Freshness::Fresh),
            (60, Freshness::Stale),
            (119, Freshness::Stale),
            (120, Freshness::Expired),
        ] {
            let now = then + Duration::from_secs(seconds);
            assert_eq!(judge(then, MINUTE, MINUTE, now), expected, "{seconds}");
        }
        assert_eq!(judge(then, MINUTE, MINUTE, SystemTime::UNIX_EPOCH), Freshness::Expired);
    }
}
