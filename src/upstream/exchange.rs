//! How a request to an upstream is repeated, counted and logged.

use std::sync::Arc;

use super::{
    endpoint::Endpoint,
    error::Error,
    metrics::{Metrics, Outcome},
    request::{AttemptError, Reply, Request},
    retry,
};

/// How often a request is repeated that got no response, or a 502, 503 or 504.
const RETRIES: u32 = 2;

#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) upstream: Arc<str>,
    pub(super) endpoint: Endpoint,
    pub(super) metrics: Metrics,
}

impl Exchange {
    /// Sends a request, repeats what may be repeated, and counts the outcome.
    pub(super) async fn send(&self, mut request: Request<'_>) -> Result<Reply, Error> {
        let mut attempt = 0;
        let outcome = loop {
            match self.endpoint.attempt(&mut request).await {
                Err(AttemptError { retry: true, error })
                    if attempt < RETRIES && self.endpoint.transport.may_retry() =>
                {
                    // Each GET that Docker Hub may have counted has an entry of its own, so a repetition is paid again.
                    if let Some(reservation) = &mut request.reservation
                        && reservation.again().await.is_err()
                    {
                        break Err(error);
                    }
                    self.metrics.retried(&self.upstream);
                    tokio::time::sleep(retry::backoff(attempt)).await;
                    attempt += 1;
                }
                Err(AttemptError { error, .. }) => break Err(error),
                Ok(reply) => break Ok(reply),
            }
        };
        let result = outcome.as_ref().map_or_else(Error::outcome, |_| Outcome::Ok);
        self.metrics.asked(&self.upstream, request.operation, result);
        self.metrics.breaker(&self.upstream, self.endpoint.breaker.open(std::time::Instant::now()).is_some());
        if let Err(error) = &outcome {
            let (kind, repository) = (request.operation, request.repository);
            tracing::debug!(upstream = %self.upstream, ?kind, %repository, %error, "upstream did not give it");
        }
        outcome
    }
}
