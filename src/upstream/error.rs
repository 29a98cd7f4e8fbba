//! Why a request to an upstream failed.

use std::{sync::Arc, time::Duration};

use super::metrics::Outcome;

/// What a caller can act on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// 404: upstream says it does not exist.
    #[error("not found upstream")]
    NotFound,
    /// 401 or 403 to this identity, after a good token or with Basic. Hub answers so for what does not exist, too.
    #[error("refused by upstream")]
    Denied,
    /// 429 of the pull limit (JSON TOOMANYREQUESTS). HEADs go on.
    #[error("upstream's pull limit is reached")]
    PullLimit {
        /// Until the forecast of the next pull, or as upstream asked.
        retry_after: Duration,
    },
    /// 429 of the abuse limit, or its breaker is open: nothing is asked of this upstream until then.
    #[error("upstream limits this address: {message}")]
    AbuseLimit {
        /// For how long.
        retry_after: Duration,
        /// In upstream's words: one line, at most 200 characters.
        message: Arc<str>,
    },
    /// Connect, time-out, 5xx, token service, breaker.
    #[error("upstream is unavailable: {reason}")]
    Unavailable {
        /// In our words; holds no address with a query.
        reason: Arc<str>,
        /// When it makes sense to come back, if that is known.
        retry_after: Option<Duration>,
    },
    /// 405 or 501 to a HEAD, or learned lately for this repository (10 min): the only case in which a GET stands in.
    #[error("upstream refuses HEAD")]
    HeadRefused,
    /// A status that answers another question, such as 400 or 406.
    #[error("upstream answers {0}")]
    Status(u16),
    /// 200 with something that is not what was asked: HTML, wrong length, another digest, a redirect to where we do not go.
    #[error("upstream's answer is malformed: {0}")]
    Malformed(Arc<str>),
}

impl Error {
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Error::NotFound => Outcome::NotFound,
            Error::Denied => Outcome::Denied,
            Error::PullLimit { .. } => Outcome::PullLimit,
            Error::AbuseLimit { .. } => Outcome::AbuseLimit,
            Error::Unavailable { .. } => Outcome::Unavailable,
            Error::HeadRefused => Outcome::HeadRefused,
            Error::Malformed(_) | Error::Status(_) => Outcome::Malformed,
        }
    }
}
