//! What the official conformance suite does not ask of a registry: sentences of the distribution-spec that it has no test for.
//!
//! `conformance/run` runs the official suite, which goes by kinds of content: every way to push, pull, list and delete each kind,
//! with whole digests, mounts, chunks out of order, subjects and filters. This suite has the rest: names and references that the
//! grammar does not have, other repositories, sessions that have ended, pages of lists, what a failed push leaves behind, and the
//! form of errors. Each check is named in our own words and stands for an endpoint and the strength of its requirement, as in
//! `end-7a MUST`. Where a requirement hangs on a choice that the registry has, and it chose otherwise, the row says "not run" and why.
//!
//! Each check pushes to repositories of its own, so that the order does not matter and a registry need not be empty. Nothing is
//! cleaned up: a registry that is judged should be one that can be thrown away.

mod check;
mod command;
mod content;
mod deletes;
mod errors;
mod form;
mod pulls;
mod pushes;
mod referrers;
mod server;
mod support;
mod tags;
mod tokens;
mod uploads;

use std::{sync::Arc, time::Duration};

use crate::{
    check::{attempt, verdict},
    report::{Report, Row},
};
use check::{Check, check};
pub use command::Command;
pub use server::Registry;

/// No check may take longer.
const LONGEST: Duration = Duration::from_secs(60);

/// Every group, in the order it runs. `errors` looks back on all the others.
const GROUPS: &[(&str, &[Check])] = &[
    ("support", support::CHECKS),
    ("pulls", pulls::CHECKS),
    ("uploads", uploads::CHECKS),
    ("pushes", pushes::CHECKS),
    ("tags", tags::CHECKS),
    ("referrers", referrers::CHECKS),
    ("deletes", deletes::CHECKS),
    ("errors", errors::CHECKS),
];

/// Runs the checks whose name, group or endpoint holds one of `only` (all when empty), handing each row to `each` as it ends.
pub async fn run(registry: Arc<Registry>, only: &[String], subject: String, mut each: impl FnMut(&Row)) -> Report {
    let mut rows = Vec::new();
    for (group, checks) in GROUPS {
        for check in checks.iter().filter(|check| chosen(only, group, check)) {
            let start = std::time::Instant::now();
            let (verdict, figure) = verdict(attempt(LONGEST, (check.run)(registry.clone())).await);
            let seconds = start.elapsed().as_secs_f64();
            let (name, stands_for) = (check.name.into(), check.line.into());
            rows.push(Row { group: (*group).into(), name, stands_for, verdict, figure, seconds });
            rows.last().into_iter().for_each(&mut each);
        }
    }
    Report { subject, rows }
}

/// Names of all checks, by group, with the endpoint and strength each stands for.
pub fn names() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    GROUPS.iter().flat_map(|(group, checks)| checks.iter().map(move |check| (*group, check.line, check.name)))
}

fn chosen(only: &[String], group: &str, check: &Check) -> bool {
    let said =
        |word: &String| check.name.contains(word.as_str()) || group == word || check.line.split(' ').any(|w| w == word);
    only.is_empty() || only.iter().any(said)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_check_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = names().map(|(_, _, name)| name).collect();
        assert_eq!(names.len(), super::names().count());
    }

    #[test]
    fn every_check_says_how_strong_its_sentence_is() {
        for (_, line, name) in names() {
            assert!(matches!(line.split(' ').nth(1), Some("MUST" | "SHOULD")), "{name}: {line}");
        }
    }
}
