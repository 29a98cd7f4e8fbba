//! Those whose signatures count, ready to verify.

use std::{fmt, sync::Arc, time::SystemTime};

use super::{
    bundle::{Keyless, Outline},
    evidence::Evidence,
    finding::Finding,
    notation::Notation,
    payload::Payload,
    public_key::PublicKey,
    ring_provider,
    sources::SignedBy,
    statement::{Envelope, SIGNED, Statement},
};
use crate::oci::Digest;

/// Those whose signatures count; of one of them is enough. Cloning is cheap.
#[derive(Clone, Default)]
pub struct Signers(Arc<[Signer]>);

impl fmt::Debug for Signers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|signer| &signer.label)).finish()
    }
}

struct Signer {
    /// What it is called in a report.
    label: String,
    by: By,
}

enum By {
    Key { key: PublicKey, same_repository: bool },
    Keyless(Box<Keyless>),
    Notation(Notation),
}

/// What is verified of an image.
#[derive(Clone, Debug)]
pub(super) struct Subject<'a> {
    /// The digests of which a signature counts: that of the image, and those of the indexes that name it.
    pub(super) digests: &'a [Digest],
    /// The full name of its repository.
    pub(super) repository: &'a str,
    pub(super) now: SystemTime,
}

/// What was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verified {
    /// Of what.
    pub(super) digest: Digest,
    /// The predicate of the statement that was signed; `None` for a signature of the image.
    pub(super) predicate: Option<String>,
    /// By whom.
    pub(super) by: String,
}

impl Signers {
    /// Reads keys and roots by `read`, which gives the bytes of a file.
    ///
    /// # Errors
    /// What is wrong with the first that is wrong: its place among the sources, what it names, and what would be right.
    pub fn read(
        sources: &[SignedBy],
        read: impl Fn(&str) -> Result<Vec<u8>, String>,
    ) -> Result<Signers, (usize, String, String)> {
        ring_provider::install();
        let signer = |(number, source): (usize, &SignedBy)| {
            let file = source.files().next().unwrap_or_default();
            Signer::read(source, file, &read).map_err(|why| (number, file.to_owned(), why))
        };
        Ok(Signers(sources.iter().enumerate().map(signer).collect::<Result<_, _>>()?))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the first of them says of a piece of evidence that verifies it, else the nearest finding.
    pub(super) fn verify(&self, evidence: &Evidence, of: &Subject<'_>) -> Result<Verified, Finding> {
        let mut nearest = Finding::OtherKind;
        for signer in self.0.iter() {
            match signer.verify(evidence, of) {
                Ok((digest, predicate)) => return Ok(Verified { digest, predicate, by: signer.label.clone() }),
                Err(finding) => nearest = nearest.max(finding),
            }
        }
        Err(nearest)
    }
}

impl Signer {
    fn read(source: &SignedBy, file: &str, read: impl Fn(&str) -> Result<Vec<u8>, String>) -> Result<Signer, String> {
        let bytes = match source.inline() {
            Some(key) => key.as_bytes().to_vec(),
            None => read(file).map_err(|error| format!("{error}; name a readable file"))?,
        };
        match (&source.issuer, &source.subject, &source.notation) {
            (Some(issuer), Some(subject), _) => {
                let keyless = Keyless::new(&bytes, issuer, subject).map_err(|why| {
                    format!("{why}; name a trusted root of sigstore in JSON, as cosign trusted-root create writes it")
                })?;
                Ok(Signer { label: format!("{subject} of {issuer}"), by: By::Keyless(Box::new(keyless)) })
            }
            (_, _, Some(file)) => {
                let notation = Notation::new(&bytes, &source.identities)
                    .map_err(|why| format!("{why}; name a file with certificates in PEM"))?;
                Ok(Signer { label: format!("a certificate of {file}"), by: By::Notation(notation) })
            }
            _ => {
                let key = PublicKey::read(&bytes).map_err(|why| {
                    format!("{why}; name a public key in PEM: ECDSA P-256 or P-384, Ed25519, or RSA from 2048 bits")
                })?;
                let label = if file.is_empty() { "a trusted key".to_owned() } else { format!("the key {file}") };
                Ok(Signer { label, by: By::Key { key, same_repository: source.same_repository } })
            }
        }
    }

    fn verify(&self, evidence: &Evidence, of: &Subject<'_>) -> Result<(Digest, Option<String>), Finding> {
        match (&self.by, evidence) {
            (_, Evidence::Unread(finding)) => Err(*finding),
            (By::Key { key, same_repository }, Evidence::Payload { payload, signature }) => {
                let payload = Payload::verify(payload, signature, key)?;
                if !of.digests.contains(&payload.digest) {
                    return Err(Finding::OtherDigest);
                }
                if *same_repository && payload.repository.as_deref() != Some(of.repository) {
                    return Err(Finding::OtherRepository);
                }
                Ok((payload.digest, None))
            }
            (By::Key { key, same_repository }, Evidence::Bundle(bytes)) => {
                let outline = Outline::read(bytes)?;
                if outline.is_keyless() {
                    return Err(Finding::OtherKind);
                }
                stated(outline.verify_by_key(key)?, of, *same_repository)
            }
            (By::Key { key, same_repository }, Evidence::Envelope(bytes)) => {
                let envelope: Envelope = serde_json::from_slice(bytes).map_err(|_| Finding::Malformed)?;
                stated(envelope.verify(key)?, of, *same_repository)
            }
            (By::Keyless(keyless), Evidence::Bundle(bytes)) => {
                let outline = Outline::read(bytes)?;
                if !outline.is_keyless() {
                    return Err(Finding::OtherKind);
                }
                stated(keyless.verify(&outline, bytes, of.digests)?, of, false)
            }
            (By::Notation(notation), Evidence::Jws(bytes)) => {
                let digest = notation.verify(bytes, of.now)?;
                if of.digests.contains(&digest) { Ok((digest, None)) } else { Err(Finding::OtherDigest) }
            }
            _ => Err(Finding::OtherKind),
        }
    }
}

/// What a statement that was verified says of the image.
fn stated(statement: Statement, of: &Subject<'_>, same_repository: bool) -> Result<(Digest, Option<String>), Finding> {
    let digest = statement.subjects.into_iter().find(|digest| of.digests.contains(digest));
    let digest = digest.ok_or(Finding::OtherDigest)?;
    match statement.predicate == SIGNED {
        // A statement names digests alone.
        true if same_repository => Err(Finding::OtherRepository),
        true => Ok((digest, None)),
        false => Ok((digest, Some(statement.predicate))),
    }
}
