//! The media types a manifest may have, and the one `Accept` that Weir sends.

use std::{fmt, str::FromStr, sync::Arc};

use super::text::as_text;

/// The media type of an OCI image index, which is also that of a referrers answer (end-12).
pub const OCI_IMAGE_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The canonical `Accept` of every manifest request to an upstream.
///
/// It is one constant because the answer to a tag depends on it: a registry that reads no index in `Accept` answers with
/// one platform's manifest, another digest. A tag is cached under this set alone.
pub const MANIFEST_ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.oci.artifact.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.2, \
     */*;q=0.1";

/// A media type without parameters, at most 255 bytes of visible ASCII, so that it can go into a header as it is.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MediaType(Arc<str>);

impl MediaType {
    /// The type as it is written, without parameters.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether content of this type lists other manifests.
    pub fn is_index(&self) -> bool {
        matches!(&*self.0, OCI_IMAGE_INDEX | "application/vnd.docker.distribution.manifest.list.v2+json")
    }

    /// Whether this is a type that a manifest is known to have.
    ///
    /// `text/html` answered with 200 by a captive portal or a proxy is the case that this keeps out.
    pub fn is_manifest(&self) -> bool {
        self.is_index()
            || matches!(
                &*self.0,
                "application/vnd.oci.image.manifest.v1+json"
                    | "application/vnd.oci.artifact.manifest.v1+json"
                    | "application/vnd.docker.distribution.manifest.v2+json"
                    | "application/vnd.docker.distribution.manifest.v1+json"
                    | "application/vnd.docker.distribution.manifest.v1+prettyjws"
            )
    }
}

impl FromStr for MediaType {
    type Err = &'static str;

    /// Drops parameters (`; charset=utf-8`): spec line "manifest Content-Type SHOULD NOT have parameters".
    fn from_str(text: &str) -> Result<MediaType, &'static str> {
        let essence = text.split(';').next().unwrap_or_default().trim();
        let visible = essence.bytes().all(|byte| byte.is_ascii_graphic());
        if visible && essence.contains('/') && essence.len() <= 255 {
            Ok(MediaType(Arc::from(essence.to_ascii_lowercase())))
        } else {
            Err("not a media type")
        }
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_text!(MediaType);
