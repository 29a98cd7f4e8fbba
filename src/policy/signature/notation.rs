//! Signatures of Notation, in JWS envelopes (notaryproject/specifications, "JWS Signature Envelope").
//!
//! A signature has no time that is trusted, so its certificate must be valid now. Revocation is not asked for, and neither a timestamp
//! of an authority nor a plugin makes up for anything.

use std::time::SystemTime;

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime, pem::PemObject as _};
use serde::Deserialize;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_cert::{Certificate, der::Decode as _};

use super::{distinguished_name::Identity, finding::Finding};
use crate::{oci::Digest, policy::date::Created};

/// id-kp-codeSigning, 1.3.6.1.5.5.7.3.3.
const CODE_SIGNING: [u8; 8] = [0x2b, 6, 1, 5, 5, 7, 3, 3];
/// Certificates of a chain that are read. More are no chain that a public authority issues.
const MOST_CERTIFICATES: usize = 8;
const PAYLOAD: &str = "application/vnd.cncf.notary.payload.v1+json";
const SCHEME: &str = "io.cncf.notary.signingScheme";
const EXPIRY: &str = "io.cncf.notary.expiry";

/// Whose signatures are trusted.
pub(super) struct Notation {
    roots: Vec<TrustAnchor<'static>>,
    identities: Vec<Identity>,
}

#[derive(Deserialize)]
struct Envelope {
    payload: String,
    protected: String,
    header: Header,
    signature: String,
}

#[derive(Deserialize)]
struct Header {
    x5c: Vec<String>,
}

#[derive(Deserialize)]
struct Protected {
    alg: String,
    cty: String,
    crit: Vec<String>,
    #[serde(rename = "io.cncf.notary.signingScheme")]
    scheme: String,
    #[serde(rename = "io.cncf.notary.expiry")]
    expiry: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    target_artifact: Target,
}

#[derive(Deserialize)]
struct Target {
    digest: Digest,
}

impl Notation {
    /// From certificates in PEM, and the identities of which one must be that of the signer.
    ///
    /// # Errors
    /// What is wrong with them, as a part of a sentence.
    pub(super) fn new(pem: &[u8], identities: &[String]) -> Result<Notation, String> {
        let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|error| format!("it is no PEM: {error}"))?;
        let anchor = |certificate: &CertificateDer<'_>| anchor_from_trusted_cert(certificate).map(|it| it.to_owned());
        let roots = certificates.iter().map(anchor).collect::<Result<Vec<_>, _>>();
        let roots = roots.map_err(|error| format!("it holds a certificate that cannot be trusted: {error}"))?;
        if roots.is_empty() {
            return Err("it holds no certificate".to_owned());
        }
        let identities = identities.iter().map(|identity| Identity::parse(identity)).collect::<Result<_, _>>()?;
        Ok(Notation { roots, identities })
    }

    /// The digest that an envelope signs, when a trusted identity signed it.
    pub(super) fn verify(&self, bytes: &[u8], now: SystemTime) -> Result<Digest, Finding> {
        let envelope: Envelope = serde_json::from_slice(bytes).map_err(|_| Finding::Malformed)?;
        let malformed = |_| Finding::Malformed;
        let protected = BASE64_URL_SAFE_NO_PAD.decode(&envelope.protected).map_err(malformed)?;
        let protected: Protected = serde_json::from_slice(&protected).map_err(|_| Finding::Malformed)?;
        let is_known = |name: &String| name == SCHEME || name == EXPIRY;
        if protected.scheme != "notary.x509" || protected.cty != PAYLOAD || !protected.crit.iter().all(is_known) {
            return Err(Finding::Unsupported);
        }
        if envelope.header.x5c.len() > MOST_CERTIFICATES {
            return Err(Finding::TooLarge);
        }
        let chain = envelope.header.x5c.iter().map(|certificate| BASE64_STANDARD.decode(certificate));
        let chain: Vec<CertificateDer<'_>> =
            chain.map(|der| der.map(CertificateDer::from)).collect::<Result<_, _>>().map_err(malformed)?;
        let (Some(leaf), Some(intermediates)) = (chain.first(), chain.get(1..)) else { return Err(Finding::Malformed) };
        let certificate = Certificate::from_der(leaf).map_err(|_| Finding::Malformed)?;

        let key = &certificate.tbs_certificate.subject_public_key_info.subject_public_key;
        let key = UnparsedPublicKey::new(algorithm(&protected.alg)?, key.raw_bytes());
        let signed = format!("{}.{}", envelope.protected, envelope.payload);
        let signature = BASE64_URL_SAFE_NO_PAD.decode(&envelope.signature).map_err(malformed)?;
        key.verify(signed.as_bytes(), &signature).map_err(|_| Finding::Broken)?;

        self.verify_chain(leaf, intermediates, now)?;
        if !self.identities.iter().any(|identity| identity.is_of(&certificate.tbs_certificate.subject)) {
            return Err(Finding::OtherIdentity);
        }
        if let Some(expiry) = &protected.expiry {
            match Created::parse(Some(expiry)) {
                Created::At(expiry) if now < expiry => {}
                Created::At(_) => return Err(Finding::Expired),
                Created::Unknown => return Err(Finding::Malformed),
            }
        }
        let payload = BASE64_URL_SAFE_NO_PAD.decode(&envelope.payload).map_err(malformed)?;
        let payload: Payload = serde_json::from_slice(&payload).map_err(|_| Finding::Malformed)?;
        Ok(payload.target_artifact.digest)
    }

    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<(), Finding> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let leaf = EndEntityCert::try_from(leaf).map_err(|_| Finding::Malformed)?;
        let verified = leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &self.roots,
            intermediates,
            UnixTime::since_unix_epoch(now),
            KeyUsage::required_if_present(&CODE_SIGNING),
            None,
            None,
        );
        match verified {
            Ok(_) => Ok(()),
            Err(webpki::Error::CertExpired { .. }) => Err(Finding::ExpiredCertificate),
            Err(webpki::Error::CertNotValidYet { .. }) => Err(Finding::EarlyCertificate),
            Err(_) => Err(Finding::OtherRoots),
        }
    }
}

/// What the names of RFC 7518 stand for. The key must be of that kind, or nothing verifies.
fn algorithm(name: &str) -> Result<&'static dyn VerificationAlgorithm, Finding> {
    Ok(match name {
        "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
        "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
        "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
        "ES256" => &signature::ECDSA_P256_SHA256_FIXED,
        "ES384" => &signature::ECDSA_P384_SHA384_FIXED,
        _ => return Err(Finding::Unsupported),
    })
}
