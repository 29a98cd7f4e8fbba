//! Which manifests of an index are wanted, and whether all of them is here, by the inventory's word.

use std::collections::HashSet;

use weir_storage::Reading;

use crate::oci::{Child, Digest};

/// Platforms as an operator writes them. Empty is all that an image has.
#[derive(Clone, Debug, Default)]
pub(super) struct Platforms(pub(super) Vec<String>);

impl Platforms {
    /// Whether a manifest of an index is wanted. `linux/arm64` is any variant of it, and `linux/arm64/v8` is what has no variant, too, for
    /// that is what the image-spec says of arm64 without one.
    pub(super) fn want(&self, child: &Child) -> bool {
        let has = |claimed: &str, wanted: &String| {
            let variant = claimed.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.starts_with('/'));
            claimed == wanted || variant || (wanted == "linux/arm64/v8" && claimed == "linux/arm64")
        };
        self.0.is_empty()
            || child.platform.as_deref().is_some_and(|claimed| self.0.iter().any(|wanted| has(claimed, wanted)))
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
    fn a_platform_without_a_variant_is_every_variant_of_it() {
        let child = |platform: Option<&str>| Child {
            digest: Algorithm::Sha256.digest(b""),
            size: 0,
            is_manifest: true,
            platform: platform.map(Into::into),
            is_foreign: false,
        };
        for (wanted, claimed, is_wanted) in [
            ("linux/amd64", "linux/amd64", true),
            ("linux/amd64", "linux/amd64/v3", true),
            ("linux/arm64/v8", "linux/arm64", true),
            ("linux/arm/v7", "linux/arm/v7", true),
            ("linux/arm/v7", "linux/arm", false),
            ("linux/arm", "linux/arm64", false),
            ("linux/amd64", "unknown/unknown", false),
        ] {
            assert_eq!(Platforms(vec![wanted.into()]).want(&child(Some(claimed))), is_wanted, "{wanted} {claimed}");
        }
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
