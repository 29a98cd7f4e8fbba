//! `[ban]`: the thresholds.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    limits::{
        bans::{MAX_DURATION, MIN_DURATION},
        throttle::Mode,
    },
    setting::{ConfigError, Span},
};

/// `[ban]`: when automatic bans are made. Bans by an operator always act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Of levels 2 to 4; `dry_run` unless configured. Levels 0 and 1 always act.
    pub mode: Mode,
    /// The error code of a 403 for a ban.
    pub code: Code,
    /// Level 1: misses of one reference (30) within 5 min that are still answered as any other.
    pub same_reference: u32,
    /// Level 2: different missing references (40, at most 1,000) within 10 min.
    pub different_references: u32,
    /// Level 2: times (3) that the `_upstream` throttle is exceeded within 10 min.
    pub upstream_exceeded: u32,
    /// Level 3: failed logins (30) within 3 min.
    pub failed_logins: u32,
    /// Level 4: denied requests (600) within 5 min.
    pub denied_requests: u32,
    /// How long a ban lasts: the first, the next and so on (5 min, 15 min, 1 h, 4 h); spread by a tenth.
    pub durations: [Span; 4],
    /// Networks that are never banned by a rule: trusted proxies and those of administrators. Loopback is exempt anyway.
    #[serde(skip)]
    pub exempt: Vec<IpNet>,
}

/// The error code of a ban on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Code {
    /// Every client prints its message.
    #[default]
    TooManyRequests,
    /// docker wraps it into words of its own.
    Denied,
}

/// Different missing references of one client that are distinguished, at most.
const MAX_DIFFERENT: u32 = 1000;

/// No client fails so often in ten minutes.
const MAX_COUNT: u32 = 1_000_000;

impl Default for Settings {
    fn default() -> Settings {
        const MINUTE: u64 = 60;
        Settings {
            mode: Mode::DryRun,
            code: Code::default(),
            same_reference: 30,
            different_references: 40,
            upstream_exceeded: 3,
            failed_logins: 30,
            denied_requests: 600,
            durations: [5, 15, 60, 240].map(|minutes| Span::seconds(minutes * MINUTE)),
            exempt: Vec::new(),
        }
    }
}

impl Settings {
    /// Everything that is wrong with the table. The keys begin with `ban`.
    pub fn validate(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let counts = [
            ("same_reference", self.same_reference),
            ("different_references", self.different_references),
            ("upstream_exceeded", self.upstream_exceeded),
            ("failed_logins", self.failed_logins),
            ("denied_requests", self.denied_requests),
        ];
        for (key, count) in counts {
            let fix = match count {
                0 => r#"would act on the first failure; write at least 1, or ban.mode = "off""#,
                1..=MAX_COUNT => continue,
                _ => r#"is never reached; write at most 1000000, or ban.mode = "off""#,
            };
            errors.push(ConfigError::new(format!("ban.{key}"), count, fix));
        }
        if self.different_references > MAX_DIFFERENT {
            let fix = format!("no more than {MAX_DIFFERENT} are distinguished; write at most that");
            errors.push(ConfigError::new("ban.different_references", self.different_references, fix));
        }
        let [first, .., last] = self.durations;
        if !self.durations.is_sorted() || first.0 < MIN_DURATION || last.0 > MAX_DURATION {
            let written = self.durations.map(|span| span.to_string());
            let fix = r#"write four spans, each at least as long as the one before, from "1s" to "30d""#;
            errors.push(ConfigError::new("ban.durations", written, fix));
        }
        errors
    }

    pub(super) fn exempts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_loopback() || self.exempt.iter().any(|network| network.contains(&address))
    }
}
