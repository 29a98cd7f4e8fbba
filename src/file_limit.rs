//! The limit of open files: raised as far as the system allows, and kept to by fewer connections where that is not enough.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use weir::http;

/// For what is open besides connections: upstream connections, fills, the admin listener, the store.
const RESERVE: u64 = 256;

/// Raises the limit from the 1,024 that a process usually begins with, and lowers the number of connections when two open
/// files for each would still exceed it: a connection too many then waits in the kernel, and no request fails for want of
/// a file.
pub(crate) fn raise(settings: &mut http::Settings) {
    let most = getrlimit(Resource::Nofile).maximum;
    let raised = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    let Some(limit) = getrlimit(Resource::Nofile).current else { return };
    let connections = usize::try_from(limit.saturating_sub(RESERVE.min(limit / 2)) / 2).unwrap_or(usize::MAX).max(1);
    if settings.connections > connections {
        tracing::warn!(
            limit,
            configured = settings.connections,
            connections,
            "fewer connections than server.connections: raise the hard limit of open files (LimitNOFILE, ulimit -Hn)"
        );
        settings.connections = connections;
        settings.connections_per_client = settings.connections_per_client.min(connections.div_ceil(2));
    }
}
