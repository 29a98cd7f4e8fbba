//! Pushed bytes to a manifest that can be taken, or why not. Pure.
//!
//! Strict where the mirror is lenient: no other registry vouches for what is pushed here. One document must be one thing to every
//! client that reads it (CVE-2021-41190): its shape, its `mediaType` and its `Content-Type` agree, and no key can be read in two
//! ways.

use bytes::Bytes;
use serde_json::Value;
use weir_storage::Push;

use super::Error;
use crate::oci::{Algorithm, Description, Digest, Manifest, MediaType, Reference, unambiguous};

/// The largest manifest, in bytes: the least that the spec wants to be taken.
pub const MOST_BYTES: usize = 4 << 20;

/// Reads what is pushed under `reference` with this `Content-Type`. Its tags are the caller's.
pub(super) fn admit(reference: &Reference, content_type: Option<MediaType>, bytes: Bytes) -> Result<Push, Error> {
    let invalid = |why: &str| Err(Error::ManifestInvalid(why.to_owned()));
    let algorithm = match reference {
        Reference::Digest(digest) => digest.algorithm(),
        Reference::Tag(_) => Algorithm::Sha256,
    };
    let digest = algorithm.digest(&bytes);
    if let Reference::Digest(named) = reference
        && *named != digest
    {
        return Err(Error::DigestInvalid(format!("what was pushed as {named} has the digest {digest}")));
    }
    unambiguous(&bytes)?;
    let description = Description::read(&bytes)?;
    let media_type = match (content_type, &description.media_type) {
        (Some(said), Some(written)) if said != *written => {
            return invalid(&format!("its Content-Type is {said} and its mediaType {written}"));
        }
        (Some(said), _) => said,
        (None, Some(written)) => written.clone(),
        (None, None) => return invalid("neither a Content-Type nor a mediaType says what it is"),
    };
    if !media_type.is_manifest() || media_type.as_str().starts_with("application/vnd.docker.distribution.manifest.v1") {
        return invalid(&format!("{media_type} is no type of manifest that is taken here"));
    }
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| Error::ManifestInvalid(error.to_string()))?;
    let Value::Object(document) = value else { return invalid("it is no JSON object") };
    let has = |key: &str| document.contains_key(key);
    if media_type.is_index() && (has("layers") || has("config") || has("blobs") || !has("manifests")) {
        return invalid("its type is that of an index and its shape is not");
    }
    if !media_type.is_index() && (has("manifests") || has("fsLayers")) {
        return invalid("its type is that of an image and its shape is not");
    }
    let version = document.get("schemaVersion");
    let artifact = media_type.as_str() == "application/vnd.oci.artifact.manifest.v1+json";
    if version.map_or(!artifact, |version| version.as_u64() != Some(2)) {
        return invalid("its schemaVersion is not 2");
    }
    let referrer = |subject: &Digest| (subject.clone(), description.referrer(&media_type, &digest, bytes.len()));
    let subject = description.subject.as_ref().map(referrer);
    Ok(Push {
        children: description.children,
        may_lack_blobs: false,
        manifest: Manifest { digest, media_type, bytes },
        subject,
        tags: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const A: &str = r#"{"mediaType":"x/y","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}"#;

    fn admitted(media_type: Option<&str>, text: &str) -> Result<Push, Error> {
        let reference = "latest".parse().unwrap();
        admit(&reference, media_type.map(|text| text.parse().unwrap()), Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn one_document_is_one_thing() {
        let image = format!(r#"{{"schemaVersion":2,"config":{A},"layers":[{A}]}}"#);
        let index = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{A}],"subject":{A}}}"#);
        assert_eq!(admitted(Some(IMAGE), &image).unwrap().children.len(), 2);
        let push = admitted(None, &index).unwrap();
        assert_eq!(push.manifest.media_type.as_str(), INDEX);
        assert!(push.subject.is_some_and(|(_, descriptor)| descriptor.get("artifactType").is_none()));

        let trailing = format!("{image}{image}");
        let both = format!(r#"{{"schemaVersion":2,"config":{A},"layers":[],"manifests":[]}}"#);
        let empty_both = format!(r#"{{"schemaVersion":2,"layers":[],"manifests":[{A}]}}"#);
        let twice = format!(r#"{{"schemaVersion":2,"layers":[],"config":{A},"layers":[{A}]}}"#);
        let cased = format!(r#"{{"schemaVersion":2,"config":{A},"layers":[],"Manifests":[{A}]}}"#);
        let one = format!(r#"{{"schemaVersion":1,"config":{A},"layers":[]}}"#);
        let deep = format!(r#"{{"schemaVersion":2,"config":{A},"layers":[],"x":{}"#, "[".repeat(100_000));
        let lies = format!(r#"{{"schemaVersion":2,"mediaType":"{IMAGE}","config":{A},"layers":[]}}"#);
        for (media_type, bad) in [
            (Some(IMAGE), trailing.as_str()),
            (Some(IMAGE), &both),
            (Some(INDEX), &both),
            (Some(INDEX), &empty_both),
            (Some(IMAGE), &twice),
            (Some(IMAGE), &cased),
            (Some(IMAGE), &one),
            (Some(IMAGE), &deep),
            (Some(INDEX), &lies),
            (Some(IMAGE), &index),
            (Some(INDEX), &image),
            (None, &image),
            (Some("text/html"), &image),
            (Some(IMAGE), "[]"),
            (Some(IMAGE), ""),
        ] {
            let refused = admitted(media_type, bad);
            assert!(matches!(refused, Err(Error::ManifestInvalid(_))), "{media_type:?} {bad:.80}: {refused:?}");
        }
    }
}
