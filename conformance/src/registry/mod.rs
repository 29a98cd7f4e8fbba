//! The distribution-spec, held against a registry: every MUST and SHOULD that a server can be held to, one check for each.
//!
//! A check is named in our own words and stands for an endpoint and the strength of its requirement, as in `end-7a MUST`. The
//! official suite tests registries by kinds of content and needs its reader to know which sentence a failure is about; here each
//! sentence has its row. What the specification leaves to the registry (MAY) has no row of its own: where a requirement hangs on
//! such a choice, and the registry chose otherwise, the row says "not run" and why.
//!
//! - [`support`] end-1, and names
//! - [`blobs`] end-2: pulling blobs, ranges
//! - [`manifests`] end-3: pulling manifests
//! - [`uploads`] end-4a to end-4c and end-6: blobs in one piece
//! - [`chunks`] end-5, end-6, end-13 and end-14: blobs in many, status, cancel
//! - [`mounts`] end-11
//! - [`pushes`] end-7a and end-7b: pushing manifests
//! - [`tags`] end-8a and end-8b
//! - [`referrers`] end-12a and end-12b, and `subject` on push
//! - [`deletes`] end-9 and end-10
//! - [`errors`] the form of errors and warnings, in every answer of the run
//!
//! Each check pushes to repositories of its own, so that the order does not matter and a registry need not be empty. Nothing is
//! cleaned up: a registry that is judged should be one that can be thrown away.

mod blobs;
mod check;
mod chunks;
mod command;
mod content;
mod deletes;
mod errors;
mod form;
mod manifests;
mod mounts;
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
    ("blobs", blobs::CHECKS),
    ("manifests", manifests::CHECKS),
    ("uploads", uploads::CHECKS),
    ("chunks", chunks::CHECKS),
    ("mounts", mounts::CHECKS),
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
    fn every_endpoint_has_a_check_that_says_how_strong_it_is() {
        let endpoints = [
            "end-1", "end-2", "end-3", "end-4a", "end-4b", "end-4c", "end-5", "end-6", "end-7a", "end-7b", "end-8a",
            "end-8b", "end-9", "end-10", "end-11", "end-12a", "end-12b", "end-13", "end-14",
        ];
        for endpoint in endpoints {
            assert!(
                names().any(|(_, line, _)| line.split(' ').next() == Some(endpoint)),
                "nothing stands for {endpoint}"
            );
        }
        for (_, line, name) in names() {
            let strength = line.split(' ').nth(1);
            assert!(matches!(strength, Some("MUST" | "SHOULD")), "{name}: {line}");
        }
    }
}
