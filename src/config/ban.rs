//! `[ban]`: whether clients that keep failing are turned away by themselves.

use serde::{Deserialize, Serialize};

use super::{Mistake, Span, throttle::Mode};
use crate::limits::{
    abuse,
    bans::{MAX_DURATION, MIN_DURATION},
};

/// Different references that the ladder tells apart.
const MOST_DIFFERENT: u32 = 1000;

/// More than anybody counts to in ten minutes.
const MOST: u32 = 1_000_000;

/// Automatic bans. Those of an operator always act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ban {
    /// For rungs 2 to 4.
    pub mode: Mode,
    /// What a ban is called on the wire.
    pub code: Code,
    /// Rung 1: misses of one reference by one client within 5 min that upstream may still be asked for.
    pub same_reference: u32,
    /// Rung 2: different missing references within 10 min, at most 1,000.
    pub different_references: u32,
    /// Rung 2: times within 10 min that the `_upstream` throttle is exceeded.
    pub upstream_exceeded: u32,
    /// Rung 3: failed logins within 3 min.
    pub failed_logins: u32,
    /// Rung 4: denied requests within 5 min.
    pub denied_requests: u32,
    /// How long a ban lasts: the first, the next, and so on; spread by a tenth.
    pub durations: [Span; 4],
}

/// The code of a 403.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Code {
    /// Which every client prints with its message.
    #[default]
    TooManyRequests,
    /// Which docker wraps into words of its own.
    Denied,
}

impl Default for Ban {
    fn default() -> Ban {
        let abuse = abuse::Settings::default();
        Ban {
            mode: Mode::DryRun,
            code: Code::default(),
            same_reference: abuse.same_reference,
            different_references: abuse.different_references,
            upstream_exceeded: abuse.upstream_exceeded,
            failed_logins: abuse.failed_logins,
            denied_requests: abuse.denied_requests,
            durations: abuse.durations.map(Span),
        }
    }
}

impl Ban {
    pub(super) fn check(&self, mistakes: &mut Vec<Mistake>) {
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
                1..=MOST => continue,
                _ => r#"is never reached; write at most 1000000, or ban.mode = "off""#,
            };
            mistakes.push(Mistake::new(format!("ban.{key}"), count, fix));
        }
        if self.different_references > MOST_DIFFERENT {
            let fix = format!("no more than {MOST_DIFFERENT} are told apart; write at most that");
            mistakes.push(Mistake::new("ban.different_references", self.different_references, fix));
        }
        let [first, .., last] = self.durations;
        if !self.durations.is_sorted() || first.0 < MIN_DURATION || last.0 > MAX_DURATION {
            let written = self.durations.map(|span| span.to_string());
            let fix = r#"write four spans, each at least as long as the one before, from "1s" to "30d""#;
            mistakes.push(Mistake::new("ban.durations", written, fix));
        }
    }

    /// What the ladder goes by; whom it spares is not said here.
    pub(super) fn abuse(&self) -> abuse::Settings {
        abuse::Settings {
            same_reference: self.same_reference,
            different_references: self.different_references,
            failed_logins: self.failed_logins,
            denied_requests: self.denied_requests,
            upstream_exceeded: self.upstream_exceeded,
            durations: self.durations.map(|span| span.0),
            ..abuse::Settings::default()
        }
    }
}
