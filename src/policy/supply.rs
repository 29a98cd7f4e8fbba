//! Which signatures and attestations of an image the cache knows of: among the children of its index, its referrers, and the tags that
//! cosign names after its digest.
//!
//! Presence alone: that one is there says nothing of whose it is, which is verified in [`Beside`]. What the cache does not know of may
//! exist upstream.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::signature::Beside;
use crate::oci::{Digest, Malformed};

/// What an artifact beside an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attested {
    /// A signature, by cosign or Notation.
    Signature,
    /// A list of what is in the image: SPDX, CycloneDX, Syft.
    Sbom,
    /// How it was built: SLSA provenance.
    Provenance,
    /// An attestation of which the cache does not know what it says.
    Other,
}

/// What is known to be there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Supply {
    kinds: BTreeSet<Attested>,
    /// Those of them that an index names, so that a signature of the index is one of them too.
    inside: BTreeSet<Attested>,
    /// What was looked up to be verified.
    pub beside: Beside,
}

impl Attested {
    /// As a part of a sentence.
    pub fn as_str(self) -> &'static str {
        match self {
            Attested::Signature => "signature",
            Attested::Sbom => "SBOM",
            Attested::Provenance => "provenance",
            Attested::Other => "attestation",
        }
    }

    /// What a statement with this predicate is.
    pub fn of_predicate(predicate: &str) -> Attested {
        let is = |part: &str| predicate.contains(part);
        if is("slsa.dev/provenance") {
            Attested::Provenance
        } else if is("spdx.dev") || is("cyclonedx") {
            Attested::Sbom
        } else {
            Attested::Other
        }
    }
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Described>,
}

#[derive(Deserialize)]
struct Attestation {
    #[serde(default)]
    layers: Vec<Described>,
}

#[derive(Deserialize)]
struct Described {
    digest: Digest,
    #[serde(default)]
    annotations: Option<Annotations>,
}

#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "vnd.docker.reference.type")]
    reference_type: Option<String>,
    #[serde(rename = "vnd.docker.reference.digest")]
    reference_digest: Option<String>,
    #[serde(rename = "in-toto.io/predicate-type")]
    predicate_type: Option<String>,
}

impl Supply {
    /// Whether this kind of artifact is there.
    pub fn has(&self, kind: Attested) -> bool {
        self.kinds.contains(&kind)
    }

    /// Whether this kind of artifact is among what an index names.
    pub fn has_inside(&self, kind: Attested) -> bool {
        self.inside.contains(&kind)
    }

    /// Adds one.
    pub fn add(&mut self, kind: Attested) {
        self.kinds.insert(kind);
    }

    /// Adds a referrer by its artifact type; a type that means nothing here adds nothing.
    pub fn add_artifact(&mut self, artifact_type: &str) {
        let is = |part: &str| artifact_type.contains(part);
        // A bundle of sigstore may be a signature or an attestation: the statement in it says which.
        if is("dev.sigstore.bundle") || is("cosign") || artifact_type == "application/vnd.cncf.notary.signature" {
            self.add(Attested::Signature);
        } else if is("spdx") || is("cyclonedx") || is("syft") || is("sbom") {
            self.add(Attested::Sbom);
        } else if is("in-toto") || is("slsa") || is("provenance") {
            self.add(if is("slsa") || is("provenance") { Attested::Provenance } else { Attested::Other });
        }
    }

    /// Adds what a tag after the digest is for: `sha256-<hex>.sig`, `.att`, `.sbom`.
    pub fn add_tag(&mut self, tag: &str, of: &Digest) {
        let Some(rest) = tag.strip_prefix(of.algorithm().as_str()).and_then(|rest| rest.strip_prefix('-')) else {
            return;
        };
        match rest.strip_prefix(&*of.hex()) {
            Some(".sig") => self.add(Attested::Signature),
            Some(".att") => self.add(Attested::Other),
            Some(".sbom") => self.add(Attested::Sbom),
            _ => {}
        }
    }

