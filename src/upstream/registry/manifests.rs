//! Manifests: the HEAD that is free, and the GET that is counted and verified.

use std::{collections::HashSet, fmt, sync::Arc};

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;

use super::{Head, Upstream};
use crate::oci::{Digest, MANIFEST_ACCEPT, Manifest, MediaType, Name, OCI_IMAGE_INDEX, Reference};
use crate::upstream::{
    encoding, error::Error, identity::Identity, ledger::Reservation, metrics::Operation, request::Request, retry,
};

/// The longest manifest in bytes; spec, "Pushing Manifests", asks registries for at least this.
const LONGEST: usize = 4 * 1024 * 1024;
const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// How often a manifest is asked for again whose body broke off.
const RETRIES: u32 = 2;

impl Upstream {
    /// end-3. Not counted by Docker Hub, which names what is left all the same.
    ///
    /// # Errors
    /// [`Error::HeadRefused`] where a GET may know better: without asking, when this repository refused a HEAD within the last
    /// 10 min, and for 400, 404, 406 and the like, pages for people and another digest than was asked for, when upstream counts no pulls.
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
        let reply = match self.inner.exchange.send(request).await {
            Err(Error::Status(_)) if self.is_unmetered(identity) => Err(Error::HeadRefused),
            // About this reference alone, so that nothing is learned of the repository.
            Err(Error::NotFound) if self.is_unmetered(identity) => return Err(Error::HeadRefused),
            Ok(reply) if is_html(reply.response.headers()) => match self.is_unmetered(identity) {
                true => Err(Error::HeadRefused),
                false => Err(Error::Malformed("a page for people".into())),
            },
            reply => reply,
        };
        if matches!(reply, Err(Error::HeadRefused)) {
            self.inner.headless.insert(repository.clone(), ());
        }
        let reply = reply?;
        let headers = reply.response.headers();
        let head = Head {
            digest: digest_in(headers),
            media_type: media_type_in(headers),
            size: headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok()),
        };
        match (reference, &head.digest) {
            (Reference::Digest(asked), Some(said)) if asked.algorithm() == said.algorithm() && asked != said => {
                if self.is_unmetered(identity) {
                    return Err(Error::HeadRefused);
                }
                Err(Error::Malformed("a HEAD that names another digest".into()))
            }
            _ => Ok(head),
        }
    }

    /// end-3, the counted request. Verifies: bytes against a digest reference, else against Docker-Content-Digest; JSON; at most 4 MiB.
    /// The reservation knows whether it was sent. A body that broke off is asked for again, and paid again.
    ///
    /// # Errors
    /// [`Error::Malformed`] for what does not verify, without asking when the content of this digest proved to be unusable
    /// before; [`Error::Unavailable`] for what did not come whole.
    pub async fn get_manifest(
        &self,
        reservation: &mut Reservation,
        repository: &Name,
        reference: &Reference,
    ) -> Result<Manifest, Error> {
        let identity = reservation.identity().clone();
        let asked = match reference {
            Reference::Digest(digest) => Some(digest),
            Reference::Tag(_) => None,
        };
        if let Some(why) = asked.and_then(|digest| self.inner.unusable.get(digest)) {
            return Err(Error::Malformed(why));
        }
        let mut attempt = 0;
        let (headers, bytes) = loop {
            let request = manifest(Operation::ManifestGet, &identity, repository, reference, Some(&mut *reservation));
            let mut reply = self.inner.exchange.send(request).await?;
            let headers = reply.response.headers().clone();
            match self.inner.exchange.endpoint.transport.body(&mut reply.response, LONGEST).await {
                Ok(bytes) => break (headers, bytes),
                Err(error @ Error::Unavailable { .. }) => {
                    if attempt == RETRIES || reservation.again().await.is_err() {
                        return Err(error);
                    }
                    tokio::time::sleep(retry::backoff(attempt)).await;
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        };
        // The digest that was asked for decides; only a tag needs the one in the header.
        let expected = asked.cloned().or_else(|| digest_in(&headers));
        let (digest, bytes) = verified(expected, encoding::readings(&headers, bytes, LONGEST))?;
        let media_type = settle(media_type_in(&headers), &bytes).map_err(|why| {
            // The bytes are what the digest names, so that no other answer to it could be used either.
            let why = Arc::from(why);
            self.inner.unusable.insert(digest.clone(), Arc::clone(&why));
            Error::Malformed(why)
        })?;
        Ok(Manifest { digest, media_type, bytes })
    }
}

/// The bytes that have the digest, of those that a body may stand for, and the digest. Of a signed schema 1 manifest the digest
/// is that of its payload.
fn verified(expected: Option<Digest>, readings: Vec<Bytes>) -> Result<(Digest, Bytes), Error> {
    let Some(expected) = expected else {
        let readable = readings.iter().find(|bytes| serde_json::from_slice::<IgnoredAny>(bytes).is_ok());
        let bytes = readable.or(readings.first()).cloned().unwrap_or_default();
        return Ok((Manifest::name(&bytes), bytes));
    };
    if let Some(bytes) = readings.iter().find(|bytes| Manifest::is_named(bytes, &expected)) {
        return Ok((expected, bytes.clone()));
    }
    let actual = readings.first().map(|bytes| expected.algorithm().digest(bytes).to_string());
    let actual = actual.unwrap_or_else(|| "nothing".to_owned());
    Err(Error::Malformed(format!("content that is {actual} and not {expected}").into()))
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

/// `None` when there is none that can be read: registries send empty and quoted ones.
fn digest_in(headers: &HeaderMap) -> Option<Digest> {
    headers.get(DIGEST)?.to_str().ok()?.trim_matches(['"', ' ']).parse().ok()
}

/// The manifest's type as the header has it; `None` when it says nothing about manifests, so that the body decides.
fn media_type_in(headers: &HeaderMap) -> Option<MediaType> {
    let media_type: MediaType = headers.get(CONTENT_TYPE)?.to_str().ok()?.parse().ok()?;
    is_manifest(&media_type).then_some(media_type)
}

/// HTML with 200 is a captive portal or a proxy's log-in page.
fn is_html(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    media_type.is_some_and(|text| text.trim_start().to_ascii_lowercase().starts_with("text/html"))
}

/// Types of manifests that no list holds, such as ORAS artifacts, are JSON by their suffix (RFC 6839).
fn is_manifest(media_type: &MediaType) -> bool {
    media_type.is_manifest()
        || media_type.as_str().starts_with("application/") && media_type.as_str().ends_with("+json")
}

/// What tells of a manifest what it is. As Go's clients read it: a null field is absent, of two with one name the last counts, and
/// nothing else need be what a JSON value can hold, be it half a surrogate pair or a number without end.
#[derive(Default)]
struct Document {
    media_type: Option<Value>,
    /// The other fields that are not null.
    fields: HashSet<String>,
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Document, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut document = Document::default();
                while let Some(field) = map.next_key::<String>()? {
                    if field == "mediaType" {
                        document.media_type = map.next_value()?;
                    } else if map.next_value::<Option<IgnoredAny>>()?.is_some() {
                        document.fields.insert(field);
                    } else {
                        document.fields.remove(&field);
                    }
                }
                Ok(document)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// What a manifest is, from its own word, its header, or its shape; a word that names no type of a manifest says nothing.
///
/// # Errors
/// Why it is no manifest, in words.
fn settle(header: Option<MediaType>, bytes: &[u8]) -> Result<MediaType, &'static str> {
    let Ok(document) = serde_json::from_slice::<Document>(bytes) else {
        return Err("a manifest that is no JSON object");
    };
    let has = |key: &str| document.fields.contains(key);
    let image = has("config") || has("layers");
    // One document in two roles is how a digest is made to mean two things (CVE-2021-41190).
    if image && has("manifests") {
        return Err("a manifest that is both an image and an index");
    }
    let own = document.media_type.as_ref().and_then(Value::as_str).and_then(|text| text.parse().ok());
    let own = own.filter(is_manifest);
    let shape = || match () {
        () if has("manifests") => Some(OCI_IMAGE_INDEX),
        () if image => Some("application/vnd.oci.image.manifest.v1+json"),
        () if has("signatures") && has("fsLayers") => Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
        () if has("fsLayers") => Some("application/vnd.docker.distribution.manifest.v1+json"),
        () => None,
    };
    own.or(header).or_else(|| shape()?.parse().ok()).ok_or("JSON that is no manifest")
}
