//! Whether a counted request may be sent: what an identity has left, and who asks, to a decision. Pure.

use std::time::{Duration, SystemTime};

use crate::{asker::Class, upstream::ledger::Left};

/// What to do about a counted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Reserve it and send it.
    Spend,
    /// There is nothing left for this class; more comes by forecast after this long.
    Refuse {
        /// At least a second.
        retry_after: Duration,
    },
}

/// The share of the limit that each class leaves to those above it, from 0 to 1.
///
/// A floor binds only when somebody is above it, so all are zero until classes are configured: a lone docker may use
/// every pull there is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Floors {
    /// What production leaves.
    pub critical: f64,
    /// What everybody else leaves to production.
    pub standard: f64,
    /// What scanners leave to all others.
    pub bulk: f64,
}

/// What is asked of the budget besides what is left.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Policy {
    /// Who leaves how much to whom.
    pub floors: Floors,
}

impl Policy {
    /// Decides for one request of `class`. An identity that upstream does not meter may always spend.
    pub fn decide(&self, left: &Left, class: Class, now: SystemTime) -> Decision {
        let Some(remaining) = left.remaining else { return Decision::Spend };
        let share = match class {
            Class::Exempt => 0.0,
            Class::Critical => self.floors.critical,
            Class::Standard => self.floors.standard,
            Class::Bulk => self.floors.bulk,
        };
        let floor = left.limit.map_or(0.0, |limit| limit.max(0) as f64 * share);
        if remaining > 0 && remaining as f64 > floor {
            Decision::Spend
        } else {
            Decision::Refuse { retry_after: left.retry_after(now) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Identity;

    #[test]
    fn the_last_pull_may_be_spent_and_floors_hold_when_they_are_set() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let none = Policy::default();
        let floors = Policy { floors: Floors { critical: 0.0, standard: 0.1, bulk: 0.4 } };
        for (policy, remaining, class, spends) in [
            (none, None, Class::Bulk, true),
            (none, Some(1), Class::Bulk, true),
            (none, Some(0), Class::Exempt, false),
            (none, Some(-3), Class::Critical, false),
            (floors, None, Class::Bulk, true),
            (floors, Some(41), Class::Bulk, true),
            (floors, Some(40), Class::Bulk, false),
            (floors, Some(11), Class::Standard, true),
            (floors, Some(10), Class::Standard, false),
            (floors, Some(1), Class::Critical, true),
            (floors, Some(1), Class::Exempt, true),
            (floors, Some(0), Class::Critical, false),
        ] {
            let left = Left {
                identity: Identity { upstream: "docker.io".into(), account: None },
                limit: remaining.map(|_| 100),
                remaining,
                window: None,
                spent: 0,
                external: 0,
                next_at: Some(now + Duration::from_secs(90)),
            };
            let expected = match spends {
                true => Decision::Spend,
                false => Decision::Refuse { retry_after: Duration::from_secs(90) },
            };
            assert_eq!(policy.decide(&left, class, now), expected, "{remaining:?} {class:?}");
        }
    }
}
