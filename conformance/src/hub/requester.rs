//! The requester, once its credential was looked at, and what it reads of its pull limit.

use std::time::Instant;

use super::pulls::Source;
use super::response::Response;
use super::settings::{Account, Limit};
use super::shared::Shared;

/// An address or an account, and its limit.
#[derive(Clone, Debug)]
pub(super) struct Requester {
    pub(super) source: Source,
    pub(super) limit: Option<Limit>,
    pub(super) account: Option<Account>,
}

/// What is left to the requester, as the headers say it; nothing when pulls are not limited.
pub(super) fn with_limit(shared: &Shared, answer: &mut Response, requester: &Requester, remaining: Option<i64>) {
    if let Some(limit) = requester.limit {
        let window = limit.window.as_secs();
        let remaining = remaining.unwrap_or_else(|| shared.pulls.remaining(&requester.source, limit, Instant::now()));
        answer.headers.push(("RateLimit-Limit", format!("{};w={window}", limit.pulls)));
        answer.headers.push(("RateLimit-Remaining", format!("{remaining};w={window}")));
    }
    answer.headers.push(("Docker-RateLimit-Source", requester.source.shown()));
}

/// The pull limit's 429, in today's words.
pub(super) fn out_of_pulls(requester: &Requester, retry_after: Option<String>) -> Response {
    let message = match requester.account {
        None => "You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit",
        Some(_) => {
            "You have reached your pull rate limit. You may increase the limit by authenticating and upgrading: https://www.docker.com/increase-rate-limit"
        }
    };
    let mut answer =
        Response::error(429, "TOOMANYREQUESTS", message).with("Docker-RateLimit-Source", requester.source.shown());
    answer.set("Retry-After", retry_after.unwrap_or_default());
    answer
}
