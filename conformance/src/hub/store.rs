//! What is in the hub: repositories, their tags, manifests, blobs and referrers.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

use bytes::Bytes;
use serde_json::{Value, json};

use super::content::{Content, digest};
use super::image::{Artifact, Image, Manifest, Media, Spec};
use super::make;

/// Every repository by name.
#[derive(Debug, Default)]
pub(super) struct Store {
    repositories: BTreeMap<String, Repository>,
}

/// One repository. A blob is in each repository that was pushed with it, and nowhere else.
#[derive(Debug, Default)]
pub(super) struct Repository {
    pub(super) private: bool,
    pub(super) exempt: bool,
    pub(super) tags: BTreeMap<String, String>,
    manifests: HashMap<String, Manifest>,
    blobs: HashMap<String, Content>,
    /// Descriptors of what refers to a digest.
    referrers: HashMap<String, Vec<Value>>,
}

impl Store {
    pub(super) fn get(&self, repository: &str) -> Option<&Repository> {
        self.repositories.get(repository)
    }

    /// Puts an image that was made into its repository.
    pub(super) fn put(&mut self, spec: &Spec, image: &Image, blobs: Vec<(String, Content)>) {
        let repository = self.repositories.entry(spec.repository.clone()).or_default();
        repository.private = spec.private;
        repository.exempt = spec.exempt;
        repository.blobs.extend(blobs);
        for manifest in image.platforms.iter().map(|platform| &platform.manifest).chain([&image.root]) {
            repository.manifests.insert(manifest.digest.clone(), manifest.clone());
        }
        for tag in &spec.tags {
            repository.tags.insert(tag.clone(), image.root.digest.clone());
        }
    }

    /// Puts an artifact and its descriptor among the referrers of its subject.
    pub(super) fn put_referrer(&mut self, artifact: &Artifact) -> Manifest {
        let repository = self.repositories.entry(artifact.repository.clone()).or_default();
        let annotations: BTreeMap<_, _> = artifact.annotations.iter().cloned().collect();
        let empty = Bytes::from_static(b"{}");
        let layer = digest(&artifact.content);
        let mut contents = json!({
            "schemaVersion": 2,
            "mediaType": Media::Oci.manifest(),
            "artifactType": artifact.artifact_type,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(&empty), "size": 2},
            "layers": [{"mediaType": "application/octet-stream", "digest": layer, "size": artifact.content.len()}],
            "annotations": annotations,
        });
        let size = repository.manifests.get(&artifact.subject).map_or(0, |manifest| manifest.bytes.len());
        let subject_type =
            repository.manifests.get(&artifact.subject).map_or(Media::Oci.manifest(), |manifest| &manifest.media_type);
        contents["subject"] = json!({"mediaType": subject_type, "digest": artifact.subject, "size": size});
        let manifest = make::signed(Media::Oci.manifest(), &contents);
        repository.blobs.insert(digest(&empty), Content::Memory(empty));
        repository.blobs.insert(layer, Content::Memory(artifact.content.clone()));
        let referrers = repository.referrers.entry(artifact.subject.clone()).or_default();
        referrers.push(json!({
            "mediaType": manifest.media_type,
            "digest": manifest.digest,
            "size": manifest.bytes.len(),
            "artifactType": artifact.artifact_type,
            "annotations": annotations,
        }));
        repository.manifests.insert(manifest.digest.clone(), manifest.clone());
        manifest
    }

    /// Puts a manifest with its blobs, and its descriptor among the referrers of its subject.
    pub(super) fn put_manifest(&mut self, repository: &str, bytes: Bytes, blobs: Vec<Bytes>) -> Manifest {
        let repository = self.repositories.entry(repository.to_owned()).or_default();
        repository.blobs.extend(blobs.into_iter().map(|blob| (digest(&blob), Content::Memory(blob))));
        let contents: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let media_type = contents["mediaType"].as_str().unwrap_or(Media::Oci.manifest()).to_owned();
        let manifest = Manifest { digest: digest(&bytes), media_type, bytes };
        if let Some(subject) = contents["subject"]["digest"].as_str() {
            let artifact_type = contents.get("artifactType").unwrap_or(&contents["config"]["mediaType"]);
            repository.referrers.entry(subject.to_owned()).or_default().push(json!({
                "mediaType": manifest.media_type,
                "digest": manifest.digest,
                "size": manifest.bytes.len(),
                "artifactType": artifact_type,
            }));
        }
        repository.manifests.insert(manifest.digest.clone(), manifest.clone());
        manifest
    }

    pub(super) fn retag(&mut self, repository: &str, tag: &str, digest: &str) {
        self.repositories.entry(repository.to_owned()).or_default().tags.insert(tag.to_owned(), digest.to_owned());
    }

    pub(super) fn remove(&mut self, repository: &str, reference: &str) {
        if let Some(repository) = self.repositories.get_mut(repository) {
            repository.tags.remove(reference);
            repository.manifests.remove(reference);
            repository.blobs.remove(reference);
        }
    }

    pub(super) fn remove_repository(&mut self, repository: &str) {
        self.repositories.remove(repository);
    }
}

