//! Manifests: the HEAD that is free, and the GET that is counted and verified.

use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, de::IgnoredAny};

use super::{Head, Upstream};
use crate::oci::{Algorithm, Digest, MANIFEST_ACCEPT, Manifest, MediaType, Name, OCI_IMAGE_INDEX, Reference};
use crate::upstream::{
    encoding, error::Error, identity::Identity, ledger::Reservation, metrics::Operation, request::Request,
};

/// The longest manifest in bytes; spec, "Pushing Manifests", asks registries for at least this.
const LONGEST: usize = 4 * 1024 * 1024;
const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

impl Upstream {
    /// end-3. Not counted by Docker Hub, and told of what is left all the same.
    ///
    /// # Errors
    /// [`Error::HeadRefused`] without asking, when this repository refused a HEAD within the last 10 min.
    pub async fn head_manifest(
        &self,
        identity: &Identity,
        repository: &Name,
        reference: &Reference,
    ) -> Result<Head, Error> {
        if self.inner.headless.contains_key(repository) {
            return Err(Error::HeadRefused);
        }
        let request = manifest(Operation::ManifestHead, identity, repository, reference, None);
        let reply = self.inner.exchange.send(request).await;
        if matches!(reply, Err(Error::HeadRefused)) {
            self.inner.headless.insert(repository.clone(), ());
        }
        let reply = reply?;
        let headers = reply.response.headers();
        let head = Head {
            digest: digest_in(headers)?,
            media_type: media_type_in(headers)?,
            size: headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok()),
        };
        match (reference, &head.digest) {
            (Reference::Digest(asked), Some(told)) if asked.algorithm() == told.algorithm() && asked != told => {
                Err(Error::Malformed("a HEAD that names another digest".into()))
            }
            _ => Ok(head),
        }
    }

    /// end-3, the counted request. Verifies: bytes against Docker-Content-Digest and against a digest reference; JSON; at most 4 MiB.
    /// Commits the reservation when the request was sent, refunds it when it was not.
    ///
    /// # Errors
    /// [`Error::Malformed`] for what does not verify, [`Error::Unavailable`] for what did not come whole.
    pub async fn get_manifest(
        &self,
        mut reservation: Reservation,
        repository: &Name,
        reference: &Reference,
    ) -> Result<Manifest, Error> {
        let identity = reservation.identity().clone();
        let request = manifest(Operation::ManifestGet, &identity, repository, reference, Some(&mut reservation));
        let mut reply = self.inner.exchange.send(request).await?;
        let headers = reply.response.headers();
        encoding::refuse(&reply.response)?;
        let (told, media_type) = (digest_in(headers)?, media_type_in(headers)?);
        let bytes = self.inner.exchange.endpoint.transport.body(&mut reply.response, LONGEST).await?;
        let asked = match reference {
            Reference::Digest(digest) => Some(digest),
            Reference::Tag(_) => None,
        };
        let mut digest = None;
        // The digest that was asked for names the manifest; what the header says must be true besides.
        for expected in asked.into_iter().chain(&told) {
            let actual = expected.algorithm().digest(&bytes);
            if actual != *expected {
                return Err(Error::Malformed(format!("content that is {actual} and not {expected}").into()));
            }
            digest.get_or_insert(actual);
        }
        let digest = digest.unwrap_or_else(|| Algorithm::Sha256.digest(&bytes));
        let media_type = settle(media_type, &bytes)?;
        let manifest = Manifest { digest, media_type, bytes };
        manifest.describe().map_err(|error| Error::Malformed(error.to_string().into()))?;
        Ok(manifest)
    }
}

fn manifest<'a>(
    operation: Operation,
    identity: &'a Identity,
    repository: &'a Name,
    reference: &Reference,
    reservation: Option<&'a mut Reservation>,
) -> Request<'a> {
    let accept = Some(HeaderValue::from_static(MANIFEST_ACCEPT));
    let path = format!("{repository}/manifests/{reference}");
    Request { accept, reservation, ..Request::new(operation, identity, repository, path) }
}

fn digest_in(headers: &HeaderMap) -> Result<Option<Digest>, Error> {
    let Some(value) = headers.get(DIGEST) else { return Ok(None) };
    let digest = value.to_str().ok().and_then(|text| text.parse().ok());
    digest.map(Some).ok_or_else(|| Error::Malformed("a Docker-Content-Digest that is none".into()))
}

/// The manifest's type as the header has it; `None` when it says nothing, or what servers say that do not know.
fn media_type_in(headers: &HeaderMap) -> Result<Option<MediaType>, Error> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(None) };
    let media_type: Option<MediaType> = value.to_str().ok().and_then(|text| text.parse().ok());
    match media_type {
        Some(media_type) if media_type.is_manifest() => Ok(Some(media_type)),
        Some(media_type)
            if matches!(media_type.as_str(), "text/plain" | "application/json" | "application/octet-stream") =>
        {
            Ok(None)
        }
        // HTML with 200 is a captive portal or a proxy's log-in page.
        _ => Err(Error::Malformed("a manifest of a type that is none".into())),
    }
}

/// What a manifest is, from its header, its own word, or its shape.
fn settle(header: Option<MediaType>, bytes: &[u8]) -> Result<MediaType, Error> {
    #[derive(Deserialize)]
    struct Shape {
        #[serde(rename = "mediaType")]
        media_type: Option<MediaType>,
        manifests: Option<IgnoredAny>,
        config: Option<IgnoredAny>,
        layers: Option<IgnoredAny>,
        #[serde(rename = "fsLayers")]
        fs_layers: Option<IgnoredAny>,
    }
    let malformed = |what: &str| Error::Malformed(what.into());
    let shape: Shape = serde_json::from_slice(bytes).map_err(|_| malformed("a manifest that is no JSON object"))?;
    match (header, shape.media_type) {
        // One document in two roles is how a digest is made to mean two things (CVE-2021-41190).
        (Some(header), Some(body)) if header != body => Err(malformed("a manifest of one type that says another")),
        (Some(media_type), _) => Ok(media_type),
        (None, Some(media_type)) if media_type.is_manifest() => Ok(media_type),
        (None, Some(_)) => Err(malformed("a manifest of a type that is none")),
        (None, None) => {
            let text = if shape.manifests.is_some() {
                OCI_IMAGE_INDEX
            } else if shape.config.is_some() || shape.layers.is_some() {
                "application/vnd.oci.image.manifest.v1+json"
            } else if shape.fs_layers.is_some() {
                "application/vnd.docker.distribution.manifest.v1+prettyjws"
            } else {
                return Err(malformed("JSON that is no manifest"));
            };
            text.parse().map_err(|()| malformed("a manifest of a type that is none"))
        }
    }
}
