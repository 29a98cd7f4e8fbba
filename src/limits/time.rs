//! Times as they are counted, kept and printed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970. A time before that is 1970, one after 2554 is 2554.
pub(crate) fn nanos(now: SystemTime) -> u64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Whole seconds, rounded up: a client that waits must not come back too early.
pub(crate) fn seconds_up(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// A time as people say it, rounded up to the minute: 14:05Z, with the day unless it is within 20 hours.
pub(crate) fn until(at: SystemTime, now: SystemTime) -> String {
    // A nanosecond less than a minute: a whole minute is itself.
    let at = at.checked_add(Duration::new(59, 999_999_999)).unwrap_or(at);
    let text = humantime::format_rfc3339_seconds(at).to_string();
    // 2026-11-21T14:05:00Z
    let (day, time) = (text.get(..10).unwrap_or(""), text.get(11..16).unwrap_or(""));
    let is_near = at.duration_since(now).is_ok_and(|left| left < Duration::from_secs(20 * 3600));
    if is_near { format!("{time}Z") } else { format!("{day} {time}Z") }
}

/// Times in RFC 3339, to the second: what people and other programs read.
pub(crate) mod rfc3339 {
    use std::time::SystemTime;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_seconds(*at))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        humantime::parse_rfc3339_weak(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
