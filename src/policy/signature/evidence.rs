//! What stands beside an image as its signatures and attestations, as the registry has it: which artifacts are looked at, and what is
//! read of them.

use bytes::Bytes;
use serde::Deserialize;

use super::finding::Finding;
use crate::oci::{Digest, Malformed};

/// Signatures and attestations beside one manifest that are looked at. Images that are built daily and signed each time have one or two.
pub const MOST_SIGNATURES: usize = 64;
/// A longer one is not read, in bytes. Signatures have 1 to 20 KiB; an SBOM in an attestation may have more, and is not verified then.
pub const MOST_SIGNATURE_BYTES: u64 = 1 << 20;
/// Bytes of all that is read beside one manifest.
pub const MOST_BYTES_BESIDE: u64 = 8 << 20;

/// A signature or attestation, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// A payload of simple signing, and its signature in base64 (cosign, up to version 2).
    Payload {
        /// The payload.
        payload: Bytes,
        /// The signature, in base64.
        signature: String,
    },
    /// A DSSE envelope (cosign's attestations, up to version 2).
    Envelope(Bytes),
    /// A bundle of sigstore (cosign from version 3, GitHub's attestations).
    Bundle(Bytes),
    /// A JWS envelope of Notation.
    Jws(Bytes),
    /// One that was not read, and why.
    Unread(Finding),
}

impl Evidence {
    /// Its bytes.
    pub fn size(&self) -> usize {
        match self {
            Evidence::Payload { payload, signature } => payload.len() + signature.len(),
            Evidence::Envelope(bytes) | Evidence::Bundle(bytes) | Evidence::Jws(bytes) => bytes.len(),
            Evidence::Unread(_) => 0,
        }
    }
}

/// A blob that holds a signature or attestation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes, as the manifest claims.
    pub size: u64,
    form: Form,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    Payload { signature: String },
    Envelope,
    Bundle,
    Jws,
    Cose,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Described>,
}

#[derive(Deserialize)]
struct Described {
    digest: Digest,
    size: u64,
    #[serde(rename = "mediaType")]
    media_type: String,
    #[serde(default)]
    annotations: Option<Annotations>,
}

#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "dev.cosignproject.cosign/signature")]
    signature: Option<String>,
}

/// Whether a referrer of this artifact type may be a signature, or an attestation that is signed.
pub fn is_signature(artifact_type: &str) -> bool {
    artifact_type.starts_with("application/vnd.dev.sigstore.bundle")
        || artifact_type.starts_with("application/vnd.dev.cosign.artifact.")
        || artifact_type == "application/vnd.cncf.notary.signature"
}

impl Layer {
    /// The signatures and attestations in a manifest, by the media types of its layers.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn read(manifest: &[u8]) -> Result<Vec<Layer>, Malformed> {
        let manifest: Manifest = serde_json::from_slice(manifest).map_err(|error| Malformed(error.to_string()))?;
        let layer = |Described { digest, size, media_type, annotations }: Described| {
            let form = match &*media_type {
                "application/vnd.dev.cosign.simplesigning.v1+json" => {
                    Form::Payload { signature: annotations?.signature? }
                }
                "application/vnd.dsse.envelope.v1+json" => Form::Envelope,
                "application/jose+json" => Form::Jws,
                "application/cose" => Form::Cose,
                other if other.starts_with("application/vnd.dev.sigstore.bundle") => Form::Bundle,
                _ => return None,
            };
            Some(Layer { digest, size, form })
        };
        Ok(manifest.layers.into_iter().filter_map(layer).collect())
    }

    /// What it is without a look at its bytes, when it is not to be fetched.
    pub fn unread(&self) -> Option<Evidence> {
        match self.form {
            Form::Cose => Some(Evidence::Unread(Finding::Cose)),
            _ => (self.size > MOST_SIGNATURE_BYTES).then_some(Evidence::Unread(Finding::TooLarge)),
        }
    }

    /// What it is, by its bytes.
    pub fn evidence(self, bytes: Bytes) -> Evidence {
        match self.form {
            Form::Payload { signature } => Evidence::Payload { payload: bytes, signature },
            Form::Envelope => Evidence::Envelope(bytes),
            Form::Bundle => Evidence::Bundle(bytes),
            Form::Jws => Evidence::Jws(bytes),
            Form::Cose => Evidence::Unread(Finding::Cose),
        }
    }
}
