//! The payload of simple signing, which cosign signs up to version 2.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;

use super::{finding::Finding, public_key::PublicKey};
use crate::oci::Digest;

/// What the type of a payload of an image is.
const TYPE: &str = "cosign container image signature";

#[derive(Deserialize)]
struct Document {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: Identity,
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference", default)]
    reference: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: Digest,
}

/// What a payload says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Payload {
    /// The digest that is signed.
    pub(super) digest: Digest,
    /// The full name of the repository, when one stands there.
    pub(super) repository: Option<String>,
}

impl Payload {
    /// What a payload says, when this key signed it.
    pub(super) fn verify(payload: &[u8], signature: &str, key: &PublicKey) -> Result<Payload, Finding> {
        let signature = BASE64_STANDARD.decode(signature.trim()).map_err(|_| Finding::Malformed)?;
        if !key.has_signed(payload, signature) {
            return Err(Finding::OtherKey);
        }
        let document: Document = serde_json::from_slice(payload).map_err(|_| Finding::Malformed)?;
        if document.critical.kind != TYPE {
            return Err(Finding::OtherStatement);
        }
        Ok(Payload {
            digest: document.critical.image.digest,
            repository: repository(&document.critical.identity.reference),
        })
    }
}

/// The full name of the repository in a reference as Docker writes it: without tag and digest, and of Docker Hub by the name that images
/// have here.
fn repository(reference: &str) -> Option<String> {
    let name = reference.split('@').next().unwrap_or_default();
    let (path, last) = name.rsplit_once('/').unwrap_or(("", name));
    let last = last.split(':').next().unwrap_or_default();
    let name = if path.is_empty() { last.to_owned() } else { format!("{path}/{last}") };
    let name = match name.split_once('/') {
        Some(("index.docker.io" | "registry-1.docker.io", rest)) => format!("docker.io/{rest}"),
        _ => name,
    };
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{Ed25519KeyPair, KeyPair as _},
    };

    use super::*;
    use crate::{oci::Algorithm, policy::signature::public_key::tests::read};

    #[test]
    fn a_payload_of_another_type_is_no_signature_of_an_image() {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let key = read(pair.public_key().as_ref()).unwrap();
        let image = serde_json::json!({"docker-manifest-digest": Algorithm::Sha256.digest(b"").to_string()});
        let said = |kind: &str| {
            let critical = serde_json::json!({"identity": {}, "image": image, "type": kind});
            let payload = serde_json::json!({"critical": critical}).to_string();
            let signature = BASE64_STANDARD.encode(pair.sign(payload.as_bytes()));
            Payload::verify(payload.as_bytes(), &signature, &key).map(|payload| payload.repository)
        };
        assert_eq!(said(TYPE), Ok(None));
        assert_eq!(said("atomic container signature"), Err(Finding::OtherStatement));
    }

    #[test]
    fn a_reference_names_its_repository_as_it_is_named_here() {
        for (reference, expected) in [
            ("index.docker.io/library/busybox", "docker.io/library/busybox"),
            ("docker.io/acme/app:1.4", "docker.io/acme/app"),
            ("localhost:5000/acme/app:1.4@sha256:00", "localhost:5000/acme/app"),
            ("ghcr.io/acme/app", "ghcr.io/acme/app"),
        ] {
            assert_eq!(repository(reference).as_deref(), Some(expected));
        }
        assert_eq!(repository(""), None);
    }
}
