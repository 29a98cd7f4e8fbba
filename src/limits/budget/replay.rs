//! What if: pulls that were granted or refused, in their order, under another policy or another limit. Pure.
//!
//! Each pull is decided at once; one that would have waited for a pull to come back counts as refused. A pull that was refused then and is
//! granted now brings its manifest into the cache: what asks for the same later needs no pull.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use super::{
    policy::{Policy, RefusalReason, Spender},
    spend_log::SpendLog,
};
use crate::{
    client::{Class, ClientKey},
    upstream::{Identity, ledger::Balance},
};

/// A pull that was granted or refused.
#[derive(Clone, Debug)]
pub struct PastPull {
    /// When.
    pub at: SystemTime,
    /// To whom.
    pub client: ClientKey,
    /// As it was then.
    pub class: Class,
    /// The same number for the same manifest.
    pub what: u64,
    /// Whether it was refused then.
    pub was_refused: bool,
}

/// What would have become of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Granted.
    pub granted: u64,
    /// Of these, refused then.
    pub gained: u64,
    /// Refused, and granted then.
    pub lost: u64,
    /// Neither granted nor refused: the manifest would have been here, thanks to a pull that was refused then.
    pub spared: u64,
    /// Refused: by class, as [`Class`] orders them.
    pub refused: [u64; 4],
    /// Of these, for want of any pull.
    pub exhausted: u64,
    /// Because a floor kept the rest for classes above.
    pub floor: u64,
    /// Because a client had had its share.
    pub share: u64,
    /// The fewest pulls that were left.
    pub least: u64,
}

/// Decides `pulls`, oldest first, once more, with `limit` pulls in each `window`.
pub fn replay(policy: &Policy, limit: u64, window: Duration, pulls: impl IntoIterator<Item = PastPull>) -> Replayed {
    let (mut log, mut replayed) = (SpendLog::default(), Replayed { least: limit, ..Replayed::default() });
    let mut gained = HashSet::new();
    for PastPull { at, client, class, what, was_refused } in pulls {
        // What upstream was asked for once more then had left the cache, or would have by now: it is asked for the next time.
        let is_here = if was_refused { gained.contains(&what) } else { gained.remove(&what) };
        if is_here {
            replayed.spared += 1;
            continue;
        }
        log.age(window, at);
        let spent = log.total() as u64;
        let remaining = limit.saturating_sub(spent);
        let balance = Balance {
            identity: Identity { upstream: "".into(), account: None },
            version: 0,
            unexplained: 0,
            limit: i64::try_from(limit).ok(),
            remaining: i64::try_from(remaining).ok(),
            window: Some(window),
            spent,
            external: 0,
            next_at: None,
        };
        let spender = Spender {
            spent: log.of(&client),
            others: log.others(&client),
            warmed: log.warmed(),
            // What was expected then is not known now.
            expected: client.is_warm().then_some(0),
            ..Spender::alone(class)
        };
        match policy.decide(&balance, &spender, at) {
            Ok(()) => {
                replayed.granted += 1;
                if was_refused {
                    replayed.gained += 1;
                    gained.insert(what);
                }
                replayed.least = replayed.least.min(remaining.saturating_sub(1));
                log.add(&client, at);
            }
            Err((reason, _)) => {
                replayed.lost += u64::from(!was_refused);
                if let Some(count) = replayed.refused.get_mut(class as usize) {
                    *count += 1;
                }
                match reason {
                    RefusalReason::Share { .. } => replayed.share += 1,
                    RefusalReason::Floor { .. } | RefusalReason::Forecast { .. } => replayed.floor += 1,
                    RefusalReason::Exhausted | RefusalReason::QueueFull => replayed.exhausted += 1,
                }
            }
        }
    }
    replayed
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::UNIX_EPOCH};

    use super::*;
    use crate::limits::budget::{Floors, Shares};

    const WINDOW: Duration = Duration::from_secs(3600);

    /// One pull every minute: the clients in turn, of which the first is bulk.
    fn pulls(count: u64, clients: u8) -> impl Iterator<Item = PastPull> {
        (0..count).map(move |number| {
            let client = (number % u64::from(clients)) as u8;
            let class = if client == 0 { Class::Bulk } else { Class::Standard };
            let client = ClientKey::Address(IpAddr::from([10, 0, 0, client]));
            let at = UNIX_EPOCH + Duration::from_secs(60 * number);
            PastPull { at, client, class, what: number, was_refused: false }
        })
    }

    fn policy(bulk: f64, share: f64) -> Policy {
        Policy {
            floors: Floors { critical: 0.0, standard: 0.0, bulk },
            shares: Shares { standard: share, bulk: share },
            above: [true, false, false],
            ..Policy::default()
        }
    }

    #[test]
    fn a_limit_a_floor_and_a_share_refuse_what_they_would_have_refused() {
        let all = replay(&policy(0.0, 1.0), 60, WINDOW, pulls(120, 2));
        assert_eq!(all, Replayed { granted: 120, least: 0, ..Replayed::default() }, "sixty in each hour is enough");
        let fewer = replay(&policy(0.0, 1.0), 30, WINDOW, pulls(60, 2));
        assert_eq!((fewer.granted, fewer.exhausted, fewer.refused), (30, 30, [15, 15, 0, 0]));
        assert_eq!((fewer.lost, fewer.gained, fewer.spared), (30, 0, 0));
        // With half of sixty kept from bulk, it stops when thirty are left, and the others have the rest.
        let floor = replay(&policy(0.5, 1.0), 60, WINDOW, pulls(60, 2));
        assert_eq!((floor.granted, floor.floor, floor.refused), (45, 15, [15, 0, 0, 0]));
        // Three of a limit of sixty is a client's share once it is scarce: below three fifths, which is after 24 pulls.
        let share = replay(&policy(0.0, 0.05), 60, WINDOW, pulls(60, 2));
        assert_eq!((share.granted, share.share), (24, 36));
    }

    #[test]
    fn what_was_refused_is_granted_by_a_laxer_policy_and_then_no_pull_is_needed_for_it() {
        // Of ten that were refused, the second and the last want what the first wants; then that is pulled twice.
        let wish = |(number, what, was_refused): (u64, u64, bool)| PastPull {
            what,
            was_refused,
            ..pulls(10 + number, 1).last().unwrap()
        };
        let mut wishes: Vec<_> = (0..10).map(|number| (number, number, true)).collect();
        (wishes[1].1, wishes[9].1) = (0, 0);
        wishes.extend([(10, 0, false), (11, 0, false)]);
        let wishes = || wishes.iter().copied().map(wish);
        let all = replay(&policy(0.0, 1.0), 60, WINDOW, wishes());
        assert_eq!((all.granted, all.gained, all.lost, all.spared, all.least), (9, 8, 0, 3, 51));
        let some = replay(&policy(0.0, 1.0), 3, WINDOW, wishes());
        assert_eq!((some.granted, some.gained, some.lost, some.spared, some.exhausted), (3, 3, 1, 3, 6));
        let none = replay(&policy(0.0, 1.0), 0, WINDOW, wishes());
        assert_eq!((none.granted, none.gained, none.lost, none.spared), (0, 0, 2, 0));
    }

    #[test]
    fn what_leaves_the_window_can_be_spent_again() {
        let replayed = replay(&policy(0.0, 1.0), 10, WINDOW, pulls(600, 2));
        assert_eq!(replayed.granted, 100, "ten in each of ten hours");
    }
}
