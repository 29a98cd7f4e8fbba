//! What `[[throttle]]` says, checked and put in the order in which it is judged. Immutable; a reload makes another one.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::account::{Algorithm, Window};
use crate::{
    client::ClientKey,
    setting::{ConfigError, ConfigErrors, did_you_mean},
};

/// What is counted. The word is the end of a throttle's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Meter {
    /// Requests under `/v2`.
    RegistryApi,
    /// Manifest GETs; a HEAD is free.
    Pulls,
    /// Counted requests that were sent upstream for a client.
    Upstream,
    /// Bytes sent, in units of [`BYTES_UNIT`](super::BYTES_UNIT).
    Bytes,
    /// Answers that something does not exist.
    NotFound,
    /// Credentials that did not verify.
    Auth,
    /// Requests to the JSON API.
    AdminApi,
    /// Requests to the pages.
    AdminWeb,
}

impl Meter {
    /// All there are.
    pub const ALL: [Meter; 8] = [
        Meter::RegistryApi,
        Meter::Pulls,
        Meter::Upstream,
        Meter::Bytes,
        Meter::NotFound,
        Meter::Auth,
        Meter::AdminApi,
        Meter::AdminWeb,
    ];

    /// As it ends a throttle's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Meter::RegistryApi => "registry_api",
            Meter::Pulls => "pulls",
            Meter::Upstream => "upstream",
            Meter::Bytes => "bytes",
            Meter::NotFound => "not_found",
            Meter::Auth => "auth",
            Meter::AdminApi => "admin_api",
            Meter::AdminWeb => "admin_web",
        }
    }

    /// As a set of one.
    pub const fn alone(self) -> Meters {
        Meters(1 << self as u8)
    }
}

/// A set of meters: what a request counts for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meters(u8);

impl Meters {
    /// The empty set.
    pub const NONE: Meters = Meters(0);

    /// This set and one more.
    pub const fn and(self, meter: Meter) -> Meters {
        Meters(self.0 | 1 << meter as u8)
    }

    /// This set without one.
    pub const fn without(self, meter: Meter) -> Meters {
        Meters(self.0 & !(1 << meter as u8))
    }

    /// All in either.
    pub const fn or(self, others: Meters) -> Meters {
        Meters(self.0 | others.0)
    }

    /// Whether it holds this one.
    pub const fn holds(self, meter: Meter) -> bool {
        self.0 & (1 << meter as u8) != 0
    }
}

/// Whether a rule acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It denies.
    #[default]
    Enforce,
    /// It counts what it would have denied.
    DryRun,
    /// It sleeps.
    Off,
}

impl Mode {
    /// As the configuration writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Enforce => "enforce",
            Mode::DryRun => "dry_run",
            Mode::Off => "off",
        }
    }
}

