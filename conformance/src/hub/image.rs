//! Images as a test wants to name them: a repository, tags, platforms and layers made from a seed.

use std::path::PathBuf;

use bytes::Bytes;
use serde_json::Value;

/// An image to be made. Equal specs make equal bytes, on every machine and in every run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The repository, `library/` included: nothing is implied.
    pub repository: String,
    /// The tags that will name it; may be empty.
    pub tags: Vec<String>,
    /// One manifest each, `os/architecture` or `os/architecture/variant`.
    pub platforms: Vec<String>,
    /// Whether an index names the manifests. Without, there must be one platform, and the tags name its manifest.
    pub index: bool,
    /// The layers of each platform, lowest first.
    pub layers: Vec<Layer>,
    /// Whatever a layer does not fix by itself is made from this.
    pub seed: u64,
    /// Which family of media types.
    pub media: Media,
    /// Whether the repository is private; it is a property of the repository and the latest push decides.
    pub private: bool,
    /// Whether pulls of the repository are exempt from the pull limit (Verified Publisher): no `ratelimit-*` header. The latest push decides.
    pub exempt: bool,
    /// What `docker run` would start.
    pub command: Vec<String>,
    /// Laid over the config of each platform (RFC 7396, JSON Merge Patch); null for nothing.
    pub config: Value,
    /// Laid over each platform's manifest likewise.
    pub manifest: Value,
    /// Annotations of each platform's manifest.
    pub annotations: Vec<(String, String)>,
    /// Predicate types of attestations, as BuildKit puts them into an index beside each platform; none when empty.
    pub attested: Vec<String>,
}

impl Spec {
    /// A public multi-arch OCI image (linux/amd64, linux/arm64) with three layers of 64 KiB for each, tagged `latest`, made from a seed of 1.
    pub fn new(repository: impl Into<String>) -> Spec {
        Spec {
            repository: repository.into(),
            tags: vec!["latest".to_owned()],
            platforms: vec!["linux/amd64".to_owned(), "linux/arm64".to_owned()],
            index: true,
            layers: vec![Layer::Random(64 << 10); 3],
            seed: 1,
            media: Media::Oci,
            private: false,
            exempt: false,
            command: vec!["/hello".to_owned()],
            config: Value::Null,
            manifest: Value::Null,
            annotations: Vec::new(),
            attested: Vec::new(),
        }
    }

    /// With these tags.
    pub fn tags<T: Into<String>>(self, tags: impl IntoIterator<Item = T>) -> Spec {
        Spec { tags: tags.into_iter().map(Into::into).collect(), ..self }
    }

    /// For these platforms.
    pub fn platforms<T: Into<String>>(self, platforms: impl IntoIterator<Item = T>) -> Spec {
        Spec { platforms: platforms.into_iter().map(Into::into).collect(), ..self }
    }

    /// For linux/amd64 alone and without an index, so that the tags name the manifest.
    pub fn single(self) -> Spec {
        Spec { platforms: vec!["linux/amd64".to_owned()], index: false, ..self }
    }

    /// With layers of these sizes in bytes, each of its own for every platform.
    pub fn layers(self, sizes: impl IntoIterator<Item = u64>) -> Spec {
        Spec { layers: sizes.into_iter().map(Layer::Random).collect(), ..self }
    }

    /// With one more layer on top.
    pub fn layer(mut self, layer: Layer) -> Spec {
        self.layers.push(layer);
        self
    }

    /// BuiltLayer from this seed.
    pub fn seed(self, seed: u64) -> Spec {
        Spec { seed, ..self }
    }

    /// With these media types.
    pub fn media(self, media: Media) -> Spec {
        Spec { media, ..self }
    }

    /// With this laid over the config of each platform.
    pub fn config(self, config: Value) -> Spec {
        Spec { config, ..self }
    }

    /// With this laid over the manifest of each platform.
    pub fn manifest(self, manifest: Value) -> Spec {
        Spec { manifest, ..self }
    }

    /// With one more annotation of each platform's manifest.
    pub fn annotation(mut self, key: &str, value: &str) -> Spec {
        self.annotations.push((key.to_owned(), value.to_owned()));
        self
    }

