//! Failed logins: how many one address may have, and how many of them are noted in the audit.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use crate::{
    client::ClientKey,
    limits::{
        address,
        throttle::{Algorithm, Meter, Meters, Mode, Rules, Table, Throttle},
    },
};

/// Failed logins of one address within [`PERIOD`]; half of them at once.
const PER_ADDRESS: u32 = 20;
const PERIOD: u32 = 300;
/// Different credentials that one address may send within [`PERIOD`] after that, and have none of them verified; half of them at once. Past it,
/// what is remembered does not count for the address either: it would tell the right guess from the wrong ones.
const GUESSES: u32 = 100;
/// Entries of the audit within an hour: for the refusals of one address, and of one account; failed logins have
/// the account "anonymous" together.
const NOTED_PER_CLIENT: u32 = 100;
/// A network (IPv4 /24, IPv6 /48) may have so many times what one of its addresses may: as many as there are addresses in a /24,
/// so that no neighbour shuts out the owner of a password.
const PER_NETWORK: u32 = 256;
/// Addresses that are counted apart (65,536); what comes after them is counted together.
const ADDRESSES: usize = 1 << 16;

/// Counts failed logins, and refusals that go into the audit. No setting switches it off.
pub(super) struct Failures {
    rules: Rules,
    table: Table,
    guess_rules: Rules,
    guesses: Table,
    note_rules: Rules,
    notes: Table,
}

impl Failures {
    pub(super) fn new() -> Failures {
        let setting = |who: &str, requests_per_period, period_in_seconds| Throttle {
            name: format!("throttle_{who}_auth"),
            requests_per_period,
            period_in_seconds,
            burst: Some(requests_per_period / 2),
            algorithm: Algorithm::Gcra,
            mode: Mode::Enforce,
        };
        // The settings are constants that a test has seen accepted.
        let rules = |settings: &[Throttle]| Rules::new(settings, &[], PER_NETWORK).unwrap_or_default();
        Failures {
            rules: rules(&[setting("unauthenticated", PER_ADDRESS, PERIOD)]),
            table: Table::new(ADDRESSES),
            guess_rules: rules(&[setting("unauthenticated", GUESSES, PERIOD)]),
            guesses: Table::new(ADDRESSES),
            note_rules: rules(&[
                setting("unauthenticated", NOTED_PER_CLIENT, 3600),
                setting("authenticated", NOTED_PER_CLIENT, 3600),
            ]),
            notes: Table::new(4096),
        }
    }

    /// Whether this address may try another password.
    ///
    /// # Errors
    /// How long it must wait.
    pub(super) fn check(&self, from: IpAddr, now: SystemTime) -> Result<(), Duration> {
        let decision = self.table.check(&self.rules, &key(from), Meters::NONE, Meter::Auth.alone(), now);
        decision.denied().map_or(Ok(()), |standing| Err(standing.more_in))
    }

    /// Counts a password of this address that was wrong.
    pub(super) fn add(&self, from: IpAddr, now: SystemTime) {
        self.table.charge(&self.rules, &key(from), Meter::Auth, 1, now);
    }

    /// Counts credentials that were not verified because this address must wait.
    pub(super) fn add_guess(&self, from: IpAddr, now: SystemTime) {
        self.guesses.charge(&self.guess_rules, &key(from), Meter::Auth, 1, now);
    }

    /// Whether this address goes on guessing while it must wait.
    pub(super) fn is_guessing(&self, from: IpAddr, now: SystemTime) -> bool {
        self.guesses.check(&self.guess_rules, &key(from), Meters::NONE, Meter::Auth.alone(), now).denied().is_some()
    }

    /// Whether one more refusal goes into the audit. That holds 10,000 entries, and lifts of bans are counted from it by the day: no client
    /// may push them out within a day.
    pub(super) fn may_note(&self, name: &str, from: IpAddr, now: SystemTime) -> bool {
        let meter = Meter::Auth.alone();
        let keys = [key(from), ClientKey::Principal(name.into())];
        keys.iter().all(|key| self.notes.check(&self.note_rules, key, meter, meter, now).denied().is_none())
    }
}

fn key(from: IpAddr) -> ClientKey {
    ClientKey::Address(address::key_address(from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    #[test]
    fn wrong_passwords_slow_down_their_own_address_and_no_other() {
        let failures = Failures::new();
        let from = |last: u8| IpAddr::from([10, 0, 0, last]);
        let fail = |last| failures.check(from(last), at(0)).map(|()| failures.add(from(last), at(0)));
        assert_eq!((0..100).filter(|_| fail(1).is_ok()).count(), 10);
        let wait = failures.check(from(1), at(0)).unwrap_err();
        assert!(wait > Duration::from_secs(10) && wait <= Duration::from_secs(40), "{wait:?}");
        // All others of the same network together do not shut out one that is left.
        for last in 2..255 {
            while fail(last).is_ok() {}
        }
        assert!(failures.check(from(255), at(0)).is_ok());
        assert!(failures.check(from(1), at(300)).is_ok());
    }

    #[test]
    fn a_flood_of_refusals_does_not_fill_the_audit() {
        let failures = Failures::new();
        let day = (0..86_400).filter(|second| failures.may_note("ann", [10, 0, 0, 1].into(), at(*second))).count();
        assert!((1000..2500).contains(&day), "{day} of 86,400");
        // Failed logins have no account; from however many addresses they come, they are noted together.
        let failures = Failures::new();
        let noted = |second: u64| failures.may_note("anonymous", [10, 0, (second % 250) as u8, 1].into(), at(second));
        let day = (0..86_400).filter(|second| noted(*second)).count();
        assert!((1000..2500).contains(&day), "{day} of 86,400");
    }
}
