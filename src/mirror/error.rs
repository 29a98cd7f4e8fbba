//! Why a request for mirrored content fails, and how upstream's and the store's failures become that.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use crate::{limits::permit::Denied, upstream};

/// Why a request for mirrored content fails. `http/error.rs` is the one table from here to status and code.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Upstream has no such repository, or refuses to say so; the two are one to a client (Hub answers 401 for both).
    #[error("no such repository")]
    NameUnknown,
    /// The repository has no such manifest.
    #[error("no such manifest")]
    ManifestUnknown,
    /// The repository has no such blob, or never vouched for it.
    #[error("no such blob")]
    BlobUnknown,
    /// Nothing is left of the budget and nothing is cached. The message says what is left and when more comes.
    #[error("{message}")]
    BudgetSpent {
        /// When the next pull is forecast.
        retry_after: Duration,
        /// One sentence for the client.
        message: Arc<str>,
        /// Why: `budget_exhausted`, `budget_floor` and the others of [`crate::limits::budget::RefusalReason::rule`].
        rule: &'static str,
        /// It was not refused for good: others wait for the same, and all are to ask again, each for itself. Never leaves the mirror.
        retry_alone: bool,
    },
    /// This client's own throttle of what is asked upstream for it.
    #[error("{}", .0.message)]
    Throttled(Arc<Denied>),
    /// Upstream itself answered 429 and nothing is cached.
    #[error("{message}")]
    UpstreamLimited {
        /// How long upstream asked to wait.
        retry_after: Duration,
        /// One sentence for the client.
        message: Arc<str>,
    },
    /// Upstream is down, slow, or its breaker is open, and nothing is cached.
    #[error("{message}")]
    UpstreamUnavailable {
        /// When it may be worth to try again.
        retry_after: Option<Duration>,
        /// One sentence for the client; details are in the log.
        message: Arc<str>,
    },
    /// Upstream answered something that is not what was lookup, and it was thrown away.
    #[error("{message}")]
    UpstreamMalformed {
        /// One sentence for the client.
        message: Arc<str>,
    },
    /// A failure of our own that could not be worked around. The log has the detail.
    #[error("internal error")]
    Internal,
}

/// What was logged of upstreams' failures lately: an upstream, and how the sentence begins.
static LOGGED: LazyLock<moka::sync::Cache<String, ()>> =
    LazyLock::new(|| moka::sync::Cache::builder().max_capacity(MAX_LOGGED).time_to_live(LOG_AGAIN).build());
/// A failure is logged once in this time.
const LOG_AGAIN: Duration = Duration::from_secs(60);
const MAX_LOGGED: u64 = 1000;
/// Words of what went wrong that tell one failure from another; those behind them name digests and the like.
const TELLING: usize = 3;

impl Error {
    /// Whether upstream said that it does not exist: the only failures the negative cache may hold.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, Error::NameUnknown | Error::ManifestUnknown | Error::BlobUnknown)
    }

    /// Whether a cached answer may stand in, though it is past its freshness.
    pub(super) fn allows_stale(&self) -> bool {
        match self {
            Error::BudgetSpent { .. }
            | Error::Throttled(_)
            | Error::UpstreamLimited { .. }
            | Error::UpstreamUnavailable { .. }
            | Error::UpstreamMalformed { .. }
            | Error::Internal => true,
            Error::NameUnknown | Error::ManifestUnknown | Error::BlobUnknown => false,
        }
    }

    /// Translates upstream's failure, and logs it once in a while; `absent` is what a 404 means for what was lookup.
    pub(super) fn from_upstream(name: &str, error: upstream::Error, absent: Error) -> Error {
        if let upstream::Error::Unavailable { .. } | upstream::Error::Malformed(_) | upstream::Error::Status(_) = &error
        {
            let text = error.to_string();
            let telling = text.split_once(": ").map_or(&*text, |(_, what)| what);
            let telling: Vec<&str> = telling.split(' ').take(TELLING).collect();
            let key = format!("{name} {}", telling.join(" "));
            if LOGGED.entry(key).or_insert(()).is_fresh() {
                tracing::warn!(upstream = name, %error, "upstream failed");
            }
        }
        match error {
            upstream::Error::NotFound => absent,
            upstream::Error::Denied => Error::NameUnknown,
            upstream::Error::PullLimit { retry_after } => Error::UpstreamLimited {
                retry_after,
                message: format!("{name} says its pull limit is reached for this mirror").into(),
            },
            upstream::Error::AbuseLimit { retry_after, message } => Error::UpstreamLimited {
                retry_after,
                message: format!("{name} limits requests from this mirror ({message})").into(),
            },
            upstream::Error::Unavailable { reason, retry_after } => Error::UpstreamUnavailable {
                retry_after,
                message: format!("{name} cannot be reached by this mirror ({reason})").into(),
            },
            // The caller asks with GET instead; it arrives here only when that is out of the question.
            upstream::Error::HeadRefused => Error::UpstreamMalformed { message: format!("{name} refuses HEAD").into() },
            upstream::Error::Status(status) => Error::UpstreamMalformed {
                message: format!("{name} answered {status}, which says nothing about what was asked").into(),
            },
            upstream::Error::Malformed(what) => Error::UpstreamMalformed {
                message: format!("{name} sent a wrong answer, which was thrown away: {what}").into(),
            },
        }
    }
}

impl From<weir_storage::Error> for Error {
    fn from(error: weir_storage::Error) -> Error {
        tracing::error!(%error, "the store failed");
        Error::Internal
    }
}
