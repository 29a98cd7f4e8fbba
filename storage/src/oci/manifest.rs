//! A manifest: its exact bytes, and the little that Weir reads in them.
//!
//! The bytes are what upstream signed, so they are kept and served untouched. They are parsed only to learn which
//! digests that belong to a repository, what a manifest refers to, and what a referrers answer says of it. The parser
//! is lenient, as clients are: an unknown field is not an error, a missing `mediaType` is not an error.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Algorithm, Digest, MediaType, is_platform, schema1};

/// A whole, verified manifest. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What the bytes hash to, or the payload of a signed schema 1 manifest.
    pub digest: Digest,
    /// What upstream said it is; the body decides when the two differ in letter case or parameters only.
    pub media_type: MediaType,
    /// The bytes as they were pushed.
    pub bytes: Bytes,
}

/// A blob or manifest that a manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes as the manifest claims it; a claim, never an allocation.
    pub size: u64,
    /// Whether it is a manifest (an index lists manifests) or a blob.
    pub is_manifest: bool,
    /// The platform that an index claims for it, as `linux/arm64/v8`.
    pub platform: Option<Box<str>>,
    /// Whether its media type says that clients fetch it elsewhere and push it nowhere: a non-distributable layer.
    pub is_foreign: bool,
}

impl Child {
    /// Whether an index claims one of these platforms for it; of none wanted, any manifest is.
    pub fn is_for(&self, wanted: &[String]) -> bool {
        let claimed = self.platform.as_deref();
        wanted.is_empty() || claimed.is_some_and(|claimed| wanted.iter().any(|wanted| is_platform(claimed, wanted)))
    }
}

/// What a manifest says of itself, as far as Weir needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// The `mediaType` in the body, when there is one.
    pub media_type: Option<MediaType>,
    /// What it names, in order: config, layers, manifests.
    pub children: Vec<Child>,
    /// What it refers to, for the referrers API (end-12).
    pub subject: Option<Digest>,
    /// `artifactType`, else the config's media type, as end-12 asks.
    pub artifact_type: Option<String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// How the media types of layers begin that are not pushed (image-spec, "Non-Distributable Layers"; Docker's foreign layers).
const FOREIGN: [&str; 2] =
    ["application/vnd.oci.image.layer.nondistributable.", "application/vnd.docker.image.rootfs.foreign."];

/// The bytes are no manifest: not JSON, or one document in two shapes (CVE-2021-41190).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed manifest: {0}")]
pub struct Malformed(pub String);

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "mediaType")]
    media_type: Option<MediaType>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    // The withdrawn OCI artifact manifest calls its layers so.
    blobs: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    // Schema 1, which is served as it is and makes its layers members.
    #[serde(rename = "fsLayers")]
    fs_layers: Option<Vec<FsLayer>>,
    subject: Option<Descriptor>,
    #[serde(rename = "artifactType")]
    artifact_type: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Serialize, Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    digest: Digest,
    #[serde(default)]
    size: u64,
    #[serde(default, skip_serializing, deserialize_with = "platform")]
    platform: Option<Box<str>>,
}

/// One text of a platform's fields; `None` for what has none, be it malformed: it is shown and decides nothing.
fn platform<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Box<str>>, D::Error> {
    let fields = serde_json::Value::deserialize(deserializer)?;
    let fields = ["os", "architecture", "variant"].map(|name| fields.get(name).and_then(|field| field.as_str()));
    let fields: Vec<&str> = fields.into_iter().flatten().filter(|field| !field.is_empty()).collect();
    Ok((!fields.is_empty()).then(|| fields.join("/").into()))
}

#[derive(Deserialize)]
struct FsLayer {
    #[serde(rename = "blobSum")]
    digest: Digest,
}

impl Manifest {
    /// Whether these bytes are the manifest of a digest: it is that of the bytes or, of signed schema 1, that of the payload.
    pub fn is_named(bytes: &[u8], digest: &Digest) -> bool {
        let algorithm = digest.algorithm();
        let signed = || schema1::payload(bytes).is_some_and(|payload| algorithm.digest(&payload) == *digest);
        algorithm.digest(bytes) == *digest || signed()
    }

    /// The digest of these bytes as a registry names it that names none.
    pub fn name(bytes: &[u8]) -> Digest {
        Algorithm::Sha256.digest(schema1::payload(bytes).as_deref().unwrap_or(bytes))
    }

