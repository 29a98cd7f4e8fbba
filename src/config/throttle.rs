//! `[[throttle]]`: how often a client may do something. Names and units are GitLab's.

use serde::{Deserialize, Serialize};

use super::Mistake;
use crate::limits::throttle;
pub use crate::limits::throttle::{Algorithm, Mode};

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

impl Throttle {
    pub(super) fn setting(&self) -> throttle::Setting {
        throttle::Setting {
            name: self.name.clone(),
            requests_per_period: self.requests_per_period,
            period_in_seconds: self.period_in_seconds,
            burst: self.burst,
            algorithm: self.algorithm,
            mode: self.mode,
        }
    }
}

/// What is throttled when nothing is configured: manifest GETs, so generously that a fleet behind one address passes.
pub(super) fn defaults() -> Vec<Throttle> {
    let pulls = |who: &str| Throttle {
        name: format!("throttle_{who}_pulls"),
        requests_per_period: 36_000,
        period_in_seconds: 3600,
        burst: Some(9000),
        algorithm: Algorithm::Gcra,
        mode: Mode::Enforce,
    };
    vec![pulls("unauthenticated"), pulls("authenticated")]
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

/// Whether this selects anything: `*`, a name, or the beginning of names up to an underscore.
pub(super) fn selects(selection: &str) -> bool {
    ["unauthenticated", "authenticated"]
        .iter()
        .any(|who| NAMES.iter().any(|what| throttle::covers(selection, &format!("throttle_{who}_{what}"))))
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
