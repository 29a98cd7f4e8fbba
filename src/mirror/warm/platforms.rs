//! Which manifests of an index are wanted, and whether all of them is here, by the inventory's word.

use std::collections::HashSet;

use weir_storage::Reading;

use crate::oci::{Child, Digest};

/// Platforms as an operator writes them. Empty is all that an image has.
#[derive(Clone, Debug, Default)]
pub(super) struct Platforms(pub(super) Vec<String>);

impl Platforms {
    /// Whether a manifest of an index is wanted.
    pub(super) fn want(&self, child: &Child) -> bool {
        child.is_for(&self.0)
    }

    /// Whether all that is wanted of what a digest names is here.
    pub(super) fn are_here(&self, reading: &Reading<'_>, digest: &Digest) -> bool {
        let objects = reading.objects(digest);
        let mut manifests = objects.iter().map(|(child, _)| child).filter(|child| child.is_manifest).peekable();
        if self.0.is_empty() || manifests.peek().is_none() {
            return reading.is_complete(digest);
        }
        let wanted: HashSet<&Digest> = manifests.filter(|child| self.want(child)).map(|child| &child.digest).collect();
        !wanted.is_empty() && wanted.into_iter().all(|child| reading.is_complete(child))
    }
}

/// What is wrong with a platform as an operator wrote it.
pub(super) fn check(platform: &str) -> Result<(), String> {
    let words = platform.split('/').count();
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
    match (2..=3).contains(&words) && platform.len() <= 64 && platform.split('/').all(is_word) {
        true => Ok(()),
        false => Err(format!("{platform:?} is no platform; write os/architecture, such as linux/arm64")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn no_platform_is_every_manifest_and_one_is_os_and_architecture() {
        let child = |platform: Option<&str>| Child {
            digest: Algorithm::Sha256.digest(b""),
            size: 0,
            is_manifest: true,
            platform: platform.map(Into::into),
            is_foreign: false,
        };
        assert!(Platforms(Vec::new()).want(&child(Some("unknown/unknown"))) && Platforms::default().want(&child(None)));
        assert!(!Platforms(vec!["linux/amd64".into()]).want(&child(None)));
        for good in ["linux/amd64", "linux/arm/v7", "windows/amd64"] {
            assert_eq!(check(good), Ok(()));
        }
        for bad in ["", "linux", "linux/", "a/b/c/d", "linux/amd64,linux/arm64", "linux/ amd64"] {
            assert!(check(bad).unwrap_err().contains("write os/architecture"), "{bad}");
        }
    }
}
