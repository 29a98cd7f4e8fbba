//! What the handlers answer from. One for all workers.

use std::{sync::Arc, time::SystemTime};

use super::{error::ApiError, fair_permits::FairPermits, request::Request};
use crate::{
    hosted::Hosted,
    limits::Limits,
    mirror::{Lookup, Mirror},
    route::Routes,
};

/// Manifests larger than 64 KiB that are pushed at once, and those of one client; each may be 4 MiB in memory. The others wait.
const MANIFESTS: usize = 16;
const MANIFESTS_PER_CLIENT: usize = 4;

pub(crate) struct Context {
    pub(crate) mirror: Mirror,
    pub(crate) hosted: Hosted,
    pub(crate) limits: Limits,
    pub(crate) routes: Routes,
    /// One for each large manifest that is being pushed.
    pub(crate) manifest_permits: Arc<FairPermits>,
}

impl Context {
    pub(crate) fn new(mirror: Mirror, hosted: Hosted, limits: Limits, routes: Routes) -> Context {
        let manifest_permits = FairPermits::new(MANIFESTS, MANIFESTS_PER_CLIENT);
        Context { mirror, hosted, limits, routes, manifest_permits }
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
