//! One check of the suite: the sentence of the specification it holds, and how it runs.

use std::{future::Future, pin::Pin, sync::Arc};

use super::server::Registry;
use crate::check::Outcome;

type Run = fn(Arc<Registry>) -> Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// One sentence of the specification.
pub(super) struct Check {
    pub(super) name: &'static str,
    /// Endpoint and strength.
    pub(super) line: &'static str,
    pub(super) run: Run,
}

/// `check!(name, endpoint and strength, function)`.
macro_rules! check {
    ($name:literal, $line:literal, $run:path) => {
        $crate::registry::check::Check { name: $name, line: $line, run: |registry| Box::pin($run(registry)) }
    };
}
pub(super) use check;