    /// With attestations of these predicate types in the index.
    pub fn attested(self, predicates: impl IntoIterator<Item = &'static str>) -> Spec {
        Spec { attested: predicates.into_iter().map(str::to_owned).collect(), ..self }
    }

    /// In a private repository.
    pub fn private(self) -> Spec {
        Spec { private: true, ..self }
    }

    /// In a repository whose pulls are not counted.
    pub fn exempt(self) -> Spec {
        Spec { exempt: true, ..self }
    }
}

/// One layer: a real tar, gzip'd, but for [`Layer::Raw`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer {
    /// A file of so many random bytes, other ones for every seed, platform and position. They do not compress: the blob is some two thousand bytes and one in ten thousand larger. The lowest layer also holds the program `/hello`.
    Random(u64),
    /// The same made from a seed of its own: equal in all platforms, images and repositories that name it.
    Shared {
        /// The layer's seed.
        seed: u64,
        /// Bytes in the file.
        size: u64,
    },
    /// A tar from disk (plain), gzip'd as it is; for images that are to run.
    Tar(PathBuf),
    /// These files: path, permissions, contents.
    Files(Vec<(String, u32, String)>),
    /// The blob itself, whatever it is.
    Raw(Vec<u8>),
}

/// A family of media types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// `application/vnd.oci.image.*`
    Oci,
    /// `application/vnd.docker.distribution.*`, schema 2
    Docker,
}

impl Media {
    /// The type of an index or manifest list.
    pub const fn index(self) -> &'static str {
        match self {
            Media::Oci => "application/vnd.oci.image.index.v1+json",
            Media::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    /// The type of a manifest.
    pub const fn manifest(self) -> &'static str {
        match self {
            Media::Oci => "application/vnd.oci.image.manifest.v1+json",
            Media::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    /// The type of a config.
    pub const fn config(self) -> &'static str {
        match self {
            Media::Oci => "application/vnd.oci.image.config.v1+json",
            Media::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    /// The type of a layer.
    pub const fn layer(self) -> &'static str {
        match self {
            Media::Oci => "application/vnd.oci.image.layer.v1.tar+gzip",
            Media::Docker => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        }
    }
}

/// An image that was pushed: every digest and size a client should see.
#[derive(Clone, Debug)]
pub struct Image {
    /// The repository.
    pub repository: String,
    /// The tags it was pushed with.
    pub tags: Vec<String>,
    /// What the tags name: the index, or the one manifest.
    pub root: Manifest,
    /// The manifest of each platform, in the order of the spec, and behind them their attestations, as `unknown/unknown`.
    pub platforms: Vec<Platform>,
}

impl Image {
    /// The digest that the tags name.
    pub fn digest(&self) -> &str {
        &self.root.digest
    }

    /// Every blob of every platform, each digest once.
    pub fn blobs(&self) -> Vec<&Blob> {
        let mut blobs: Vec<&Blob> = Vec::new();
        for blob in self.platforms.iter().flat_map(Platform::blobs) {
            if blobs.iter().all(|known| known.digest != blob.digest) {
                blobs.push(blob);
            }
        }
        blobs
    }
}

/// One platform of an image.
#[derive(Clone, Debug)]
pub struct Platform {
    /// `os/architecture` or `os/architecture/variant`.
    pub name: String,
    /// Its manifest.
    pub manifest: Manifest,
    /// Its config.
    pub config: Blob,
    /// Its layers, lowest first.
    pub layers: Vec<Blob>,
}

impl Platform {
    /// Config and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

/// A manifest or index, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// The media type.
    pub media_type: String,
    /// The bytes.
    pub bytes: Bytes,
}

/// A blob by its descriptor. Its bytes stay in the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// The media type.
    pub media_type: String,
    /// Bytes.
    pub size: u64,
}

/// An artifact that refers to a manifest: a signature, an SBOM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// The repository; the subject is in the same.
    pub repository: String,
    /// The digest of the manifest it refers to; it need not exist.
    pub subject: String,
    /// The artifact type.
    pub artifact_type: String,
    /// Annotations, in this order.
    pub annotations: Vec<(String, String)>,
    /// Its one layer.
    pub content: Bytes,
}
