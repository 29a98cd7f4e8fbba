//! One check of the suite: what it is called, what it stands for, what it needs, and how it runs.

use std::{future::Future, pin::Pin, sync::Arc};

use super::harness::{Harness, Needs};
use crate::check::Outcome;

type Run = fn(Arc<Harness>) -> Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// One check.
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) stands_for: &'static str,
    pub(super) needs: Needs,
    pub(super) run: Run,
}

/// `check!(name, what it stands for, function)`, with what it needs as an optional last word.
macro_rules! check {
    ($name:literal, $stands_for:literal, $run:path) => {
        check!($name, $stands_for, $run, Nothing)
    };
    ($name:literal, $stands_for:literal, $run:path, $needs:ident) => {
        $crate::mirror::check::Check {
            name: $name,
            stands_for: $stands_for,
            needs: $crate::mirror::Needs::$needs,
            run: |harness| Box::pin($run(harness)),
        }
    };
}
pub(super) use check;
