//! What a handler returns: a reply at once, or the work that leads to one.

use std::{future::Future, pin::Pin};

use super::{error::ApiError, reply::Reply};

/// What comes of a request. A reply that is there at once costs no allocation for a future.
pub(crate) enum Outcome {
    Now(Reply),
    Later(Pin<Box<dyn Future<Output = Result<Reply, ApiError>>>>),
}

/// What a handler returns.
pub(crate) type Handled = Result<Outcome, ApiError>;

/// The outcome of work that awaits.
pub(crate) fn later(work: impl Future<Output = Result<Reply, ApiError>> + 'static) -> Handled {
    Ok(Outcome::Later(Box::pin(work)))
}

/// The outcome of work that is done.
pub(crate) fn now(reply: Reply) -> Handled {
    Ok(Outcome::Now(reply))
}
