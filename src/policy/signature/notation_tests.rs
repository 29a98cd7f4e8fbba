//! What of a signature of Notation must hold, by envelopes of which each breaks one thing: certificates and signatures are made here.

use std::{
    str::FromStr as _,
    time::{Duration, SystemTime},
};

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::{Value, json};
use x509_cert::{
    Certificate, TbsCertificate, Version,
    der::{
        Encode as _,
        asn1::{BitString, ObjectIdentifier, OctetString, UtcTime},
        oid::AssociatedOid,
    },
    ext::{
        Extension,
        pkix::{BasicConstraints, ExtendedKeyUsage},
    },
    name::Name,
    serial_number::SerialNumber,
    spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned},
    time::{Time, Validity},
};

use super::{finding::Finding, notation::Notation};
use crate::oci::Algorithm;

const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const ECDSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const CODE_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.3");
const SERVERS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
/// Days since 1970 of the years in which certificates here begin and end, and of the day on which signatures are verified.
const Y2020: u64 = 18_262;
const Y2025: u64 = 20_089;
const NOW: u64 = 20_613;
const Y2027: u64 = 20_819;
const Y2030: u64 = 21_915;

/// Who holds a key, and may be an authority.
struct Holder {
    name: &'static str,
    pkcs8: Vec<u8>,
}

impl Holder {
    fn new(name: &'static str) -> Holder {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).unwrap();
        Holder { name, pkcs8: pkcs8.as_ref().to_vec() }
    }

    fn key(&self, algorithm: &'static ring::signature::EcdsaSigningAlgorithm) -> EcdsaKeyPair {
        EcdsaKeyPair::from_pkcs8(algorithm, &self.pkcs8, &SystemRandom::new()).unwrap()
    }

    /// A certificate for another holder, in DER.
    fn certify(&self, holder: &Holder, change: impl FnOnce(&mut TbsCertificate)) -> Vec<u8> {
        let algorithm = |oid, parameters| AlgorithmIdentifierOwned { oid, parameters };
        let key = holder.key(&ECDSA_P256_SHA256_ASN1_SIGNING);
        let mut tbs_certificate = TbsCertificate {
            version: Version::V3,
            serial_number: SerialNumber::from(1_u8),
            signature: algorithm(ECDSA_WITH_SHA256, None),
            issuer: name(self.name),
            validity: Validity { not_before: day(Y2020), not_after: day(Y2030) },
            subject: name(holder.name),
            subject_public_key_info: SubjectPublicKeyInfoOwned {
                algorithm: algorithm(EC_PUBLIC_KEY, Some(P256.into())),
                subject_public_key: BitString::from_bytes(key.public_key().as_ref()).unwrap(),
            },
            issuer_unique_id: None,
            subject_unique_id: None,
            extensions: None,
        };
        change(&mut tbs_certificate);
        let signed = tbs_certificate.to_der().unwrap();
        let signature = self.key(&ECDSA_P256_SHA256_ASN1_SIGNING).sign(&SystemRandom::new(), &signed).unwrap();
        let signature = BitString::from_bytes(signature.as_ref()).unwrap();
        let signature_algorithm = algorithm(ECDSA_WITH_SHA256, None);
        Certificate { tbs_certificate, signature_algorithm, signature }.to_der().unwrap()
    }

    /// A certificate for an authority.
    fn authorize(&self, holder: &Holder) -> Vec<u8> {
        let constraints = BasicConstraints { ca: true, path_len_constraint: None };
        self.certify(holder, |it| it.extensions = Some(vec![extension(&constraints)]))
    }
}

fn name(name: &str) -> Name {
    Name::from_str(&format!("CN={name}")).unwrap()
}

fn day(days: u64) -> Time {
    Time::UtcTime(UtcTime::from_unix_duration(Duration::from_secs(days * 86_400)).unwrap())
}

fn extension<T: AssociatedOid + x509_cert::der::Encode>(value: &T) -> Extension {
    Extension { extn_id: T::OID, critical: true, extn_value: OctetString::new(value.to_der().unwrap()).unwrap() }
}

/// What a certificate may be used for.
fn used_for(purpose: ObjectIdentifier) -> impl FnOnce(&mut TbsCertificate) {
    move |it| it.extensions = Some(vec![extension(&ExtendedKeyUsage(vec![purpose]))])
}

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64_STANDARD.encode(der))
}

fn payload() -> Value {
    json!({"targetArtifact": {"digest": Algorithm::Sha256.digest(b"image").to_string()}})
}

fn protected() -> Value {
    json!({
        "alg": "ES256",
        "cty": "application/vnd.cncf.notary.payload.v1+json",
        "crit": ["io.cncf.notary.signingScheme"],
        "io.cncf.notary.signingScheme": "notary.x509",
    })
}

fn encode(value: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(value.to_string())
}

