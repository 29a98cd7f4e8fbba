//! A public key that an operator trusts, and the signatures that cosign makes by such a key.

use ed25519_dalek::VerifyingKey;
use sha2::{Digest as _, Sha512};
use sigstore_verify::{
    crypto::{Error, SigningScheme, VerificationKey, validate_raw_public_key},
    types::{DerPublicKey, SignatureBytes},
};

/// A key, ready to verify.
pub(super) struct PublicKey {
    key: VerificationKey,
    /// The same key for Ed25519ph (RFC 8032 section 5.1). cosign signs so by an Ed25519 key since 2025, and by plain Ed25519 before.
    prehashed: Option<VerifyingKey>,
}

impl PublicKey {
    /// From PEM.
    ///
    /// # Errors
    /// What is wrong with it, as a part of a sentence.
    pub(super) fn read(pem: &[u8]) -> Result<PublicKey, String> {
        let text = std::str::from_utf8(pem).map_err(|_| "it is no text".to_owned())?;
        let der = DerPublicKey::from_pem(text).map_err(|error| error.to_string())?;
        let key = VerificationKey::from_spki(&der).map_err(|error| error.to_string())?;
        validate_raw_public_key(key.scheme(), key.as_bytes()).map_err(|error| error.to_string())?;
        if let Err(Error::UnsupportedAlgorithm(what)) = key.verify(b"", &SignatureBytes::new(Vec::new())) {
            return Err(format!("{what} is not verified"));
        }
        let prehashed = match key.scheme() {
            SigningScheme::Ed25519 => Some(VerifyingKey::try_from(key.as_bytes()).map_err(|error| error.to_string())?),
            _ => None,
        };
        if prehashed.as_ref().is_some_and(VerifyingKey::is_weak) {
            return Err("it is a key by which signatures can be made without a secret".to_owned());
        }
        Ok(PublicKey { key, prehashed })
    }

    /// Whether these bytes are a signature of the message by this key.
    pub(super) fn has_signed(&self, message: &[u8], signature: Vec<u8>) -> bool {
        let is_prehashed = self.prehashed.as_ref().is_some_and(|key| {
            let signature = ed25519_dalek::Signature::from_slice(&signature);
            let hash = Sha512::new_with_prefix(message);
            signature.is_ok_and(|signature| key.verify_prehashed_strict(hash, None, &signature).is_ok())
        });
        is_prehashed || self.key.verify(message, &SignatureBytes::new(signature)).is_ok()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    use ring::{
        rand::SystemRandom,
        signature::{Ed25519KeyPair, KeyPair as _},
    };

    use super::*;

    /// SubjectPublicKeyInfo of an Ed25519 key (RFC 8410 section 4) without the key.
    const ED25519: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

    /// From the bytes of an Ed25519 key.
    pub(in super::super) fn read(key: &[u8]) -> Result<PublicKey, String> {
        let der = [&ED25519[..], key].concat();
        PublicKey::read(
            format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64_STANDARD.encode(der))
                .as_bytes(),
        )
    }

    #[test]
    fn a_plain_signature_by_an_ed25519_key_counts_for_its_message_and_its_key_alone() {
        let make =
            || Ed25519KeyPair::from_pkcs8(Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref());
        let (pair, other) = (make().unwrap(), make().unwrap());
        let key = read(pair.public_key().as_ref()).unwrap();
        let signature = |pair: &Ed25519KeyPair| pair.sign(b"message").as_ref().to_vec();
        assert!(key.has_signed(b"message", signature(&pair)));
        assert!(!key.has_signed(b"another", signature(&pair)));
        assert!(!key.has_signed(b"message", signature(&other)));
        for hostile in [vec![], vec![0; 64], vec![0xff; 64], vec![7; 65]] {
            assert!(!key.has_signed(b"message", hostile));
        }
    }

    #[test]
    fn an_ed25519_key_that_is_no_point_or_one_of_small_order_is_refused() {
        // A point that is not on the curve, and the neutral element, by which every message is signed.
        for (first, expected) in [(2, ""), (1, "without a secret")] {
            let mut key = [0; 32];
            key[0] = first;
            let refusal = read(&key).err();
            assert!(refusal.as_ref().is_some_and(|why| why.contains(expected)), "{first}: {refusal:?}");
        }
    }
}
