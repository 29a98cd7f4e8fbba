//! What the contract has and this version does not do yet, so that nobody relies on a fence that is not there.
//!
//! All tables are read and checked. A table that asks for what is not there is a mistake and stops the start.

use super::{Config, Mistake};

/// What would be relied on and does not exist.
pub(super) fn refusals(config: &Config) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    if !config.hosted.namespaces.is_empty() {
        mistakes.push(Mistake::new(
            "hosted.namespaces",
            &config.hosted.namespaces,
            "this version only mirrors and takes no pushes; remove the entry",
        ));
    }
    mistakes
}
