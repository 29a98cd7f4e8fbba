//! What the files of a layout say: `oci-layout`, `index.json`, and `manifest.json` for `docker load`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::oci::{Digest, MediaType};

/// The annotation by which an image is found in a layout (image-spec, "Pre-Defined Annotation Keys").
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation in which containerd writes and reads the full name.
pub const NAME: &str = "io.containerd.image.name";
/// The platforms that are in the archive, when an index names more of them.
pub const PLATFORMS: &str = "weir.platforms";

/// The contents of `oci-layout`.
pub const VERSION: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// The longest `index.json` or manifest, in bytes: what a registry takes, too.
pub const MOST_JSON: u64 = 4 << 20;

/// An image of `index.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    /// The media type of its manifest.
    pub media_type: MediaType,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its names, and what else was written beside them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Listed {
    /// The full name of the image, such as `docker.io/library/busybox:1.36`; a name without a registry and a repository is none.
    pub fn name(&self) -> Option<&str> {
        let names = [NAME, REF_NAME].into_iter().filter_map(|key| self.annotations.get(key));
        names.map(String::as_str).find(|name| name.contains('/') && name.contains([':', '@']))
    }
}

/// The contents of `index.json`.
pub fn index(images: &[Listed]) -> Vec<u8> {
    let index = json!({"schemaVersion": 2, "mediaType": crate::oci::OCI_IMAGE_INDEX, "manifests": images});
    index.to_string().into_bytes()
}

/// The images of an `index.json`.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn listed(bytes: &[u8]) -> Result<Vec<Listed>, String> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Listed>,
    }
    let index: Index = serde_json::from_slice(bytes).map_err(|error| format!("index.json: {error}"))?;
    Ok(index.manifests)
}

/// The contents of `manifest.json`, which `docker load` reads: the config, the name, and the layers from the lowest.
pub fn docker(name: &str, config: &Digest, layers: &[Digest]) -> Vec<u8> {
    let layers: Vec<String> = layers.iter().map(blob_path).collect();
    let tags: Vec<&str> = (!name.contains('@')).then_some(name).into_iter().collect();
    json!([{"Config": blob_path(config), "RepoTags": tags, "Layers": layers}]).to_string().into_bytes()
}

/// Where an object lies in a layout.
pub fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// The digest of what lies at this path; `None` for other files.
pub fn blob_of(path: &str) -> Option<Digest> {
    let (algorithm, hex) = path.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// A path as it is written in an archive, without the `./` that some tools begin with and the `/` that ends a directory.
///
/// # Errors
/// A sentence, when it could lead out of the archive or is no text.
pub fn clean(path: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(path).map_err(|_| format!("{:?} is no path", String::from_utf8_lossy(path)))?;
    let text = text.strip_prefix("./").unwrap_or(text);
    let text = text.strip_suffix('/').unwrap_or(text);
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    if text.is_empty() || text == "." {
        return Ok("");
    }
    if text.contains('\0') || !text.split('/').all(is_plain) {
        return Err(format!("{text:?} is no path within an archive"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn an_index_is_read_as_it_was_written_and_a_name_is_a_full_one() {
        let digest = Algorithm::Sha256.digest(b"x");
        let image = |key: &str, name: &str| Listed {
            media_type: "application/vnd.oci.image.manifest.v1+json".parse().unwrap(),
            digest: digest.clone(),
            size: 1,
            annotations: [(key.to_owned(), name.to_owned())].into(),
        };
        let images = [image(NAME, "docker.io/library/busybox:1.36"), image(REF_NAME, "latest")];
        assert_eq!(listed(&index(&images)).unwrap(), images);
        assert_eq!(
            images.map(|image| image.name().map(str::to_owned)),
            [Some("docker.io/library/busybox:1.36".into()), None]
        );
        for bad in ["", "[]", r#"{"manifests":[{"digest":"sha256:1"}]}"#] {
            assert!(listed(bad.as_bytes()).unwrap_err().starts_with("index.json: "), "{bad}");
        }
    }

    #[test]
    fn a_path_stays_within_the_archive() {
        for (path, cleaned) in
            [("./oci-layout", "oci-layout"), ("blobs/sha256/", "blobs/sha256"), ("./", ""), (".", "")]
        {
            assert_eq!(clean(path.as_bytes()).unwrap(), cleaned);
        }
        for bad in ["../x", "/etc/passwd", "blobs/../../x", "blobs//x", "a\0b", "blobs/./x"] {
            assert!(clean(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(clean(b"\xff").is_err());
        let digest = Algorithm::Sha512.digest(b"x");
        assert_eq!(blob_of(&blob_path(&digest)), Some(digest));
        assert_eq!(blob_of("blobs/md5/00"), None);
    }
}
