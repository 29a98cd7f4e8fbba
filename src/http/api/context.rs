//! What the handlers answer from. One for all workers.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    error::ApiError,
    fair_permits::{Bounds, FairPermits},
    request::Request,
};
use crate::{
    hosted::Hosted,
    limits::Limits,
    mirror::{Lookup, Mirror},
    route::SharedRoutes,
};

/// Manifests larger than 64 KiB that are pushed at once, those of one client, and those that only a client without one gets; each may be
/// 4 MiB in memory. The others wait.
const MANIFESTS: usize = 16;
const MANIFESTS_PER_CLIENT: usize = 4;
const MANIFESTS_RESERVED: usize = 4;

pub(crate) struct Context {
    pub(crate) mirror: Mirror,
    pub(crate) hosted: Hosted,
    pub(crate) limits: Limits,
    pub(crate) routes: SharedRoutes,
    /// One for each large manifest that is being pushed.
    pub(crate) manifest_permits: Arc<FairPermits>,
}

impl Context {
    /// A large manifest that takes longer than a third of `body_stall` gives way when another client waits.
    pub(crate) fn new(
        mirror: Mirror,
        hosted: Hosted,
        limits: Limits,
        routes: SharedRoutes,
        body_stall: Duration,
    ) -> Context {
        let manifest_permits = FairPermits::new(Bounds {
            all: MANIFESTS,
            share: MANIFESTS_PER_CLIENT,
            reserve: MANIFESTS_RESERVED,
            patience: body_stall / 3,
        });
        Context { mirror, hosted, limits, routes, manifest_permits }
    }

    /// Whether what is not cached may be fetched for this request: levels 1 to 3 of the penalty.
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
