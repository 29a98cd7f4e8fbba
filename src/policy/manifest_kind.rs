//! What a manifest is to container engines: an image that they run, or an artifact.
//!
//! What an engine would run is an image, whatever else the manifest says of itself: Docker looks at the type of the config alone, and takes
//! some that are no image's; podman looks at no type of config in Docker's schema 2; containerd looks at the types of the layers.

use serde::Deserialize;

use crate::oci::Manifest;

/// What a manifest that is no index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestKind {
    /// An image, by the type of its manifest or of its config.
    Image,
    /// An image when its config names layers, else unclear: the type of its layers or of its config is like an image's.
    ByItsConfig,
    /// An artifact when its layers are text, else an image: they call themselves signatures or attestations, but the config is an image's, so
    /// that an engine which does not look at the types of layers runs it.
    ByItsLayers,
    /// An artifact of a known kind, such as a signature, an attestation or a Helm chart. No engine runs it.
    Artifact,
    /// An image of Docker's schema 1, which has no config.
    Schema1,
    /// Anything else.
    Unclear,
}

/// The types of an image's config.
const IMAGE_CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// What else Docker takes for the config of an image (moby, distribution/registry.go, `defaultImageTypes`): what broken registries wrote.
const TAKEN_FOR_IMAGE_CONFIGS: [&str; 4] = ["", "application/octet-stream", "application/json", "text/html"];
/// How the types of configs begin that Docker takes in an OCI manifest (moby, `supportedMediaTypes`).
const LIKE_IMAGE_CONFIGS: [&str; 2] = ["application/vnd.oci.image.", "application/vnd.docker."];
/// How the types of the layers begin that containerd unpacks.
const IMAGE_LAYERS: [&str; 2] = ["application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs."];

/// The types of the configs of artifacts.
const ARTIFACT_CONFIGS: [&str; 13] = [
    "application/vnd.oci.empty.v1+json",
    "application/vnd.in-toto+json",
    "application/vnd.dsse.envelope.v1+json",
    "application/spdx+json",
    "text/spdx",
    "text/spdx+json",
    "text/spdx+xml",
    "application/vnd.syft+json",
    "application/wasm",
    "application/vnd.wasm.config.v0+json",
    "application/vnd.wasm.config.v1+json",
    // What oras wrote when it was given no config.
    "application/vnd.unknown.config.v1+json",
    "application/vnd.aquasec.trivy.config.v1+json",
];
/// How others of them begin: of cosign, of bundles of sigstore, of CycloneDX, and of the projects of the CNCF, such as Notation, Helm,
/// Open Policy Agent and Flux.
const ARTIFACT_CONFIG_FAMILIES: [&str; 4] = [
    "application/vnd.dev.cosign.",
    "application/vnd.dev.sigstore.",
    "application/vnd.cyclonedx",
    "application/vnd.cncf.",
];

/// The types of layers of signatures, attestations and SBOMs to which cosign and BuildKit give the config of an image.
const ARTIFACT_LAYERS: [&str; 10] = [
    "application/vnd.dev.cosign.simplesigning.v1+json",
    "application/vnd.in-toto+json",
    "application/vnd.dsse.envelope.v1+json",
    "application/vnd.cyclonedx+json",
    "application/vnd.cyclonedx+xml",
    "application/vnd.syft+json",
    "application/spdx+json",
    "text/spdx",
    "text/spdx+json",
    "text/spdx+xml",
];

const SCHEMA_2: &str = "application/vnd.docker.distribution.manifest.v2+json";
const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+";
/// The withdrawn manifest of artifacts, which no engine reads.
const ARTIFACT_MANIFEST: &str = "application/vnd.oci.artifact.manifest.v1+json";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    media_type: String,
    config: Option<Typed>,
    layers: Option<Vec<Typed>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Typed {
    #[serde(rename = "mediaType", default)]
    media_type: String,
}

impl ManifestKind {
    /// The kind of a manifest that is no index. What is no manifest is unclear.
    pub fn of(manifest: &Manifest) -> ManifestKind {
        let Ok(document) = serde_json::from_slice::<Document>(&manifest.bytes) else { return ManifestKind::Unclear };
        let is_typed = |of: &str| manifest.media_type.as_str() == of || document.media_type == of;
        let layers = document.layers.unwrap_or_default();
        let has_image_layers = layers.iter().any(|layer| begins(&layer.media_type, &IMAGE_LAYERS));
        let Some(config) = document.config.map(|config| config.media_type.trim().to_ascii_lowercase()) else {
            return if document.fs_layers.is_some() || manifest.media_type.as_str().starts_with(SCHEMA_1) {
                ManifestKind::Schema1
            } else if is_typed(ARTIFACT_MANIFEST) && layers.is_empty() {
                ManifestKind::Artifact
            } else {
                ManifestKind::Unclear
            };
        };
        let is_beside = |layer: &Typed| ARTIFACT_LAYERS.contains(&&*layer.media_type);
        if is_typed(SCHEMA_2) || TAKEN_FOR_IMAGE_CONFIGS.contains(&&*config) {
            ManifestKind::Image
        } else if IMAGE_CONFIGS.contains(&&*config) {
            let is_artifact = !layers.is_empty() && layers.iter().all(is_beside);
            if is_artifact { ManifestKind::ByItsLayers } else { ManifestKind::Image }
        } else if has_image_layers || begins(&config, &LIKE_IMAGE_CONFIGS) {
            ManifestKind::ByItsConfig
        } else if ARTIFACT_CONFIGS.contains(&&*config) || begins(&config, &ARTIFACT_CONFIG_FAMILIES) {
            ManifestKind::Artifact
        } else {
            ManifestKind::Unclear
        }
    }
}