    /// Adds what an attestation that BuildKit put beside a platform holds, from its manifest.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn add_attestation(&mut self, manifest: &[u8]) -> Result<(), Malformed> {
        let attestation: Attestation =
            serde_json::from_slice(manifest).map_err(|error| Malformed(error.to_string()))?;
        let annotations = attestation.layers.into_iter().filter_map(|layer| layer.annotations);
        for predicate in annotations.filter_map(|annotations| annotations.predicate_type) {
            let kind = Attested::of_predicate(&predicate);
            self.add(kind);
            self.inside.insert(kind);
        }
        Ok(())
    }

    /// The manifests of an index that BuildKit wrote as attestations of this platform's manifest.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn attestations(index: &[u8], of: &Digest) -> Result<Vec<Digest>, Malformed> {
        let index: Index = serde_json::from_slice(index).map_err(|error| Malformed(error.to_string()))?;
        let of = of.to_string();
        let is_of = |described: &Described| {
            described.annotations.as_ref().is_some_and(|annotations| {
                annotations.reference_type.as_deref() == Some("attestation-manifest")
                    && annotations.reference_digest.as_ref() == Some(&of)
            })
        };
        Ok(index.manifests.into_iter().filter(is_of).map(|described| described.digest).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn kinds(add: impl FnOnce(&mut Supply)) -> Vec<Attested> {
        let mut supply = Supply::default();
        add(&mut supply);
        supply.kinds.into_iter().collect()
    }

    #[test]
    fn an_artifact_is_known_by_its_type_its_tag_or_its_predicates() {
        for (artifact_type, expected) in [
            ("application/vnd.dev.sigstore.bundle.v0.3+json", &[Attested::Signature][..]),
            ("application/vnd.cncf.notary.signature", &[Attested::Signature]),
            ("application/spdx+json", &[Attested::Sbom]),
            ("application/vnd.cyclonedx+json", &[Attested::Sbom]),
            ("application/vnd.in-toto+json", &[Attested::Other]),
            ("application/vnd.example.readme", &[]),
        ] {
            assert_eq!(kinds(|supply| supply.add_artifact(artifact_type)), expected, "{artifact_type}");
        }
        let (digest, other) = (Algorithm::Sha256.digest(b"image"), Algorithm::Sha256.digest(b"other"));
        for (end, expected) in
            [(".sig", &[Attested::Signature][..]), (".att", &[Attested::Other]), ("", &[]), (".sigx", &[])]
        {
            let tag = format!("sha256-{}{end}", digest.hex());
            assert_eq!(kinds(|supply| supply.add_tag(&tag, &digest)), expected, "{tag}");
            assert_eq!(kinds(|supply| supply.add_tag(&tag, &other)), [], "{tag}");
        }
    }

    #[test]
    fn an_attestation_is_found_beside_the_platform_that_it_is_of() {
        let [image, other, one, two] = [&b"image"[..], b"other", b"one", b"two"].map(|it| Algorithm::Sha256.digest(it));
        let beside = |digest: &Digest, of: &Digest| {
            serde_json::json!({"digest": digest.to_string(), "annotations": {
                "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": of.to_string()}})
        };
        let plain = serde_json::json!({"digest": image.to_string(), "annotations": null});
        let index = serde_json::json!({"manifests": [plain, beside(&one, &image), beside(&two, &other)]}).to_string();
        assert_eq!(Supply::attestations(index.as_bytes(), &image), Ok(vec![one.clone()]));
        let layer = |predicate: &str| serde_json::json!({"digest": one.to_string(), "annotations": {"in-toto.io/predicate-type": predicate}});
        let layers = ["https://spdx.dev/Document", "https://slsa.dev/provenance/v1"].map(layer);
        let manifest = serde_json::json!({"layers": layers}).to_string();
        let found = kinds(|supply| supply.add_attestation(manifest.as_bytes()).unwrap());
        assert_eq!(found, [Attested::Sbom, Attested::Provenance]);
        assert!(Supply::attestations(b"{", &image).is_err() && Supply::default().add_attestation(b"7").is_err());
    }
}
