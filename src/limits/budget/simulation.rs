//! A week of a company behind one address, in simulated time, through the real admission code; and first come, first served beside it.
//!
//! The hub grants 200 pulls in any 6 hours. Twelve production nodes, six build agents, fifteen developers, and one scanner that twice a day walks
//! through 350 images and asks every ten minutes for those it did not get. Build agents and developers try twice more after 45 seconds. A
//! pull is denied when its last try is. A toy: the order of the lines is what it shows, not the digits.
//!
//! In the second test a warm takes the place of the scanner, and the pulls that are denied are compared with those of a week without it.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::*;
use crate::{
    client::{Class, ClientKey, OnExceed},
    upstream::{Identity, ledger::Balance},
};

const LIMIT: usize = 200;
const WINDOW: u64 = 6 * 3600;
const DAY: u64 = 24 * 3600;
const DAYS: u64 = 7;
/// Who warms, beside the clients 0 to 33.
const WARM: u8 = 34;

/// What a pull is, and whose.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pull {
    client: u8,
    what: u64,
    tries: u8,
    /// When a scanner gives a pull up: its next walk begins.
    until: u64,
}

/// Pulls that upstream granted, oldest first.
struct Hub(VecDeque<u64>);

impl Hub {
    fn left(&mut self, now: u64) -> Balance {
        while self.0.front().is_some_and(|at| at + WINDOW <= now) {
            self.0.pop_front();
        }
        Balance {
            identity: Identity { upstream: "docker.io".into(), account: None },
            version: 0,
            unexplained: 0,
            limit: Some(LIMIT as i64),
            remaining: Some((LIMIT - self.0.len()) as i64),
            window: Some(Duration::from_secs(WINDOW)),
            spent: self.0.len() as u64,
            external: 0,
            next_at: self.0.front().map(|at| time(at + WINDOW)),
        }
    }
}

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn kind(client: u8) -> usize {
    match client {
        0..12 => 0,
        12..18 => 1,
        18..33 => 2,
        _ => 3,
    }
}

/// A small generator (xorshift), so that the trace is the same everywhere.
struct RandomSource(u64);

