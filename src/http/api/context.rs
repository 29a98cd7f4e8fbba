//! What the handlers answer from. One for all workers.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::Semaphore;

use super::{error::ApiError, request::Request};
use crate::{
    hosted::Hosted,
    limits::Limits,
    mirror::{Lookup, Mirror},
    route::Routes,
};

/// Manifests that are pushed at once; each may be 4 MiB in memory. The others wait.
const MANIFESTS: usize = 16;

pub(crate) struct Context {
    pub(crate) mirror: Mirror,
    pub(crate) hosted: Hosted,
    pub(crate) limits: Limits,
    pub(crate) routes: Routes,
    /// One permit for each manifest that is being pushed.
    pub(crate) manifests: Arc<Semaphore>,
}

impl Context {
    pub(crate) fn new(mirror: Mirror, hosted: Hosted, limits: Limits, routes: Routes) -> Context {
        Context { mirror, hosted, limits, routes, manifests: Arc::new(Semaphore::new(MANIFESTS)) }
    }

    /// Whether what is not cached may be fetched for this request: levels 1 to 3 of the abuse ladder.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn may_fetch(&self, request: &Request, lookup: &Lookup) -> Result<(), ApiError> {
        if let Some(denied) = &lookup.cached_only {
            return Err(ApiError::Denied(denied.clone()));
        }
        let wait = request.describe(|info| self.limits.miss_throttled(&request.client, info, SystemTime::now()));
        wait.map_or(Ok(()), |wait| Err(ApiError::MissThrottled(wait)))
    }
}
