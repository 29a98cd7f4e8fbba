//! Namespaces that live here: what is pushed is kept, and no upstream is asked.
//!
//! [`Hosted`] is what `http` asks. It knows who may do what (`rights`), what is a manifest (`manifest`), and carries it out
//! on the store, which knows neither. A name is hosted or mirrored and never both (`route`), so nothing here can reach an
//! upstream.
//!
//! What a client may not read is absent from every answer: that something exists is information, too.

mod error;
mod manifest;
mod metrics;
mod rights;
mod settings;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use prometheus_client::registry::Registry;
use serde_json::Value;
pub use weir_storage::Upload;
use weir_storage::{Protection, Reader, ReferrersPage, Store};

use self::metrics::Figures;
pub use self::{error::Error, manifest::MOST_BYTES, rights::Right, settings::Settings};
use crate::{
    answer::{BlobAnswer, BlobHead, CacheFacts, CacheStatus, ManifestAnswer, TagsAnswer},
    client::{Client, ClientKey},
    oci::{Algorithm, Digest, MediaType, Name, Reference, Tag},
};

/// Bytes of one page of referrers, unless a single one is larger: what clients take for a manifest.
const REFERRERS_BYTES: usize = 4 << 20;

/// How often it is looked for what no manifest names.
const COLLECT_EVERY: Duration = Duration::from_secs(10 * 60);

/// The hosted namespaces. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Hosted(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: ArcSwap<Settings>,
    store: Store,
}

/// A manifest that was taken.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// Its digest, of the algorithm it was pushed by.
    pub digest: Digest,
    /// What it refers to, for `OCI-Subject`.
    pub subject: Option<Digest>,
    /// How many of the manifests that it lists are not in the repository.
    pub missing: usize,
}

/// A page of what refers to a manifest.
#[derive(Clone, Debug)]
pub struct Referrers {
    /// Descriptors, filtered.
    pub descriptors: Vec<Value>,
    /// The last of them, when there are more.
    pub next: Option<Digest>,
}

fn here() -> CacheFacts {
    CacheFacts { status: CacheStatus::Hit, age: Duration::ZERO, warning: None }
}

impl Hosted {
    /// The repositories of `store` that `settings` say live here.
    pub fn new(settings: Settings, store: Store) -> Hosted {
        Hosted(Arc::new(Inner { settings: ArcSwap::from_pointee(settings), store }))
    }

    /// From now on these settings, but for what [`Settings::reloaded`] leaves. An upload under way goes on, and is judged by them at its end.
    pub fn reload(&self, settings: &Settings) {
        let settings = self.0.settings.load().reloaded(settings);
        self.0.store.repositories.set_namespaces(settings.namespaces.clone(), settings.capacity);
        self.0.settings.store(Arc::new(settings));
    }

