//! No core dumps: they would hold the passwords and tokens that are in memory.

use rustix::process::{Resource, Rlimit, setrlimit};

/// Sets the limit of their size to zero, for this process and for credential helpers, whatever it was.
pub(crate) fn forbid() {
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!(%error, "core dumps cannot be forbidden");
    }
}
