//! Bundles of sigstore: an envelope with what proves when it was signed, and by whom.

use serde::{Deserialize, de::IgnoredAny};
use sigstore_verify::{
    CertificateError, Error, VerificationPolicy, Verifier,
    trust_root::TrustedRoot,
    types::{Bundle, Sha256Hash},
};

use super::{
    finding::Finding,
    public_key::PublicKey,
    statement::{Envelope, Statement},
};
use crate::oci::{Algorithm, Digest, matches};

/// A bundle, as far as it is read before anything of it is verified.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Outline {
    verification_material: Material,
    dsse_envelope: Option<Envelope>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    certificate: Option<IgnoredAny>,
    x509_certificate_chain: Option<IgnoredAny>,
    tlog_entries: Option<Vec<IgnoredAny>>,
}

impl Outline {
    pub(super) fn read(bytes: &[u8]) -> Result<Outline, Finding> {
        serde_json::from_slice(bytes).map_err(|_| Finding::Malformed)
    }

    /// Whether a certificate says who signed it, rather than a key that is known beforehand.
    pub(super) fn is_keyless(&self) -> bool {
        self.verification_material.certificate.is_some() || self.verification_material.x509_certificate_chain.is_some()
    }

    /// Whether it has an entry of some transparency log.
    fn has_log_entry(&self) -> bool {
        self.verification_material.tlog_entries.as_ref().is_some_and(|entries| !entries.is_empty())
    }

    /// The payload of its envelope. Nothing is verified.
    pub(super) fn payload(&self) -> Result<Vec<u8>, Finding> {
        self.envelope()?.payload()
    }

    /// The statement, when this key signed it. No log and no time is asked for: the operator trusts the key.
    pub(super) fn verify_by_key(&self, key: &PublicKey) -> Result<Statement, Finding> {
        self.envelope()?.verify(key)
    }

    fn envelope(&self) -> Result<&Envelope, Finding> {
        // A signature of a bare message is no statement about an image.
        self.dsse_envelope.as_ref().ok_or(Finding::OtherStatement)
    }
}

/// Who may sign without a key of their own, and which authorities vouch for them.
pub(super) struct Keyless {
    verifier: Verifier,
    /// Whether the roots have a transparency log, which then must have an entry.
    is_logged: bool,
    /// Whether they have a log of certificates, which then must have the certificate.
    has_certificate_log: bool,
    issuer: String,
    subject: String,
}

impl Keyless {
    /// From a trusted root, as sigstore publishes it in JSON; `subject` may have stars.
    ///
    /// # Errors
    /// What is wrong with it, as a part of a sentence.
    pub(super) fn new(roots: &[u8], issuer: &str, subject: &str) -> Result<Keyless, String> {
        let text = std::str::from_utf8(roots).map_err(|_| "it is no text".to_owned())?;
        let roots = TrustedRoot::from_json(text).map_err(|error| error.to_string())?;
        if roots.certificate_authorities.is_empty() {
            return Err("it names no certificate authority".to_owned());
        }
        // One of them says when a signature was made; certificates are valid for ten minutes.
        if roots.tlogs.is_empty() && roots.timestamp_authorities.is_empty() {
            return Err("it names neither a transparency log nor a timestamp authority".to_owned());
        }
        Ok(Keyless {
            verifier: Verifier::new(&roots).map_err(|error| error.to_string())?,
            is_logged: !roots.tlogs.is_empty(),
            has_certificate_log: !roots.ctlogs.is_empty(),
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
        })
    }

    /// The statement of a bundle, when all that the roots name vouches for it. `wanted` are the digests of which a statement is looked for.
    pub(super) fn verify(&self, outline: &Outline, bytes: &[u8], wanted: &[Digest]) -> Result<Statement, Finding> {
        let statement = Statement::read(&outline.payload()?)?;
        let of = statement.subjects.iter().find(|subject| wanted.contains(subject));
        let Some(of) = of.or(statement.subjects.first()) else { return Err(Finding::Malformed) };
        // The verifier would call such a bundle malformed.
        if self.is_logged && !outline.has_log_entry() {
            return Err(Finding::NotLogged);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Finding::Malformed)?;
        let bundle = Bundle::from_json(text).map_err(|_| Finding::Malformed)?;
        let mut policy = VerificationPolicy::any_identity();
        if !self.is_logged {
            policy = policy.skip_tlog_unsafe();
        }
        if !self.has_certificate_log {
            policy = policy.skip_sct();
        }
        if of.algorithm() != Algorithm::Sha256 {
            return Err(Finding::Unsupported);
        }
        let digest = Sha256Hash::from_hex(&of.hex()).map_err(|_| Finding::Malformed)?;
        let verified = self.verifier.verify(digest, &bundle, &policy).map_err(|error| match error {
            // The chain is looked at first, and does not say which of its faults it has.
            Error::Certificate(CertificateError::ChainInvalid(_)) => {
                self.at_another_time(digest, &bundle, policy).unwrap_or(Finding::OtherRoots)
            }
            error => finding(&error),
        })?;
        if verified.issuer() != Some(&*self.issuer) {
            return Err(Finding::OtherIssuer);
        }
        match verified.identity() {
            Some(identity) if matches(&self.subject, identity.as_str()) => Ok(statement),
            _ => Err(Finding::OtherIdentity),
        }
    }

    /// What is wrong with the time of a certificate whose chain does not lead to the roots at that time.
    fn at_another_time(&self, digest: Sha256Hash, bundle: &Bundle, policy: VerificationPolicy) -> Option<Finding> {
        let verified = self.verifier.verify(digest, bundle, &policy.skip_certificate_chain()).ok()?;
        let (certificate, times) = (verified.certificate()?, verified.verified_timestamps());
        if times.iter().any(|time| *time > certificate.not_after) {
            return Some(Finding::ExpiredCertificate);
        }
        times.iter().any(|time| *time < certificate.not_before).then_some(Finding::EarlyCertificate)
    }
}

fn finding(error: &Error) -> Finding {
    match error {
        Error::Certificate(CertificateError::Expired { .. }) => Finding::ExpiredCertificate,
        Error::Certificate(CertificateError::NotYetValid { .. }) => Finding::EarlyCertificate,
        Error::Certificate(CertificateError::Malformed(_)) => Finding::Malformed,
        Error::Certificate(_) => Finding::OtherRoots,
        Error::TransparencyLog(_) => Finding::NotLogged,
        Error::Timestamp(_) => Finding::NoTime,
        Error::SignatureInvalid(_) | Error::ArtifactMismatch(_) => Finding::Broken,
        Error::UnsupportedBundle(_) | Error::UnsupportedArtifact(_) | Error::Crypto(_) => Finding::Unsupported,
        _ => Finding::Malformed,
    }
}
