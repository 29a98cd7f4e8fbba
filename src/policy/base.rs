//! Which image another one was built on.

use crate::oci::{Description, Digest};

/// The base of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// As the publisher annotated it (image-spec, "Annotations"): its name, and the digest it had then.
    Named {
        /// `docker.io/library/debian:12`.
        name: Box<str>,
        /// What the name stood for when the image was built.
        digest: Option<Digest>,
    },
    /// All layers of this cached image are the lowest ones of the other.
    Shared {
        /// The full name of the cached image.
        name: Box<str>,
        /// How many layers the two share.
        layers: usize,
        /// What the name stood for then, when it stands for another image by now.
        once: Option<Digest>,
    },
}

const NAME: &str = "org.opencontainers.image.base.name";
const DIGEST: &str = "org.opencontainers.image.base.digest";
/// A longer name is none of an image.
const MOST_NAME_BYTES: usize = 512;

impl Base {
    /// What the annotations of a manifest say.
    pub(super) fn annotated(description: &Description) -> Option<Base> {
        let name = description.annotations.get(NAME).filter(|name| is_name(name))?;
        let digest = description.annotations.get(DIGEST).and_then(|digest| digest.parse().ok());
        Some(Base::Named { name: (&**name).into(), digest })
    }

    /// The name of the base.
    pub fn name(&self) -> &str {
        match self {
            Base::Named { name, .. } | Base::Shared { name, .. } => name,
        }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= MOST_NAME_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Of images that are known, each by name and layers from the lowest up, the one with the longest chain of layers on which these are
/// built; of several, the first. An image is no base of itself, nor of its equal.
pub fn nearest_base<'a>(layers: &[Digest], known: impl IntoIterator<Item = (&'a str, &'a [Digest])>) -> Option<Base> {
    let is_below =
        |(_, below): &(&str, &[Digest])| !below.is_empty() && below.len() < layers.len() && layers.starts_with(below);
    let longer = |best: Option<(&'a str, usize)>, (name, below): (&'a str, &[Digest])| match best {
        Some((_, length)) if length >= below.len() => best,
        _ => Some((name, below.len())),
    };
    let (name, layers) = known.into_iter().filter(is_below).fold(None, longer)?;
    Some(Base::Shared { name: name.into(), layers, once: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn a_base_is_the_longest_chain_of_lower_layers() {
        let layers: Vec<Digest> = (0..4_u8).map(|number| Algorithm::Sha256.digest(&[number])).collect();
        let known = [
            ("short", &layers[..1]),
            ("upper", &layers[1..3]),
            ("long", &layers[..2]),
            ("other", &layers[..2]),
            ("itself", &layers[..3]),
            ("larger", &layers[..4]),
            ("empty", &[][..]),
        ];
        let base = nearest_base(&layers[..3], known).unwrap();
        assert_eq!(base, Base::Shared { name: "long".into(), layers: 2, once: None });
        assert_eq!(nearest_base(&layers[..1], known), None);
    }

    #[test]
    fn an_annotated_base_is_a_name_and_maybe_a_digest() {
        let describe = |name: &str, digest: &str| {
            let annotations = [(NAME.to_owned(), name.to_owned()), (DIGEST.to_owned(), digest.to_owned())].into();
            Base::annotated(&Description { annotations, ..Description::default() })
        };
        let digest = Algorithm::Sha256.digest(b"base");
        let named = |digest| Some(Base::Named { name: "docker.io/library/debian:12".into(), digest });
        assert_eq!(describe("docker.io/library/debian:12", &digest.to_string()), named(Some(digest)));
        assert_eq!(describe("docker.io/library/debian:12", "sha256:short"), named(None));
        assert_eq!(describe("two words\n", ""), None);
        assert_eq!(describe("", ""), None);
    }
}
