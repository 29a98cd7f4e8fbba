//! Whose answer something is.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::oci::Name;

/// Whose answer something is: an upstream, the credential it was asked with, and the repository.
///
/// The credential is part of it so that what only one credential may read never answers for another. What anonymous may
/// read is kept under [`Source::ANONYMOUS`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Source {
    /// The upstream's configured name, such as `docker.io`.
    pub upstream: Arc<str>,
    /// [`Source::ANONYMOUS`], or the account's user name.
    pub credential: Arc<str>,
    /// The repository, as upstream names it.
    pub repository: Name,
}

impl Source {
    /// The credential of a client without an account.
    pub const ANONYMOUS: &'static str = "anonymous";
}
