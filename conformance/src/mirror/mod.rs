//! The mirror suite: what a mirror spends, shares, survives and refuses, seen from both of its sides.
//!
//! A Docker Hub on loopback is the mirror's upstream, and clients of ours are its clients. So a check knows what was asked of the
//! mirror, what it answered, and exactly what it asked upstream for it: that third thing is the point, since a mirror that answers
//! rightly and spends a hundred pulls on it has failed.
//!
//! - `herd` many at once on something cold: what is shared, and how soon it flows
//! - `warm` what is here already: no upstream, no budget, no token service
//! - `limits` both of Hub's 429s
//! - `broken` every way an upstream body can be wrong
//! - `upstream_faults` every way an upstream can fail before there is a body
//! - `clients` the shapes clients ask in: ranges, resumes, leavers and stallers
//! - `tags` freshness: moved tags, unchanged tags, stale answers and how they say so
//! - `listings` tags, referrers, catalog
//! - `refusals` what must be refused, and without asking upstream
//! - `crash` kill -9, restart
//! - `ledger` what the mirror says it spent against what the hub counted
//! - `slow` what measures the machine too, or waits a minute: not part of `cargo test`
//!
//! Each check works on repositories of its own, made from a new seed, so nothing is restarted in between and a mirror
//! that keeps its data between two runs is cold all the same. After each check the hub is healed, and the suite waits until the
//! mirror pulls again: how long that took is part of the figure when it is more than a second.

mod broken;
mod check;
mod clients;
mod command;
mod crash;
mod harness;
mod herd;
mod ledger;
mod limits;
mod listings;
pub mod process;
mod refusals;
mod slow;
mod tags;
mod upstream_faults;
mod warm;

use std::{sync::Arc, time::Duration};

pub(crate) use crate::check::ensure;
pub use crate::check::{Failure, Outcome};
use crate::{
    check::{attempt, verdict},
    report::{Report, Row, Verdict},
};
use check::{Check, check};
pub use command::Command;
pub use harness::{Harness, Image, Needs, UpstreamCost};

/// No check may take longer.
const LONGEST: Duration = Duration::from_secs(180);

/// Every group, in the order it runs. What disturbs the mirror most comes last.
const GROUPS: &[(&str, &[Check])] = &[
    ("herd", herd::CHECKS),
    ("clients", clients::CHECKS),
    ("warm", warm::CHECKS),
    ("tags", tags::CHECKS),
    ("listings", listings::CHECKS),
    ("refusals", refusals::CHECKS),
    ("broken", broken::CHECKS),
    ("upstream faults", upstream_faults::CHECKS),
    ("limits", limits::CHECKS),
    ("ledger", ledger::CHECKS),
    ("crash", crash::CHECKS),
    ("slow", slow::CHECKS),
];

/// Runs the checks whose name or group holds one of `only` (all when empty), printing each as it ends.
pub async fn run(harness: Arc<Harness>, only: &[String], subject: String) -> Report {
    let mut rows = Vec::new();
    for (group, checks) in GROUPS {
        for check in checks.iter().filter(|check| chosen(only, group, check.name)) {
            let row = run_one(&harness, group, check).await;
            println!("{}", row.line(62));
            rows.push(row);
        }
    }
    Report { subject, rows }
}

/// Names of all checks, by group.
pub fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    GROUPS.iter().flat_map(|(group, checks)| checks.iter().map(move |check| (*group, check.name)))
}

/// Every group's name.
fn groups() -> impl Iterator<Item = &'static str> {
    GROUPS.iter().map(|(group, _)| *group)
}

/// The first word that chooses no check at all.
fn matches_none(only: &[String]) -> Option<&String> {
    only.iter().find(|word| !names().any(|(group, name)| chosen(std::slice::from_ref(word), group, name)))
}

/// A word that is a group's name chooses that group alone; another one chooses the checks whose name holds it.
fn chosen(only: &[String], group: &str, name: &str) -> bool {
    only.is_empty()
        || only.iter().any(|word| match groups().any(|known| known == word) {
            true => group == word,
            false => name.contains(word.as_str()),
        })
}

async fn run_one(harness: &Arc<Harness>, group: &'static str, check: &Check) -> Row {
    let start = std::time::Instant::now();
    let harness = harness.suited(check.needs);
    let outcome = match harness.lacks(check.needs) {
        Some(reason) => Err(Failure::NotRun(reason.to_owned())),
        None => attempt(LONGEST, (check.run)(harness.clone())).await,
    };
    let (verdict, mut figure) = verdict(outcome);
    if verdict != Verdict::NotRun {
        match harness.settle().await {
            Ok(after) if after < Duration::from_secs(1) => {}
            Ok(after) => figure.push_str(&format!("; pulls again {:.1} s later", after.as_secs_f64())),
            Err(sentence) => figure.push_str(&format!("; AND DOES NOT RECOVER: {sentence}")),
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    Row { group: group.into(), name: check.name.into(), stands_for: check.stands_for.into(), verdict, figure, seconds }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn all() -> impl Iterator<Item = &'static Check> {
        GROUPS.iter().flat_map(|(_, checks)| checks.iter())
    }

    #[test]
    fn every_check_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = all().map(|check| check.name).collect();
        assert_eq!(names.len(), all().count());
    }

    #[test]
    fn every_invariant_that_shows_outside_has_a_check() {
        for number in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12] {
            let stands = |check: &Check| {
                let numbers = check.stands_for.split(';').next().unwrap_or_default();
                numbers.starts_with("invariant")
                    && numbers.split(|c: char| !c.is_ascii_digit()).any(|word| word == number.to_string())
            };
            assert!(all().any(stands), "no check stands for invariant {number}");
        }
    }

    #[test]
    fn only_takes_groups_and_parts_of_names() {
        assert!(chosen(&[], "warm", "x"));
        assert!(chosen(&["warm".into()], "warm", "x"));
        assert!(chosen(&["60 clients".into()], "herd", "60 clients, one cold image"));
        assert!(!chosen(&["warm".into()], "herd", "200 clients on a warm image"));
    }
}
