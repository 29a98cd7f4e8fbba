//! What the parts of the mirror have in common.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::{
    metrics::Metrics, named::NamedBlobs, negative::NegativeCache, peers::Peers, settings::SharedSettings,
    sources::Sources,
};

/// What each part of the mirror is made with. Each handle is shared by cloning it.
pub(super) struct Handles {
    pub(super) settings: SharedSettings,
    pub(super) sources: Sources,
    /// The other replicas, when blobs come from them while they arrive there.
    pub(super) peers: Option<Peers>,
    pub(super) negative: Arc<NegativeCache>,
    pub(super) named: NamedBlobs,
    pub(super) metrics: Arc<Metrics>,
    /// Where work goes on that outlives the client that asked for it.
    pub(super) runtime: Handle,
}
