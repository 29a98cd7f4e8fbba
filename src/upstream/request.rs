//! One request to an upstream and what came of it, as values.

use reqwest::{Response, header::HeaderValue};

use super::{concurrency::Permits, error::Error, identity::Identity, ledger::Reservation, metrics::Operation};
use crate::oci::Name;

/// What is requested.
pub(super) struct Request<'a> {
    pub(super) operation: Operation,
    pub(super) identity: &'a Identity,
    pub(super) repository: &'a Name,
    /// Below `/v2/`, with the query. Names, tags and digests hold no character that would have to be escaped.
    pub(super) path: String,
    pub(super) accept: Option<HeaderValue>,
    pub(super) range: Option<HeaderValue>,
    /// Pays, when the request is counted.
    pub(super) reservation: Option<&'a mut Reservation>,
}

impl<'a> Request<'a> {
    /// A request without `Accept`, range or reservation.
    pub(super) fn new(operation: Operation, identity: &'a Identity, repository: &'a Name, path: String) -> Request<'a> {
        Request { operation, identity, repository, path, accept: None, range: None, reservation: None }
    }
}

/// A success (2xx), a 416 to a range, or the refusal of a HEAD by the target of a blob's redirect.
pub(super) struct Reply {
    pub(super) response: Response,
    pub(super) permits: Permits,
}

/// Why one attempt failed, and how many more make sense.
pub(super) struct AttemptError {
    pub(super) error: Error,
    pub(super) retries: u32,
}

impl From<Error> for AttemptError {
    fn from(error: Error) -> AttemptError {
        AttemptError { error, retries: 0 }
    }
}