/// An envelope over these header fields. The first certificate of the chain is that of the signer.
fn signed(signer: &Holder, chain: &[&[u8]], protected: &Value) -> Value {
    let (protected, payload) = (encode(protected), encode(&payload()));
    let signed = format!("{protected}.{payload}");
    let key = signer.key(&ECDSA_P256_SHA256_FIXED_SIGNING);
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    json!({
        "payload": payload,
        "protected": protected,
        "header": {"x5c": chain.iter().map(|der| BASE64_STANDARD.encode(der)).collect::<Vec<_>>()},
        "signature": BASE64_URL_SAFE_NO_PAD.encode(signature),
    })
}

/// What is said of an envelope: nothing when it counts.
fn said(roots: &str, envelope: &Value) -> Option<Finding> {
    let notation = Notation::new(roots.as_bytes(), &["x509.subject: CN=signer".to_owned()]).unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW * 86_400);
    match notation.verify(envelope.to_string().as_bytes(), now) {
        Ok(digest) => (digest != Algorithm::Sha256.digest(b"image")).then_some(Finding::OtherDigest),
        Err(finding) => Some(finding),
    }
}

#[test]
fn what_an_envelope_of_notation_says_of_itself_must_be_what_is_verified() {
    let (root, signer) = (Holder::new("root"), Holder::new("signer"));
    let roots = pem(&root.authorize(&root));
    let leaf = root.certify(&signer, used_for(CODE_SIGNING));
    let sound = signed(&signer, &[&leaf], &protected());
    assert_eq!(said(&roots, &sound), None);
    let with = |field: &str, value: Value| {
        let mut fields = protected();
        fields[field] = value;
        said(&roots, &signed(&signer, &[&leaf], &fields))
    };
    for (field, value, expected) in [
        ("io.cncf.notary.signingScheme", json!("notary.x509.signingAuthority"), Finding::Unsupported),
        ("cty", json!("application/json"), Finding::Unsupported),
        ("crit", json!(["io.cncf.notary.verificationPlugin"]), Finding::Unsupported),
        ("alg", json!("none"), Finding::Unsupported),
        ("alg", json!("HS256"), Finding::Unsupported),
        ("alg", json!("ES384"), Finding::Broken),
        ("alg", json!("PS256"), Finding::Broken),
        ("io.cncf.notary.expiry", json!("2026-01-01T00:00:00Z"), Finding::Expired),
        ("io.cncf.notary.expiry", json!("soon"), Finding::Malformed),
    ] {
        assert_eq!(with(field, value.clone()), Some(expected), "{field}: {value}");
    }
    assert_eq!(with("io.cncf.notary.expiry", json!("2027-01-01T00:00:00Z")), None);
    for (part, mut value) in [("payload", payload()), ("protected", protected())] {
        value["another"] = json!(1);
        let mut changed = sound.clone();
        changed[part] = encode(&value).into();
        assert_eq!(said(&roots, &changed), Some(Finding::Broken), "{part}");
    }
}

#[test]
fn a_certificate_of_notation_leads_to_a_root_is_for_signing_code_and_is_valid_now() {
    let [root, other, between, signer] = ["root", "root", "between", "signer"].map(Holder::new);
    let (root_der, other_der) = (root.authorize(&root), other.authorize(&other));
    let of = |chain: &[&[u8]]| said(&pem(&root_der), &signed(&signer, chain, &protected()));

    let (above, leaf) = (root.authorize(&between), between.certify(&signer, used_for(CODE_SIGNING)));
    assert_eq!(of(&[&leaf, &above, &root_der]), None);
    assert_eq!(of(&[&leaf, &root_der]), Some(Finding::OtherRoots), "the authority between is missing");
    let above = root.certify(&between, |_| {});
    assert_eq!(of(&[&leaf, &above]), Some(Finding::OtherRoots), "what is between is no authority");
    let leaf = other.certify(&signer, used_for(CODE_SIGNING));
    assert_eq!(of(&[&leaf, &other_der]), Some(Finding::OtherRoots), "a root of the same name");

    assert_eq!(of(&[&root.certify(&signer, |_| {})]), None, "it is for anything");
    assert_eq!(of(&[&root.certify(&signer, used_for(SERVERS))]), Some(Finding::OtherRoots));
    let ended = root.certify(&signer, |it| it.validity.not_after = day(Y2025));
    assert_eq!(of(&[&ended]), Some(Finding::ExpiredCertificate));
    let early = root.certify(&signer, |it| it.validity.not_before = day(Y2027));
    assert_eq!(of(&[&early]), Some(Finding::EarlyCertificate));
    let renamed = root.certify(&signer, |it| it.subject = name("another"));
    assert_eq!(of(&[&renamed]), Some(Finding::OtherIdentity));

    // The certificate of the signer, and as many above it as are read, or one more.
    let leaf = root.certify(&signer, |_| {});
    for (above, expected) in [(7, None), (8, Some(Finding::TooLarge))] {
        let chain = [vec![&*leaf], vec![&*root_der; above]].concat();
        assert_eq!(of(&chain), expected, "{above}");
    }
    assert_eq!(of(&[]), Some(Finding::Malformed));
}