/// One `[[throttle]]`, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Throttle {
    /// `throttle_{unauthenticated|authenticated}_{meter}`.
    pub name: String,
    /// How many …
    pub requests_per_period: u32,
    /// … in how many seconds.
    pub period_in_seconds: u32,
    /// How many of them at once (gcra only); a quarter of `requests_per_period` when absent.
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
    /// What is throttled when nothing is configured: manifest GETs, 36,000 an hour for each client. A fleet behind one address stays below it.
    pub fn defaults() -> Vec<Throttle> {
        let pulls = |audience: &str| Throttle {
            name: format!("throttle_{audience}_pulls"),
            requests_per_period: 36_000,
            period_in_seconds: 3600,
            burst: Some(9000),
            algorithm: Algorithm::Gcra,
            mode: Mode::Enforce,
        };
        vec![pulls("unauthenticated"), pulls("authenticated")]
    }

    /// Everything that is wrong with these throttles. The keys begin with `throttle[N]`.
    pub fn validate(throttles: &[Throttle]) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        for (number, throttle) in throttles.iter().enumerate() {
            let key = |name: &str| format!("throttle[{number}].{name}");
            if throttle.audience_and_meter().is_none() {
                let meters = Meter::ALL.map(Meter::as_str).join("|");
                let known: Vec<_> = ["unauthenticated", "authenticated"]
                    .iter()
                    .flat_map(|audience| Meter::ALL.map(|meter| format!("throttle_{audience}_{}", meter.as_str())))
                    .collect();
                let meant = did_you_mean(&throttle.name, &known);
                let fix = format!(
                    "there is no such throttle; write throttle_{{unauthenticated|authenticated}}_{{{meters}}}{meant}"
                );
                errors.push(ConfigError::new(key("name"), &throttle.name, fix));
            }
            if throttles[..number].iter().any(|other| other.name == throttle.name) {
                errors.push(ConfigError::new(
                    key("name"),
                    &throttle.name,
                    "this throttle is configured twice; keep one",
                ));
            }
            let counts = [
                ("requests_per_period", throttle.requests_per_period),
                ("period_in_seconds", throttle.period_in_seconds),
            ];
            for (name, _) in counts.into_iter().filter(|(_, count)| *count == 0) {
                errors.push(ConfigError::new(key(name), 0, r#"write 1 or more; mode = "off" switches a throttle off"#));
            }
            let burst = throttle.burst();
            if !(1..=throttle.requests_per_period.max(1)).contains(&burst) {
                errors.push(ConfigError::new(key("burst"), burst, "write 1 or more, at most requests_per_period"));
            } else if throttle.window().is_none() {
                let fix = "the period is too long for such a burst; lower one of them";
                errors.push(ConfigError::new(key("period_in_seconds"), throttle.period_in_seconds, fix));
            }
        }
        errors
    }

    fn burst(&self) -> u32 {
        self.burst.unwrap_or((self.requests_per_period / 4).max(1))
    }

    fn window(&self) -> Option<Window> {
        Window::new(self.algorithm, self.requests_per_period, self.period_in_seconds, self.burst())
    }

    /// Whether it is for accounts, and what it counts; `None` when no throttle has this name.
    fn audience_and_meter(&self) -> Option<(bool, Meter)> {
        let rest = self.name.strip_prefix("throttle_")?;
        let unauthenticated = rest.strip_prefix("unauthenticated_").map(|meter| (false, meter));
        let (authenticated, word) =
            unauthenticated.or_else(|| rest.strip_prefix("authenticated_").map(|meter| (true, meter)))?;
        let meter = Meter::ALL.into_iter().find(|meter| meter.as_str() == word)?;
        Some((authenticated, meter))
    }
}

/// One throttle, checked.
#[derive(Clone, PartialEq)]
pub struct Rule {
    pub(super) name: Arc<str>,
    pub(super) meter: Meter,
    pub(super) authenticated: bool,
    pub(super) mode: Mode,
    pub(super) own: Window,
    /// For the /24 or /48 that an address is in.
    pub(super) network: Window,
}

impl Rule {
    /// Its configured name.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Whether it is for those who are known by name, or for the others.
    pub fn is_authenticated(&self) -> bool {
        self.authenticated
    }
    /// What it counts.
    pub fn meter(&self) -> Meter {
        self.meter
    }
    /// Whether it acts, dry runs considered.
    pub fn mode(&self) -> Mode {
        self.mode
    }
    /// Requests in a period.
    pub fn limit(&self) -> u32 {
        self.own.limit
    }
    /// Seconds.
    pub fn period(&self) -> u32 {
        self.own.period
    }
    /// How many may come at once; without meaning for a fixed window.
    pub fn burst(&self) -> u32 {
        self.own.burst()
    }
    /// How the window moves.
    pub fn algorithm(&self) -> Algorithm {
        self.own.algorithm
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} in {} s, {:?}", self.name, self.limit(), self.period(), self.mode)
    }
}

/// All throttles of a configuration. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    // The lowest rate first.
    authenticated: Arc<[Rule]>,
    unauthenticated: Arc<[Rule]>,
    pub(super) has_ceilings: bool,
}