impl Repository {
    /// The manifest of that tag or digest. With `fallback`, the tag `sha256-<hex>` is the index of what refers to that digest.
    pub(super) fn manifest(&self, reference: &str, fallback: bool) -> Option<Manifest> {
        if fallback
            && let Some(hex) = reference.strip_prefix("sha256-")
            && let Some(referrers) = self.referrers.get(&format!("sha256:{hex}"))
        {
            return Some(referrers_index(referrers));
        }
        let digest = self.tags.get(reference).map_or(reference, String::as_str);
        let stored = self.manifests.get(digest).cloned();
        if stored.is_some() || !fallback {
            return stored;
        }
        // What the tag names is there by its digest as well, as any index is.
        self.referrers.values().map(|referrers| referrers_index(referrers)).find(|index| index.digest == digest)
    }

    /// For a client that takes no index: the linux/amd64 manifest of this one, as Hub picks it.
    pub(super) fn amd64(&self, index: &Manifest) -> Option<Manifest> {
        let contents: Value = serde_json::from_slice(&index.bytes).ok()?;
        let chosen = contents["manifests"]
            .as_array()?
            .iter()
            .find(|entry| entry["platform"]["os"] == "linux" && entry["platform"]["architecture"] == "amd64")?;
        self.manifests.get(chosen["digest"].as_str()?).cloned()
    }

    /// Some manifest with another digest.
    pub(super) fn other_manifest(&self, digest: &str) -> Option<&Manifest> {
        self.manifests.values().filter(|manifest| manifest.digest != digest).min_by_key(|manifest| &manifest.digest)
    }

    pub(super) fn blob(&self, digest: &str) -> Option<&Content> {
        self.blobs.get(digest)
    }

    /// What refers to that digest, as the index that end-12 answers with; of that artifact type, if one is given.
    pub(super) fn referrers(&self, digest: &str, artifact_type: Option<&str>) -> Manifest {
        let referrers = self.referrers.get(digest).map(Vec::as_slice).unwrap_or_default();
        let wanted: Vec<Value> = referrers
            .iter()
            .filter(|entry| artifact_type.is_none_or(|wanted| entry["artifactType"] == wanted))
            .cloned()
            .collect();
        referrers_index(&wanted)
    }
}

fn referrers_index(referrers: &[Value]) -> Manifest {
    make::signed(
        Media::Oci.index(),
        &json!({"schemaVersion": 2, "mediaType": Media::Oci.index(), "manifests": referrers}),
    )
}

/// The store and what it takes to fill it.
#[derive(Debug, Default)]
pub(super) struct Maker {
    made: make::Cache,
}

impl Maker {
    /// Makes an image; the store is not touched, so that requests go on being answered meanwhile.
    pub(super) fn make(&mut self, spec: &Spec, scratch: &Path) -> io::Result<(Image, Vec<(String, Content)>)> {
        make::image(spec, &mut self.made, scratch)
    }
}
