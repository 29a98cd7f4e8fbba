//! What a manifest names, as it is kept for each manifest that is here. A million of these are in memory, so that a platform, which few
//! of them have, stands beside them and not in each.

use std::sync::Arc;

use crate::oci::{Child, Digest};

/// What a manifest names, in order: config, layers, manifests. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct Children {
    objects: Arc<[Named]>,
    /// The platforms that an index claims, one for each object; of other manifests none.
    platforms: Option<Arc<Vec<Option<Box<str>>>>>,
}

/// An object that a manifest names.
#[derive(Debug)]
pub(crate) struct Named {
    /// Its digest.
    pub(crate) digest: Digest,
    /// The size that is claimed for it, in bytes, below two flags: no object has 2^62 bytes.
    size_and_flags: u64,
}

const MANIFEST: u64 = 1 << 63;
const FOREIGN: u64 = 1 << 62;
const SIZE: u64 = FOREIGN - 1;

impl Named {
    /// Whether it is a manifest or a blob.
    pub(crate) fn is_manifest(&self) -> bool {
        self.size_and_flags & MANIFEST != 0
    }

    /// Its size in bytes as the manifest claims it.
    pub(crate) fn size(&self) -> u64 {
        self.size_and_flags & SIZE
    }
}

impl Children {
    /// The objects.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Named> {
        self.objects.iter()
    }

    /// The objects, and the platform that is claimed for each.
    pub(crate) fn with_platforms(&self) -> impl Iterator<Item = (&Named, Option<&str>)> {
        let platforms = self.platforms.iter().flat_map(|platforms| platforms.iter()).map(Option::as_deref);
        let platforms = platforms.chain(std::iter::repeat(None));
        self.objects.iter().zip(platforms)
    }

    /// As the manifest's description has them.
    pub(crate) fn described(&self) -> impl Iterator<Item = Child> {
        self.with_platforms().map(|(named, platform)| Child {
            digest: named.digest.clone(),
            size: named.size(),
            is_manifest: named.is_manifest(),
            platform: platform.map(Box::from),
            is_foreign: named.size_and_flags & FOREIGN != 0,
        })
    }
}

impl From<Vec<Child>> for Children {
    fn from(children: Vec<Child>) -> Children {
        let has_platforms = children.iter().any(|child| child.platform.is_some());
        let (mut objects, mut platforms) = (Vec::with_capacity(children.len()), Vec::new());
        for Child { digest, size, is_manifest, platform, is_foreign } in children {
            let flags = (u64::from(is_manifest) * MANIFEST) | (u64::from(is_foreign) * FOREIGN);
            objects.push(Named { digest, size_and_flags: size.min(SIZE) | flags });
            platforms.extend(has_platforms.then_some(platform));
        }
        Children { objects: objects.into(), platforms: has_platforms.then(|| platforms.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn what_a_manifest_names_is_kept_as_its_description_has_it_in_48_bytes_an_object() {
        let child = |size, is_manifest, platform: Option<&str>, is_foreign| Child {
            digest: Algorithm::Sha512.digest(b"object"),
            size,
            is_manifest,
            platform: platform.map(Box::from),
            is_foreign,
        };
        let index = vec![child(1, true, Some("linux/amd64"), false), child(0, true, None, false)];
        let image = vec![child(SIZE, false, None, true), child(7, false, None, false)];
        for children in [index, image, Vec::new()] {
            assert_eq!(Children::from(children.clone()).described().collect::<Vec<_>>(), children);
        }
        let most = Children::from(vec![child(u64::MAX, false, None, false)]);
        assert_eq!(
            most.described().next(),
            Some(child(SIZE, false, None, false)),
            "a claim beyond all sizes is no flag"
        );
        assert_eq!(size_of::<Named>(), 48);
    }
}
