//! The limits of a client as header fields: of Docker Hub, GitLab and the IETF draft, each in its own dialect.
//!
//! `RateLimit-Limit` means three incompatible things in the wild, so no field is ever sent in two meanings. On `/v2` Docker Hub's fields
//! say what they say there, pulls from upstream, since tools read them so; a throttle of this mirror has the IETF's. GitLab's seven stand
//! alone on the admin API. All functions are pure; names are in lower case, as HTTP libraries keep
//! them.

use std::{
    fmt::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    throttle::{BYTES_UNIT, Meter, ThrottleDecision, ThrottleStatus},
    time::seconds_up,
};
use crate::client::ClientKey;

/// Header fields, in the order in which they are sent.
pub type HeaderFields = Vec<(&'static str, String)>;

/// Seconds for `Retry-After`: rounded up, at least 1, spread over a tenth more so that clients that were denied together do not come back together.
/// `jitter` is between 0 and 1.
pub fn retry_after(wait: Duration, jitter: f64) -> u64 {
    seconds_up(wait.mul_f64(1.0 + 0.1 * jitter.clamp(0.0, 1.0))).max(1)
}

/// Docker Hub's: `ratelimit-limit`, `ratelimit-remaining`, `docker-ratelimit-source`: what this client may use of the upstream budget.
/// `hub-tool`, `regctl image ratelimit` and the scanners' `curl --head` recipe read them.
pub fn docker_hub(client: &ClientKey, limit: u64, remaining: u64, window: Duration) -> HeaderFields {
    let window = window.as_secs();
    vec![
        ("ratelimit-limit", format!("{limit};w={window}")),
        ("ratelimit-remaining", format!("{remaining};w={window}")),
        ("docker-ratelimit-source", client.to_string()),
    ]
}

/// GitLab's, to the digit when the throttle is a fixed window (`request_throttle_data.rb`): the limit is given for 60 seconds, what remains is
/// not, and the last two are sent with a 429 only.
pub fn gitlab(standing: &ThrottleStatus<'_>, now: SystemTime) -> HeaderFields {
    let rule = &standing.rule;
    let wait = seconds_up(if standing.over { standing.more_in } else { standing.reset_in });
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let reset = since + if standing.over { wait.max(1) } else { wait };
    let per_minute = (u64::from(standing.limit) * 60).div_ceil(u64::from(rule.period()));
    let mut fields = vec![
        ("ratelimit-limit", per_minute.to_string()),
        ("ratelimit-name", rule.name().to_owned()),
        ("ratelimit-observed", standing.observed.to_string()),
        ("ratelimit-remaining", standing.remaining.to_string()),
        ("ratelimit-reset", reset.to_string()),
    ];
    if standing.over {
        let at = UNIX_EPOCH + Duration::from_secs(reset);
        fields.push(("ratelimit-resettime", httpdate::fmt_http_date(at)));
        fields.push(("retry-after", wait.max(1).to_string()));
    }
    fields
}

/// `RateLimit-Policy` and `RateLimit` of draft-ietf-httpapi-ratelimit-headers-10: lists with one item, of the tightest throttle that acts, since six of them
/// would cost more than the answer; none when none does. `t` is the time until one more may come, and is left out while nothing is owed.
pub fn ietf(decision: &ThrottleDecision) -> HeaderFields {
    let Some(standing) = decision.tightest() else { return Vec::new() };
    let item = |write: fn(&ThrottleStatus<'_>, &mut String)| written(|out| write(&standing, out));
    vec![("ratelimit-policy", item(policy)), ("ratelimit", item(left))]
}

/// An item of `RateLimit-Policy`, appended to `out`: the same as long as rule and limit are.
pub fn policy(standing: &ThrottleStatus<'_>, out: &mut String) {
    let (rule, bytes) = (&standing.rule, standing.rule.meter() == Meter::Bytes);
    let unit = if bytes { BYTES_UNIT } else { 1 };
    let (quota, kind) = (u64::from(standing.limit) * unit, if bytes { ";qu=\"content-bytes\"" } else { "" });
    // Writing to a string cannot fail.
    let _ = write!(out, "\"{}\";q={quota};w={}{kind}", rule.name(), rule.period());
}

/// An item of `RateLimit`, appended to `out`: all that changes from one request of a client to the next, so written without `format!`.
pub fn left(standing: &ThrottleStatus<'_>, out: &mut String) {
    let unit = if standing.rule.meter() == Meter::Bytes { BYTES_UNIT } else { 1 };
    out.push('"');
    out.push_str(standing.rule.name());
    out.push_str("\";r=");
    digits(u64::from(standing.remaining) * unit, out);
    if !standing.more_in.is_zero() {
        out.push_str(";t=");
        digits(seconds_up(standing.more_in), out);
    }
}

fn written(write: impl FnOnce(&mut String)) -> String {
    let mut out = String::new();
    write(&mut out);
    out
}

fn digits(number: u64, out: &mut String) {
    out.push_str(itoa::Buffer::new().format(number));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::throttle::{Algorithm, Meter, Meters, Mode, Rules, Table, Throttle};

    fn rules(name: &str, limit: u32, period: u32, algorithm: Algorithm) -> Rules {
        let setting = Throttle {
            name: name.to_owned(),
            requests_per_period: limit,
            period_in_seconds: period,
            burst: None,
            algorithm,
            mode: Mode::Enforce,
        };
        Rules::new(&[setting], &[], 8).unwrap()
    }

    fn client() -> ClientKey {
        ClientKey::Address("192.0.2.7".parse().unwrap())
    }

    fn after(rules: &Rules, meter: Meter, requests: usize, at: u64) -> (ThrottleDecision, SystemTime) {
        let (table, now) = (Table::new(16), UNIX_EPOCH + Duration::from_secs(at));
        let take = || table.check(rules, &client(), meter.alone(), Meters::NONE, now);
        ((1..requests).fold(take(), |_, _| take()), now)
    }

    fn value<'a>(fields: &'a HeaderFields, name: &str) -> Option<&'a str> {
        fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn gitlab_s_seven_are_gitlab_s_to_the_digit() {
        let rules = rules("throttle_unauthenticated_admin_web", 1, 60, Algorithm::FixedWindow);
        let (decision, now) = after(&rules, Meter::AdminWeb, 12, 1_609_833_930);
        let expected = [
            ("ratelimit-limit", "1"),
            ("ratelimit-name", "throttle_unauthenticated_admin_web"),
            ("ratelimit-observed", "12"),
            ("ratelimit-remaining", "0"),
            ("ratelimit-reset", "1609833960"),
            ("ratelimit-resettime", "Tue, 05 Jan 2021 08:06:00 GMT"),
            ("retry-after", "30"),
        ];
        let fields = gitlab(&decision.denied().unwrap(), now);
        assert_eq!(fields.iter().map(|(name, value)| (*name, value.as_str())).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn gitlab_s_limit_is_per_minute_and_its_remaining_is_not() {
        for (limit, period, named) in [(3600, 3600, "60"), (100, 21_600, "1"), (10, 60, "10"), (61, 3600, "2")] {
            let rules = rules("throttle_unauthenticated_registry_api", limit, period, Algorithm::FixedWindow);
            let (decision, now) = after(&rules, Meter::RegistryApi, 1, 1_609_833_930);
            let fields = gitlab(&decision.tightest().unwrap(), now);
            assert_eq!(value(&fields, "ratelimit-limit"), Some(named));
            assert_eq!(value(&fields, "ratelimit-remaining"), Some((limit - 1).to_string().as_str()));
            // Only with a 429.
            assert_eq!((value(&fields, "ratelimit-resettime"), value(&fields, "retry-after")), (None, None));
        }
    }

    #[test]
    fn hub_s_fields_read_as_hub_s() {
        let fields = docker_hub(&client(), 100, 24, Duration::from_secs(21_600));
        assert_eq!(value(&fields, "ratelimit-limit"), Some("100;w=21600"));
        assert_eq!(value(&fields, "ratelimit-remaining"), Some("24;w=21600"));
        assert_eq!(value(&fields, "docker-ratelimit-source"), Some("192.0.2.7"));
    }

    #[test]
    fn ietf_s_fields_are_lists_with_an_item_for_the_tightest_throttle() {
        let rules = rules("throttle_unauthenticated_pulls", 100, 21_600, Algorithm::Gcra);
        let (decision, _) = after(&rules, Meter::Pulls, 26, 1_609_833_930);
        assert!(decision.denied().is_some());
        let fields = ietf(&decision);
        assert_eq!(value(&fields, "ratelimit-policy"), Some("\"throttle_unauthenticated_pulls\";q=100;w=21600"));
        assert_eq!(value(&fields, "ratelimit"), Some("\"throttle_unauthenticated_pulls\";r=0;t=288"));
        assert_eq!(ietf(&ThrottleDecision::default()), vec![]);
        // Burst 25, of which 10 are used.
        let (decision, _) = after(&rules, Meter::Pulls, 10, 1_609_833_930);
        assert_eq!(value(&ietf(&decision), "ratelimit"), Some("\"throttle_unauthenticated_pulls\";r=15;t=288"));
    }

    #[test]
    fn bytes_are_shown_in_bytes_and_counted_in_units() {
        let rules = rules("throttle_unauthenticated_bytes", 64, 3600, Algorithm::FixedWindow);
        let (decision, _) = after(&rules, Meter::Bytes, 4, 1_609_833_930);
        let fields = ietf(&decision);
        let quota = format!("\"throttle_unauthenticated_bytes\";q={};w=3600;qu=\"content-bytes\"", 64 * BYTES_UNIT);
        assert_eq!(value(&fields, "ratelimit-policy"), Some(&*quota));
        let left = format!("\"throttle_unauthenticated_bytes\";r={}", 60 * BYTES_UNIT);
        assert!(value(&fields, "ratelimit").is_some_and(|field| field.starts_with(&left)), "{fields:?}");
    }

    #[test]
    fn retry_after_is_never_earlier_than_the_next_unit_and_never_zero() {
        for jitter in [0.0, 0.5, 1.0, 7.0, -3.0] {
            assert!(retry_after(Duration::ZERO, jitter) == 1);
            assert!((288..=317).contains(&retry_after(Duration::from_millis(287_100), jitter)));
        }
    }
}
