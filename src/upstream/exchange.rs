//! How a request to an upstream is repeated, counted and logged.

use std::{sync::Arc, time::Instant};

use tracing::{Instrument as _, field::Empty};

use super::{
    endpoint::Endpoint,
    error::Error,
    metrics::{Metrics, Outcome},
    request::{AttemptError, Reply, Request},
    retry,
};

#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) upstream: Arc<str>,
    pub(super) endpoint: Endpoint,
    /// The same registry at other URLs, in the order in which they are tried.
    pub(super) others: Vec<Endpoint>,
    pub(super) metrics: Metrics,
}

impl Exchange {
    /// Sends a request, repeats what may be repeated, and counts the outcome.
    pub(super) async fn send(&self, request: Request<'_>) -> Result<Reply, Error> {
        let (operation, repository) = (request.operation, request.repository);
        let upstream = &self.upstream;
        let span = tracing::debug_span!("upstream", %upstream, ?operation, %repository, error = Empty, outcome = Empty);
        let started = Instant::now();
        let outcome = self.send_to_each(request).instrument(span.clone()).await;
        let result = outcome.as_ref().map_or_else(Error::outcome, |_| Outcome::Ok);
        self.metrics.asked(&self.upstream, operation, result, started.elapsed());
        if let Err(error) = &outcome {
            span.in_scope(
                || tracing::debug!(upstream = %self.upstream, ?operation, %repository, %error, "upstream failed"),
            );
            span.record("error", tracing::field::display(error));
        }
        span.record("outcome", result.word());
        outcome
    }

    /// The first URL, and the next when it cannot be reached or answers 5xx.
    async fn send_to_each(&self, mut request: Request<'_>) -> Result<Reply, Error> {
        let mut outcome = self.send_to(&self.endpoint, &mut request).await;
        for endpoint in &self.others {
            let Err(Error::Unavailable { .. }) = &outcome else { break };
            // All URLs are of one registry: a credential that it refused is not refused once more.
            if request.identity.account.as_ref().is_some_and(|account| !self.endpoint.auth.is_usable(account)) {
                break;
            }
            if !pay_again(&mut request).await {
                break;
            }
            outcome = self.send_to(endpoint, &mut request).await;
        }
        outcome
    }

    async fn send_to(&self, endpoint: &Endpoint, request: &mut Request<'_>) -> Result<Reply, Error> {
        let mut attempt = 0;
        loop {
            match endpoint.attempt(request).await {
                Err(AttemptError { retries, error }) if attempt < retries && endpoint.transport.may_retry() => {
                    if !pay_again(request).await {
                        return Err(error);
                    }
                    self.metrics.retried(&self.upstream);
                    tokio::time::sleep(retry::backoff(attempt)).await;
                    attempt += 1;
                }
                outcome => return outcome.map_err(|failed| failed.error),
            }
        }
    }
}

/// Each GET that Docker Hub may have counted has an entry of its own, so a repetition is paid again. Whether it could be.
async fn pay_again(request: &mut Request<'_>) -> bool {
    match &mut request.reservation {
        Some(reservation) => reservation.again().await.is_ok(),
        None => true,
    }
}
