//! in-toto statements in DSSE envelopes: what they are of, what they say, and whether a key signed them.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;

use super::{finding::Finding, public_key::PublicKey};
use crate::oci::{Algorithm, Digest};

/// The predicate by which cosign signs an image from version 3 on.
pub(super) const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
/// The payload of an attestation.
const STATEMENT: &str = "application/vnd.in-toto+json";
/// Signatures of one envelope that are tried, and subjects of one statement that are read.
const MOST: usize = 8;
const MOST_SUBJECTS: usize = 1024;

/// What an envelope states.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Statement {
    /// The digests that it is of.
    pub(super) subjects: Vec<Digest>,
    /// What it says of them.
    pub(super) predicate: String,
}

/// A DSSE envelope.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Envelope {
    payload_type: String,
    payload: String,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    subject: Vec<Subject>,
    predicate_type: String,
}

#[derive(Deserialize)]
struct Subject {
    digest: Digests,
}

#[derive(Deserialize)]
struct Digests {
    sha256: Option<String>,
    sha512: Option<String>,
}

impl Statement {
    /// The statement in the payload of an envelope. Its predicate is not read, whatever its size.
    pub(super) fn read(payload: &[u8]) -> Result<Statement, Finding> {
        let document: Document = serde_json::from_slice(payload).map_err(|_| Finding::Malformed)?;
        if document.subject.len() > MOST_SUBJECTS {
            return Err(Finding::TooLarge);
        }
        let digests = document.subject.into_iter().flat_map(|Subject { digest }| {
            let of = |algorithm: Algorithm, hex: Option<String>| {
                format!("{}:{}", algorithm.as_str(), hex?).parse::<Digest>().ok()
            };
            [of(Algorithm::Sha256, digest.sha256), of(Algorithm::Sha512, digest.sha512)]
        });
        let subjects: Vec<Digest> = digests.flatten().collect();
        if subjects.is_empty() {
            return Err(Finding::Malformed);
        }
        Ok(Statement { subjects, predicate: document.predicate_type })
    }
}

impl Envelope {
    /// The payload, decoded.
    pub(super) fn payload(&self) -> Result<Vec<u8>, Finding> {
        if self.payload_type != STATEMENT {
            return Err(Finding::OtherStatement);
        }
        BASE64_STANDARD.decode(&self.payload).map_err(|_| Finding::Malformed)
    }

    /// The statement, when this key signed it.
    pub(super) fn verify(&self, key: &PublicKey) -> Result<Statement, Finding> {
        let payload = self.payload()?;
        // The pre-authentication encoding of DSSE, version 1.
        let mut signed = format!("DSSEv1 {} {} {} ", STATEMENT.len(), STATEMENT, payload.len()).into_bytes();
        signed.extend_from_slice(&payload);
        let is_by_key = |signature: &Signature| {
            BASE64_STANDARD.decode(&signature.sig).is_ok_and(|signature| key.has_signed(&signed, signature))
        };
        if !self.signatures.iter().take(MOST).any(is_by_key) {
            return Err(Finding::OtherKey);
        }
        Statement::read(&payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_of_some_digests_and_of_no_more_than_are_read() {
        let read = |subject: serde_json::Value| {
            let statement = serde_json::json!({"subject": subject, "predicateType": "a"});
            Statement::read(statement.to_string().as_bytes()).map(|statement| statement.subjects.len())
        };
        let [short, long] = [Algorithm::Sha256, Algorithm::Sha512].map(|of| of.digest(b"image").hex().to_string());
        assert_eq!(read(serde_json::json!([{"digest": {"sha256": short, "sha512": long}}])), Ok(2));
        for none in [serde_json::json!([]), serde_json::json!([{"digest": {"gitCommit": "00"}}])] {
            assert_eq!(read(none), Err(Finding::Malformed));
        }
        let many = |count| serde_json::Value::from(vec![serde_json::json!({"digest": {"sha256": short}}); count]);
        assert_eq!(read(many(MOST_SUBJECTS)), Ok(MOST_SUBJECTS));
        assert_eq!(read(many(MOST_SUBJECTS + 1)), Err(Finding::TooLarge));
    }
}
