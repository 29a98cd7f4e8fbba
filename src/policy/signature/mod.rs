//! Signatures of images and signed attestations: cosign's, in both of its forms, and Notation's. Pure: bytes in, findings out.
//!
//! [`Layer`] says which blobs of a manifest hold [`Evidence`]; [`SignedBy`] is `signed` of `[[policy]]`, and [`Signers`] are those sources
//! with their keys and roots. A signature counts when a signer made it and the digest in what is signed, not beside it, is that of the
//! image or of an index that names the image.
//!
//! # What this refuses
//! It asks nothing of any network: no log, no authority, no list of revoked certificates. It verifies no COSE, no signature of cosign's
//! old form by a certificate, and no scheme of Notation but `notary.x509`; each of these is a [`Finding`], and so is whatever hostile bytes
//! hold.

mod beside;
mod bundle;
mod distinguished_name;
mod evidence;
mod finding;
mod notation;
#[cfg(test)]
mod notation_tests;
mod payload;
mod public_key;
mod ring_provider;
mod signers;
mod sources;
mod statement;
#[cfg(test)]
mod tests;

pub(in crate::policy) use self::beside::Checked;
pub use self::{
    beside::{Beside, LookedUp},
    evidence::{Evidence, Layer, MOST_BYTES_BESIDE, MOST_SIGNATURE_BYTES, MOST_SIGNATURES, is_signature},
    finding::Finding,
    signers::Signers,
    sources::SignedBy,
};
