//! One check of a suite: what it returns, and how it is kept from taking the run with it.

use std::{future::Future, time::Duration};

use crate::report::Verdict;

/// What a check returns: a figure, or why there is none.
pub type Outcome = Result<String, Failure>;

/// Why a check has no figure.
#[derive(Clone, Debug)]
pub enum Failure {
    /// It was tried and did not hold. The sentence says what was sent, what came, and what upstream saw.
    Failed(String),
    /// It cannot be tried here.
    NotRun(String),
}

impl From<String> for Failure {
    fn from(sentence: String) -> Failure {
        Failure::Failed(sentence)
    }
}
impl From<&str> for Failure {
    fn from(sentence: &str) -> Failure {
        Failure::Failed(sentence.to_owned())
    }
}
impl From<crate::client::Error> for Failure {
    fn from(error: crate::client::Error) -> Failure {
        Failure::Failed(error.to_string())
    }
}

/// The verdict of an outcome, and the figure or sentence beside it.
pub(crate) fn verdict(outcome: Outcome) -> (Verdict, String) {
    match outcome {
        Ok(figure) => (Verdict::Pass, figure),
        Err(Failure::Failed(sentence)) => (Verdict::Fail, sentence),
        Err(Failure::NotRun(reason)) => (Verdict::NotRun, reason),
    }
}

/// Runs a check for `longest` at most. One that panics or hangs has failed; it must not take the run with it.
pub(crate) async fn attempt(longest: Duration, check: impl Future<Output = Outcome> + Send + 'static) -> Outcome {
    let task = tokio::spawn(check);
    let abort = task.abort_handle();
    match tokio::time::timeout(longest, task).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => Err(Failure::Failed(format!("the check itself broke: {panic}"))),
        Err(_) => {
            abort.abort();
            Err(Failure::Failed(format!("not done after {longest:?}")))
        }
    }
}

/// Fails the check with a sentence unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($sentence:tt)+) => {
        if !$condition {
            return Err($crate::check::Failure::Failed(format!($($sentence)+)));
        }
    };
}
pub(crate) use ensure;
