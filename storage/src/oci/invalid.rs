//! Why a string is none of the types here.

/// Why a string is not the thing it was offered as. The text tells the sender what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not a repository name by the grammar of the distribution-spec, "Pulling manifests".
    #[error("invalid repository name: {0}")]
    Name(&'static str),
    /// Not a tag by the grammar of the distribution-spec.
    #[error("invalid tag: a tag is 1 to 128 of [A-Za-z0-9_.-] and starts with none of \".-\"")]
    Tag,
    /// Not a digest, or of an algorithm that is not served.
    #[error("invalid digest: {0}")]
    Digest(&'static str),
}