    /// Reads what the bytes say of themselves. Costs one pass over the bytes.
    ///
    /// # Errors
    /// [`Malformed`] when they are not a JSON object of a manifest's shape, or are both an image and an index.
    pub fn describe(&self) -> Result<Description, Malformed> {
        Description::read(&self.bytes)
    }
}

impl Description {
    /// The descriptor of the manifest that says this of itself, as a list of referrers has it (distribution-spec, end-12).
    pub fn referrer(&self, media_type: &MediaType, digest: &Digest, size: usize) -> Value {
        let mut descriptor = json!({"mediaType": media_type.as_str(), "digest": digest.to_string(), "size": size});
        if let Some(artifact_type) = &self.artifact_type {
            descriptor["artifactType"] = json!(artifact_type);
        }
        if !self.annotations.is_empty() {
            descriptor["annotations"] = json!(self.annotations);
        }
        descriptor
    }

    /// Reads a manifest's bytes; see [`Manifest::describe`].
    ///
    /// # Errors
    /// As [`Manifest::describe`].
    pub fn read(bytes: &[u8]) -> Result<Description, Malformed> {
        let document: Document = serde_json::from_slice(bytes).map_err(|error| Malformed(error.to_string()))?;
        let image = document.config.is_some() || document.layers.is_some();
        if image && document.manifests.is_some() {
            return Err(Malformed("it is both an image manifest and an index".into()));
        }
        let artifact_type = document
            .artifact_type
            .filter(|text| !text.is_empty())
            .or_else(|| document.config.as_ref().and_then(|config| config.media_type.clone()));
        let blobs = document.config.into_iter().chain(document.layers.into_iter().flatten());
        let blobs = blobs.chain(document.blobs.into_iter().flatten()).map(|descriptor| (descriptor, false));
        let manifests = document.manifests.into_iter().flatten().map(|descriptor| (descriptor, true));
        let mut children: Vec<Child> = blobs
            .chain(manifests)
            .map(|(Descriptor { digest, size, media_type, platform }, is_manifest)| Child {
                digest,
                size,
                is_manifest,
                platform,
                is_foreign: media_type.is_some_and(|text| FOREIGN.iter().any(|begin| text.starts_with(begin))),
            })
            .collect();
        children.extend(document.fs_layers.into_iter().flatten().map(|layer| Child {
            digest: layer.digest,
            size: 0,
            is_manifest: false,
            platform: None,
            is_foreign: false,
        }));
        Ok(Description {
            media_type: document.media_type,
            children,
            subject: document.subject.map(|subject| subject.digest),
            artifact_type,
            annotations: document.annotations.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn an_image_names_its_config_and_layers_and_an_index_its_manifests() {
        let image = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"c/t","digest":"{A}","size":3}},
                "layers":[{{"digest":"{A}","size":4}}],"subject":{{"digest":"{A}"}}}}"#
        );
        let image = Description::read(image.as_bytes()).unwrap();
        assert_eq!(image.children.iter().map(|child| child.size).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(image.artifact_type.as_deref(), Some("c/t"));
        assert!(image.subject.is_some());
        let platform = r#""platform":{"architecture":"arm64","os":"linux","variant":"v8"}"#;
        let index = format!(
            r#"{{"manifests":[{{"digest":"{A}","size":9,{platform}}},{{"digest":"{A}","platform":[7]}},{{"digest":"{A}"}}]}}"#
        );
        let children = Description::read(index.as_bytes()).unwrap().children;
        assert!(children.iter().all(|child| child.is_manifest));
        let platforms: Vec<_> = children.iter().map(|child| child.platform.as_deref()).collect();
        assert_eq!(platforms, [Some("linux/arm64/v8"), None, None]);
    }

    #[test]
    fn one_document_in_two_shapes_and_what_is_no_json_are_refused() {
        let both = format!(r#"{{"layers":[{{"digest":"{A}"}}],"manifests":[]}}"#);
        for bad in [both.as_str(), "<html>", "", "[]", "{} {}", r#"{"config":{"digest":"sha256:x"}}"#] {
            assert!(Description::read(bad.as_bytes()).is_err(), "{bad}");
        }
        let deep = "[".repeat(100_000);
        assert!(Description::read(deep.as_bytes()).is_err());
    }
}