fn begins(text: &str, families: &[&str]) -> bool {
    families.iter().any(|family| text.starts_with(family))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
    const CONFIG: &str = IMAGE_CONFIGS[0];
    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

    fn kind(media_type: &str, document: &Value) -> ManifestKind {
        let bytes: bytes::Bytes = document.to_string().into();
        ManifestKind::of(&Manifest { digest: Manifest::name(&bytes), media_type: media_type.parse().unwrap(), bytes })
    }

    fn of(media_type: &str, config: &str, layers: &[&str]) -> ManifestKind {
        let layers: Vec<Value> = layers.iter().map(|of| json!({"mediaType": of})).collect();
        kind(media_type, &json!({"artifactType": "x/y", "config": {"mediaType": config}, "layers": layers}))
    }

    #[test]
    fn what_an_engine_runs_is_an_image_whatever_its_artifact_type_is() {
        for (media_type, config, layer) in [
            (OCI, CONFIG, LAYER),
            (OCI, IMAGE_CONFIGS[1], LAYER),
            (OCI, "application/json", "x/y"),
            (OCI, "", LAYER),
            (SCHEMA_2, "application/octet-stream", LAYER),
            (SCHEMA_2, "application/vnd.cncf.helm.config.v1+json", "x/y"),
            (SCHEMA_2, CONFIG, ARTIFACT_LAYERS[0]),
            (OCI, CONFIG, "application/vnd.docker.image.rootfs.diff.tar.json"),
            (OCI, CONFIG, "application/vnd.in-toto+jsonjson"),
        ] {
            assert_eq!(of(media_type, config, &[layer]), ManifestKind::Image, "{media_type} {config} {layer}");
        }
        let typed_inside = json!({"mediaType": SCHEMA_2, "config": {"mediaType": "x/y"}, "layers": []});
        assert_eq!(kind(OCI, &typed_inside), ManifestKind::Image);
        assert_eq!(of(OCI, CONFIG, &[]), ManifestKind::Image);
        assert_eq!(of(OCI, CONFIG, &[ARTIFACT_LAYERS[0], LAYER]), ManifestKind::Image);
        assert_eq!(of(OCI, "application/vnd.docker.x", &["x/y"]), ManifestKind::ByItsConfig);
        for config in ["application/vnd.oci.empty.v1+json", "x/y"] {
            assert_eq!(of(OCI, config, &["x/y", LAYER]), ManifestKind::ByItsConfig, "{config}");
        }
    }

    #[test]
    fn an_artifact_is_known_by_its_config_or_its_layers_and_what_is_not_known_is_unclear() {
        assert_eq!(of(OCI, CONFIG, &ARTIFACT_LAYERS[..2]), ManifestKind::ByItsLayers);
        for config in [
            "application/vnd.oci.empty.v1+json",
            "application/vnd.cncf.notary.signature",
            "application/vnd.cncf.helm.config.v1+json",
            "application/vnd.dev.sigstore.bundle.v0.3+json",
        ] {
            assert_eq!(of(OCI, config, &["x/y"]), ManifestKind::Artifact, "{config}");
        }
        let withdrawn = json!({"blobs": [{"mediaType": "x/y"}]});
        assert_eq!(kind(ARTIFACT_MANIFEST, &withdrawn), ManifestKind::Artifact);
        assert_eq!(of(OCI, "application/vnd.sylabs.sif.config.v1+json", &["x/y"]), ManifestKind::Unclear);
        assert_eq!(kind(OCI, &withdrawn), ManifestKind::Unclear);
        assert_eq!(kind(OCI, &json!([])), ManifestKind::Unclear);
    }

    #[test]
    fn schema_1_is_an_image_by_its_type_or_by_its_layers() {
        let document = json!({"schemaVersion": 1, "fsLayers": []});
        for media_type in ["application/vnd.docker.distribution.manifest.v1+prettyjws", OCI] {
            assert_eq!(kind(media_type, &document), ManifestKind::Schema1, "{media_type}");
        }
        let by_type = kind("application/vnd.docker.distribution.manifest.v1+json", &json!({}));
        assert_eq!(by_type, ManifestKind::Schema1);
    }
}