    /// Puts what is hosted into the registry that `/metrics` shows. Its labels are the patterns of `[hosted] namespaces`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(Figures(self.0.store.clone())));
    }

    /// Whether this client may do that to this repository.
    ///
    /// # Errors
    /// [`Error::Login`] when an account might; [`Error::Denied`] when this account may not; [`Error::NameUnknown`] for reading.
    pub fn may(&self, client: &Client, right: Right, name: &Name) -> Result<(), Error> {
        rights::may(&self.0.settings.load(), client, right, name)
    }

    /// Whether only accounts may read it, as its name says and whether it exists or not.
    pub fn is_private(&self, name: &Name) -> bool {
        self.0.settings.load().private.iter().any(|pattern| crate::oci::matches(pattern, name.as_str()))
    }

    /// A manifest by tag or digest.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`], [`Error::NameUnknown`] when it may not be read, [`Error::Internal`].
    pub async fn manifest(&self, client: &Client, name: &Name, reference: &Reference) -> Result<ManifestAnswer, Error> {
        self.may(client, Right::Pull, name)?;
        let found = self.0.store.repositories.manifest(name, reference).await?;
        let manifest = found.ok_or(Error::ManifestUnknown)?;
        Ok(ManifestAnswer { manifest, facts: here() })
    }

    /// A blob.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`], also when it may not be read; [`Error::Internal`].
    pub async fn blob(&self, client: &Client, name: &Name, digest: &Digest) -> Result<BlobAnswer, Error> {
        self.may(client, Right::Pull, name).map_err(|_| Error::BlobUnknown)?;
        let reader = self.0.store.repositories.blob(name, digest).await?.ok_or(Error::BlobUnknown)?;
        Ok(BlobAnswer { reader, facts: here() })
    }

    /// A blob's size.
    ///
    /// # Errors
    /// As [`Hosted::blob`].
    pub async fn head_blob(&self, client: &Client, name: &Name, digest: &Digest) -> Result<BlobHead, Error> {
        self.may(client, Right::Pull, name).map_err(|_| Error::BlobUnknown)?;
        let size = self.0.store.repositories.blob_size(name, digest).await?.ok_or(Error::BlobUnknown)?;
        Ok(BlobHead { size, facts: here() })
    }

    /// All tags of a repository, in byte order.
    ///
    /// # Errors
    /// [`Error::NameUnknown`], [`Error::Internal`].
    pub async fn tags(&self, client: &Client, name: &Name) -> Result<TagsAnswer, Error> {
        self.may(client, Right::Pull, name)?;
        if !self.0.store.repositories.has(name) {
            return Err(Error::NameUnknown);
        }
        Ok(TagsAnswer { tags: self.0.store.repositories.tags(name).await?.into(), facts: here() })
    }

    /// What refers to a manifest: what was pushed with it as its subject, and what clients noted under the fallback tag.
    /// Empty for what nothing refers to, and for a repository that does not exist yet.
    ///
    /// # Errors
    /// [`Error::NameUnknown`] when it may not be read, [`Error::Internal`].
    pub async fn referrers(
        &self,
        client: &Client,
        name: &Name,
        subject: &Digest,
        artifact_type: Option<String>,
        last: Option<Digest>,
        most: usize,
    ) -> Result<Referrers, Error> {
        self.may(client, Right::Pull, name)?;
        let mut noted = Vec::new();
        if let Some(tag) = subject.fallback_tag()
            && let Ok(found) = self.manifest(client, name, &Reference::Tag(tag)).await
        {
            let index: Value = serde_json::from_slice(&found.manifest.bytes).unwrap_or_default();
            let descriptors = index.get("manifests").and_then(Value::as_array).cloned().unwrap_or_default();
            let named = |descriptor: Value| Some((descriptor["digest"].as_str()?.parse().ok()?, descriptor));
            noted.extend(descriptors.into_iter().filter_map(named));
        }
        let page = ReferrersPage { artifact_type, last, most, most_bytes: REFERRERS_BYTES };
        let (descriptors, next) = self.0.store.repositories.referrers(name, subject, noted, page).await?;
        Ok(Referrers { descriptors, next })
    }

    /// The repositories that hold a manifest and that this client may read, in byte order.
    pub fn catalog(&self, client: &Client) -> Vec<String> {
        let names = self.0.store.repositories.names().into_iter();
        names.filter(|name| self.may(client, Right::Pull, name).is_ok()).map(|name| name.to_string()).collect()
    }

    /// Takes a manifest.
    ///
    /// # Errors
    /// [`Error::ManifestInvalid`], [`Error::DigestInvalid`], [`Error::MissingBlobs`], [`Error::Immutable`], [`Error::Quota`],
    /// [`Error::Full`] or [`Error::Internal`]; the right to push was asked for before.
    pub async fn put_manifest(
        &self,
        name: &Name,
        reference: &Reference,
        media_type: Option<MediaType>,
        tags: Vec<Tag>,
        bytes: bytes::Bytes,
    ) -> Result<Pushed, Error> {
        let mut push = manifest::admit(reference, media_type, bytes)?;
        let settings = self.0.settings.load_full();
        let all = tags.into_iter().chain(match reference {
            Reference::Tag(tag) => Some(tag.clone()),
            Reference::Digest(_) => None,
        });
        push.tags = all.map(|tag| (tag.clone(), settings.is_immutable(name, &tag))).collect();
        push.may_lack_blobs = settings.sparse_images;
        let digest = push.manifest.digest.clone();
        let subject = push.subject.as_ref().map(|(subject, _)| subject.clone());
        let missing = self.0.store.repositories.put_manifest(name, push).await?;
        Ok(Pushed { digest, subject, missing })
    }

    /// Removes a tag, or a manifest with all its tags.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`], [`Error::Immutable`], [`Error::Referenced`], [`Error::Internal`].
    pub async fn delete_manifest(&self, name: &Name, reference: &Reference) -> Result<(), Error> {
        let gone = match reference {
            Reference::Tag(tag) => {
                let immutable = self.0.settings.load().is_immutable(name, tag);
                self.0.store.repositories.delete_tag(name, tag, immutable).await?
            }
            Reference::Digest(digest) => {
                self.0.store.repositories.delete_manifest(name, digest, self.protection(name)).await?
            }
        };
        if gone { Ok(()) } else { Err(Error::ManifestUnknown) }
    }

    /// Takes a blob from a repository.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`], [`Error::Immutable`], [`Error::Referenced`], [`Error::Internal`].
    pub async fn delete_blob(&self, name: &Name, digest: &Digest) -> Result<(), Error> {
        let gone = self.0.store.repositories.delete_blob(name, digest, self.protection(name)).await?;
        if gone { Ok(()) } else { Err(Error::BlobUnknown) }
    }

    /// What may not be deleted of a repository. Its immutable tags are looked through only where some are configured.
    fn protection(&self, name: &Name) -> Protection {
        let (settings, repository) = (self.0.settings.load_full(), name.clone());
        let referenced = !settings.delete_referenced;
        let has_none = settings.immutable_tags.is_empty();
        let is_immutable = move |tag: &Tag| settings.is_immutable(&repository, tag);
        Protection {
            is_immutable: match has_none {
                true => None,
                false => Some(Box::new(is_immutable)),
            },
            referenced,
        }
    }

    /// Begins an upload for this client alone.
    ///
    /// # Errors
    /// [`Error::TooManyUploads`], [`Error::Full`], [`Error::Internal`].
    pub async fn begin(&self, client: &Client, name: &Name, algorithm: Algorithm) -> Result<Upload, Error> {
        Ok(self.0.store.uploads.begin(name, principal(client), &client.key.to_string(), algorithm).await?)
    }

    /// The upload of that id, of this repository, begun by this client.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`].
    pub fn upload(&self, client: &Client, name: &Name, id: &str) -> Result<Upload, Error> {
        self.0.store.uploads.get(id, name, principal(client)).ok_or(Error::UploadUnknown)
    }

    /// Mounts a blob from where this client may read it. `false` when there is no such place, whatever the reason.
    ///
    /// # Errors
    /// [`Error::Quota`], [`Error::Internal`].
    pub async fn mount(
        &self,
        client: &Client,
        name: &Name,
        digest: &Digest,
        from: MountSource<'_>,
    ) -> Result<bool, Error> {
        let readable = |name: &Name| self.may(client, Right::Pull, name).is_ok();
        let found = match from {
            MountSource::Anywhere => self.0.store.repositories.holders(digest).iter().any(readable),
            MountSource::Hosted(other) => readable(other) && self.0.store.repositories.holders(digest).contains(other),
            MountSource::Mirrored(_) => true,
        };
        Ok(found && self.0.store.repositories.mount(name, digest).await?)
    }

    /// Gives up, now and then, what was pushed and is named by no manifest. Never ends.
    pub async fn collect_garbage(&self) {
        loop {
            tokio::time::sleep(COLLECT_EVERY).await;
            if let Err(error) = self.0.store.repositories.collect().await {
                tracing::warn!(%error, "cannot look for what no manifest names");
            }
        }
    }
}

