//! What is pushed: blobs that are new, manifests over them, and their digests.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha512};

use crate::client::hex;

/// An image manifest, by its media type.
pub(super) const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
/// An index.
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The config of an image.
pub(super) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// A layer that is not compressed.
pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// `sha256:…` of these bytes.
pub(super) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// `sha512:…` of these bytes.
pub(super) fn sha512(bytes: &[u8]) -> String {
    format!("sha512:{}", hex(&Sha512::digest(bytes)))
}

/// Bytes that differ for every seed and look like a compressed layer to a server that would compress them.
pub(super) fn noise(seed: &str, length: usize) -> Vec<u8> {
    let block = |number: usize| Sha256::digest(format!("{seed}/{number}").as_bytes());
    (0..length.div_ceil(32)).flat_map(block).take(length).collect()
}

/// A manifest as it is sent.
#[derive(Clone, Debug)]
pub(super) struct Manifest {
    /// Its media type.
    pub(super) kind: String,
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
    /// `sha256:…` of them.
    pub(super) digest: String,
}

impl Manifest {
    /// These bytes.
    pub(super) fn new(kind: &str, bytes: impl Into<Vec<u8>>) -> Manifest {
        let bytes = bytes.into();
        Manifest { kind: kind.to_owned(), digest: sha256(&bytes), bytes }
    }

    /// This value, with its media type in it.
    pub(super) fn of(kind: &str, mut value: Value) -> Manifest {
        value["schemaVersion"] = json!(2);
        value["mediaType"] = json!(kind);
        Manifest::new(kind, value.to_string())
    }

    /// What another manifest says of it.
    pub(super) fn descriptor(&self) -> Value {
        json!({ "mediaType": self.kind, "digest": self.digest, "size": self.bytes.len() })
    }
}

/// What a manifest says of a blob.
pub(super) fn descriptor(kind: &str, digest: &str, size: usize) -> Value {
    json!({ "mediaType": kind, "digest": digest, "size": size })
}
