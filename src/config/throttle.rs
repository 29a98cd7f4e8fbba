//! `[[throttle]]`: how often a client may do something. Names and units are GitLab's.

use serde::{Deserialize, Serialize};

use super::Mistake;

/// One throttle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Throttle {
    /// `throttle_{unauthenticated|authenticated}_{what}`; see `NAMES`.
    pub name: String,
    /// How many …
    pub requests_per_period: u32,
    /// … in how many seconds.
    pub period_in_seconds: u32,
    /// How many of them at once; a quarter of `requests_per_period` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// How the window moves.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// Whether it acts.
    #[serde(default)]
    pub mode: Mode,
}

/// How a throttle's window moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Comes back evenly: burst and refill together stay within the limit in any window.
    #[default]
    Gcra,
    /// Starts anew every period, as GitLab's does.
    FixedWindow,
}

/// Whether a rule acts, only counts, or sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It acts.
    #[default]
    Enforce,
    /// It only counts what it would have done.
    DryRun,
    /// It sleeps.
    Off,
}

/// What may be throttled, behind `throttle_unauthenticated_` or `throttle_authenticated_`.
pub(super) const NAMES: [&str; 8] =
    ["registry_api", "pulls", "upstream", "bytes", "not_found", "auth", "admin_api", "admin_web"];

pub(super) fn is_name(name: &str) -> bool {
    let what = name
        .strip_prefix("throttle_")
        .and_then(|rest| rest.strip_prefix("unauthenticated_").or_else(|| rest.strip_prefix("authenticated_")));
    what.is_some_and(|what| NAMES.contains(&what))
}

pub(super) fn check(throttles: &[Throttle], mistakes: &mut Vec<Mistake>) {
    for (number, throttle) in throttles.iter().enumerate() {
        let key = |name: &str| format!("throttle[{number}].{name}");
        if !is_name(&throttle.name) {
            let names = NAMES.join("|");
            mistakes.push(Mistake::new(
                key("name"),
                &throttle.name,
                format!("there is no such throttle; write throttle_{{unauthenticated|authenticated}}_{{{names}}}"),
            ));
        }
        if throttles[..number].iter().any(|other| other.name == throttle.name) {
            mistakes.push(Mistake::new(key("name"), &throttle.name, "this throttle is configured twice; keep one"));
        }
        for (name, value) in
            [("requests_per_period", throttle.requests_per_period), ("period_in_seconds", throttle.period_in_seconds)]
        {
            if value == 0 {
                mistakes.push(Mistake::new(
                    key(name),
                    value,
                    r#"write 1 or more; mode = "off" switches a throttle off"#,
                ));
            }
        }
        if let Some(burst) = throttle.burst
            && !(1..=throttle.requests_per_period).contains(&burst)
        {
            mistakes.push(Mistake::new(key("burst"), burst, "write 1 or more, at most requests_per_period"));
        }
    }
}