/// Where a blob is to be mounted from.
#[derive(Debug)]
pub enum MountSource<'a> {
    /// Wherever the client may read it here.
    Anywhere,
    /// A repository that lives here.
    Hosted(&'a Name),
    /// A mirrored repository, which this client may read. The reader keeps the blob from eviction while it is mounted.
    Mirrored(&'a Reader),
}

/// Who may go on with an upload. Those without a name are one: their addresses change under them, and an id cannot be guessed. Each has a
/// share of the sessions of its own.
fn principal(client: &Client) -> &str {
    match &client.key {
        ClientKey::Principal(name) => name,
        ClientKey::Address(_) => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";

    /// Pushes a document and gives its descriptor.
    async fn put(
        hosted: &Hosted,
        name: &Name,
        reference: Option<&str>,
        media_type: &str,
        text: &str,
    ) -> (Digest, String) {
        let digest = Algorithm::Sha256.digest(text.as_bytes());
        let reference = reference.map_or(Reference::Digest(digest.clone()), |tag| tag.parse().unwrap());
        let media_type = media_type.parse::<MediaType>().unwrap();
        let bytes = bytes::Bytes::copy_from_slice(text.as_bytes());
        hosted.put_manifest(name, &reference, Some(media_type.clone()), Vec::new(), bytes).await.unwrap();
        let descriptor = format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}}}"#, text.len());
        (digest, descriptor)
    }

    #[tokio::test]
    async fn what_an_immutable_tag_reaches_cannot_be_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        let store = Store::open(weir_storage::Settings { root, ..weir_storage::Settings::default() }).unwrap();
        let settings = Settings { immutable_tags: vec!["v*".into()], ..Settings::default() };
        let (hosted, name) = (Hosted::new(settings, store), "local/app".parse::<Name>().unwrap());
        let client = Client::anonymous([192, 0, 2, 1].into(), [192, 0, 2, 1].into());
        let mut blobs = Vec::new();
        for bytes in [&b"config"[..], b"layer", b"free"] {
            let digest = Algorithm::Sha256.digest(bytes);
            let upload = hosted.begin(&client, &name, Algorithm::Sha256).await.unwrap();
            upload.append(vec![bytes::Bytes::copy_from_slice(bytes)]).await.unwrap();
            upload.commit(&digest).await.unwrap();
            blobs.push((format!(r#"{{"mediaType":"x/y","digest":"{digest}","size":{}}}"#, bytes.len()), digest));
        }
        let image = format!(r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#, blobs[0].0, blobs[1].0);
        let (image, child) = put(&hosted, &name, None, IMAGE, &image).await;
        let (index, _) =
            put(&hosted, &name, Some("v1"), INDEX, &format!(r#"{{"schemaVersion":2,"manifests":[{child}]}}"#)).await;
        for manifest in [index, image] {
            let refused = hosted.delete_manifest(&name, &Reference::Digest(manifest)).await;
            assert!(matches!(&refused, Err(Error::Immutable(tag)) if tag == "v1"), "{refused:?}");
        }
        for (_, blob) in &blobs[..2] {
            let refused = hosted.delete_blob(&name, blob).await;
            assert!(matches!(&refused, Err(Error::Immutable(tag)) if tag == "v1"), "{refused:?}");
        }
        hosted.delete_blob(&name, &blobs[2].1).await.unwrap();
    }
}