impl Rules {
    /// How many times a client's limit its whole network may have (8).
    pub const CEILING: u32 = 8;

    /// Checks settings and lays `dry_run` (names, prefixes of names, or `*`) over their modes. `ceiling` is how many times a client's limit its /24
    /// or /48 has; 0 gives networks no limit.
    ///
    /// # Errors
    /// What [`Throttle::validate`] finds.
    pub fn new(throttles: &[Throttle], dry_run: &[String], ceiling: u32) -> Result<Rules, ConfigErrors> {
        let errors = Throttle::validate(throttles);
        if !errors.is_empty() {
            return Err(ConfigErrors(errors));
        }
        let rule = |throttle: &Throttle| {
            let ((authenticated, meter), own) = throttle.audience_and_meter().zip(throttle.window())?;
            let dry = throttle.mode == Mode::Enforce && dry_run.iter().any(|name| covers(name, &throttle.name));
            let mode = if dry { Mode::DryRun } else { throttle.mode };
            let network = own.widened(ceiling.max(1));
            Some(Rule { name: throttle.name.as_str().into(), meter, authenticated, mode, own, network })
        };
        Ok(Rules::ordered(throttles.iter().filter_map(rule).collect(), ceiling > 0))
    }

    fn ordered(mut rules: Vec<Rule>, has_ceilings: bool) -> Rules {
        // By rate. The fractions are compared by multiplying crosswise, which is exact.
        let part = |one: &Rule, other: &Rule| u64::from(one.limit()) * u64::from(other.period());
        rules.sort_by(|one, other| part(one, other).cmp(&part(other, one)));
        let (authenticated, unauthenticated): (Vec<_>, Vec<_>) = rules.into_iter().partition(|rule| rule.authenticated);
        Rules { authenticated: authenticated.into(), unauthenticated: unauthenticated.into(), has_ceilings }
    }

    /// The same rules, those that `selection` covers in another mode; and how many these are. For `weir throttle off NAME` and for the
    /// dashboard's Enforce button.
    pub fn with_mode(&self, selection: &str, mode: Mode) -> (Rules, usize) {
        let mut changed = 0;
        let rules = self.iter().map(|rule| {
            let mut rule = rule.clone();
            if covers(selection, &rule.name) {
                rule.mode = mode;
                changed += 1;
            }
            rule
        });
        let rules = rules.collect();
        (Rules::ordered(rules, self.has_ceilings), changed)
    }

    /// The settings that would make these rules again.
    pub fn settings(&self) -> Vec<Throttle> {
        let setting = |rule: &Rule| Throttle {
            name: rule.name().to_owned(),
            requests_per_period: rule.limit(),
            period_in_seconds: rule.period(),
            burst: Some(rule.burst()),
            algorithm: rule.algorithm(),
            mode: rule.mode(),
        };
        self.iter().map(setting).collect()
    }

    /// All of them, also those that sleep.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.unauthenticated.iter().chain(self.authenticated.iter())
    }

    /// Those that count for this client.
    pub(super) fn of(&self, client: &ClientKey) -> &Arc<[Rule]> {
        match client {
            ClientKey::Principal(_) => &self.authenticated,
            ClientKey::Address(_) => &self.unauthenticated,
        }
    }
}

/// Whether `selection` means this throttle: `*`, its name, or the beginning of its name up to an underscore.
pub fn covers(selection: &str, name: &str) -> bool {
    let rest = name.strip_prefix(selection.trim_end_matches('_'));
    selection == "*" || !selection.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

/// Whether `selection` means any throttle that could be configured.
pub fn covers_any(selection: &str) -> bool {
    let names = ["unauthenticated", "authenticated"]
        .into_iter()
        .flat_map(|audience| Meter::ALL.map(|meter| format!("throttle_{audience}_{}", meter.as_str())));
    names.into_iter().any(|name| covers(selection, &name))
}