impl RandomSource {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

fn trace(seed: u64) -> Vec<(u64, Pull)> {
    let mut chance = RandomSource(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut pulls = Vec::new();
    let mut what = 0;
    let mut pull = |at: u64, client: u8, tries: u8, until: u64| {
        what += 1;
        pulls.push((at, Pull { client, what, tries, until }));
    };
    for day in (0..DAYS).map(|day| day * DAY) {
        for node in 0..12 {
            // Deployments of two or three images at any hour.
            for _ in 0..2 {
                let at = day + chance.below(DAY);
                (0..2 + chance.below(2)).for_each(|image| pull(at + image, node, 1, u64::MAX));
            }
        }
        for agent in 12..18 {
            for _ in 0..6 {
                let at = day + 7 * 3600 + chance.below(13 * 3600);
                (0..3).for_each(|image| pull(at + image * 5, agent, 3, u64::MAX));
            }
        }
        for developer in 18..33 {
            for _ in 0..5 {
                pull(day + 8 * 3600 + chance.below(10 * 3600), developer, 3, u64::MAX);
            }
        }
        for walk in [day + 2 * 3600, day + 14 * 3600] {
            (0..350).for_each(|image| pull(walk + image * 2, 33, 1, walk + 12 * 3600 - 600));
        }
    }
    pulls
}

#[derive(Debug, Default)]
struct Outcome {
    asked: [u32; 4],
    denied: [u32; 4],
    granted: u32,
    /// Pulls of the warm.
    warmed: u32,
    /// When it had all of them.
    done: Option<u64>,
}

/// Plays the trace; `policy` is `None` for first come, first served. With `warm`, so many pulls are warmed from the first minute on, and
/// there is no scanner.
fn play(seed: u64, policy: Option<&Policy>, warm: Option<u32>) -> Outcome {
    let mut outcome = Outcome::default();
    // Times of what clients above bulk spent.
    let mut above = Demand { spent: Vec::new(), since: time(0) };
    let mut hub = Hub(VecDeque::new());
    let mut admission = Admission::default();
    let mut waiting: Vec<(Ticket, Pull, u64)> = Vec::new();
    let mut events: BinaryHeap<Reverse<(u64, Option<Pull>)>> = BinaryHeap::new();
    let warmer = Pull { client: WARM, what: 0, tries: 1, until: u64::MAX };
    events.extend(warm.filter(|wanted| *wanted > 0).map(|_| Reverse((0, Some(warmer)))));
    for (at, pull) in trace(seed).into_iter().filter(|(_, pull)| warm.is_none() || kind(pull.client) != 3) {
        outcome.asked[kind(pull.client)] += 1;
        events.push(Reverse((at, Some(pull))));
    }
    let class = |client: u8| [Class::Critical, Class::Standard, Class::Standard, Class::Bulk][kind(client)];
    let key = |client: u8| ClientKey::Address([10, 0, 0, client].into());
    let refused = |outcome: &mut Outcome, events: &mut BinaryHeap<_>, pull: Pull, now: u64| {
        if kind(pull.client) == 3 && now + 600 < pull.until {
            events.push(Reverse((now + 600, Some(pull))));
        } else if pull.tries > 1 {
            events.push(Reverse((now + 45, Some(Pull { tries: pull.tries - 1, ..pull }))));
        } else {
            outcome.denied[kind(pull.client)] += 1;
        }
    };
    while let Some(Reverse((now, event))) = events.pop() {
        let left = hub.left(now);
        if let (Some(policy), Some(pull)) = (policy, event.filter(|pull| pull.client == WARM)) {
            let client = ClientKey::warm("night");
            let window = Duration::from_secs(WINDOW);
            let ask = SpendRequest {
                client: &client,
                class: Class::Bulk,
                what: 0,
                on_exceed: OnExceed::Deny,
                overrides: false,
                expected: Some(above.expected(LIMIT as u64, window, time(now))),
            };
            while Some(outcome.warmed) < warm
                && admission.ask(policy, &hub.left(now), ask, time(now)) == BudgetDecision::Spend
            {
                hub.0.push_back(now);
                admission.spend(&client, time(now));
                outcome.warmed += 1;
            }
            match Some(outcome.warmed) < warm && now < DAYS * DAY {
                true => events.push(Reverse((now + 60, Some(pull)))),
                false => outcome.done = Some(now),
            }
            continue;
        }
        let Some(policy) = policy else {
            let Some(pull) = event else { continue };
            match left.remaining > Some(0) {
                true => hub.0.push_back(now),
                false => refused(&mut outcome, &mut events, pull, now),
            }
            outcome.granted += u32::from(left.remaining > Some(0));
            continue;
        };
        if let Some(pull) = event {
            let (client, class) = (key(pull.client), class(pull.client));
            let ask = SpendRequest {
                client: &client,
                class,
                what: pull.what,
                on_exceed: OnExceed::Queue,
                overrides: false,
                expected: None,
            };
            match admission.ask(policy, &left, ask, time(now)) {
                BudgetDecision::Spend => {
                    hub.0.push_back(now);
                    above.spent.extend((class > Class::Bulk).then(|| time(now)));
                    outcome.granted += 1;
                    admission.spend(&client, time(now));
                }
                BudgetDecision::Wait { ticket, .. } => {
                    waiting.push((ticket, pull, now));
                    // A look at the queue every second while it may hold a client.
                    (1..=10).for_each(|second| events.push(Reverse((now + second, None))));
                }
                BudgetDecision::Refuse { .. } => refused(&mut outcome, &mut events, pull, now),
            }
        }
        while let Some(ticket) = admission.turn(policy, &hub.left(now), time(now)) {
            let at = waiting.iter().position(|(waits, ..)| *waits == ticket).unwrap();
            let (_, pull, _) = waiting.remove(at);
            hub.0.push_back(now);
            above.spent.extend((kind(pull.client) < 3).then(|| time(now)));
            outcome.granted += 1;
            admission.spend(&key(pull.client), time(now));
        }
        let patience = policy.queue_max_wait.as_secs();
        for (ticket, pull, _) in waiting.extract_if(.., |(.., since)| *since + patience <= now) {
            admission.leave(ticket);
            refused(&mut outcome, &mut events, pull, now);
        }
    }
    assert!(waiting.is_empty());
    outcome
}

#[test]
fn a_scanner_does_not_starve_production() {
    const SEEDS: u64 = 3;
    let floors = Policy { above: [true, true, false], ..Policy::default() };
    let bare = Policy { shares: Shares { standard: 1.0, bulk: 1.0 }, ..floors.clone() };
    println!("a week, {LIMIT} pulls per 6 h, {SEEDS} seeds: pulls denied after all tries");
    println!("| policy | production | CI | developers | scanner | pulls a day |");
    println!("|---|---|---|---|---|---|");
    let mut rows = Vec::new();
    for (name, policy) in [
        ("first come, first served", None),
        ("floors 0/10/40 %", Some(&bare)),
        ("floors 0/10/40 %, shares 25/30 % (as shipped)", Some(&floors)),
    ] {
        let mut total = Outcome::default();
        for seed in 1..=SEEDS {
            let week = play(seed, policy, None);
            (0..4).for_each(|kind| {
                total.asked[kind] += week.asked[kind];
                total.denied[kind] += week.denied[kind];
            });
            total.granted += week.granted;
        }
        let denied: Vec<f64> =
            (0..4).map(|kind| 100.0 * f64::from(total.denied[kind]) / f64::from(total.asked[kind])).collect();
        let [production, ci, developers, scanner] = denied[..] else { unreachable!() };
        let granted = u64::from(total.granted) / SEEDS / DAYS;
        println!("| {name} | {production:.2} % | {ci:.2} % | {developers:.2} % | {scanner:.1} % | {granted} |");
        rows.push(denied);
    }
    assert!(rows[2][0] < 0.5, "production {:.2} %", rows[2][0]);
    assert!(rows[2][1] < 7.0, "CI {:.2} %", rows[2][1]);
    assert!(rows[0][0] > 10.0 * rows[2][0].max(0.5), "first come, first served would do as well");
}

/// A warm of 500 pulls, begun with a ledger that knows nothing, costs no client a pull, and has all of them within the week.
#[test]
fn a_warm_of_500_pulls_denies_no_client_one_and_ends_within_a_week() {
    const SEEDS: u64 = 20;
    // As a Weir without any [[class]], and as one with production in a class of its own.
    for policy in [Policy::default(), Policy { above: [true, true, false], ..Policy::default() }] {
        for seed in 1..=SEEDS {
            let (without, with) = (play(seed, Some(&policy), Some(0)), play(seed, Some(&policy), Some(500)));
            println!(
                "seed {seed}: denied {:?}, with a warm {:?}, done {:?} h",
                without.denied,
                with.denied,
                with.done.map(|at| at / 3600)
            );
            assert_eq!((with.denied, with.granted), (without.denied, without.granted), "seed {seed}");
            assert_eq!(with.warmed, 500, "seed {seed}");
        }
    }
}
