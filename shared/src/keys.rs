//! The keys of a bucket: what is under which name. Pure.
//!
//! ```text
//! <prefix>/v1/
//!   blobs/<algorithm>/<2 hex>/<hex>                             whole and verified when it was written
//!   manifests/<algorithm>/<2 hex>/<hex>                         as the file of a store: a line with the media type, then the bytes
//!   sources/<upstream>/<credential>/<repository>/_members/<algorithm>-<hex>   this repository has that digest
//!   sources/<upstream>/<credential>/<repository>/_tags/<tag>    what the tag named, and when that was asked
//!   quarantine/<algorithm>-<hex>                                a blob that did not match its digest, for the operator
//!   probe/<random>                                              what a start tries the bucket with
//! ```
//!
//! All but tags are written once. `<credential>` is `anonymous`, or the hash of an account's name, so that what one account may
//! read never answers for another.

use std::fmt::Display;

use weir_storage::{
    Source,
    oci::{Algorithm, Digest, Name, Tag},
};

/// The layout's version, so that a later one has keys of its own.
const VERSION: &str = "v1";

pub(crate) fn blob(digest: &Digest) -> String {
    object("blobs", digest)
}

pub(crate) fn manifest(digest: &Digest) -> String {
    object("manifests", digest)
}

pub(crate) fn quarantine(digest: &Digest) -> String {
    format!("{VERSION}/quarantine/{}", flat(digest))
}

pub(crate) fn member(source: &Source, digest: &Digest) -> String {
    format!("{}/_members/{}", of(source), flat(digest))
}

pub(crate) fn tag(source: &Source, tag: &Tag) -> String {
    format!("{}/_tags/{tag}", of(source))
}

/// An object that one replica at a time asks upstream for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flight(String);

impl Flight {
    /// A blob, wherever it comes from.
    pub fn blob(digest: &Digest) -> Flight {
        Flight(format!("flight:blob:{digest}"))
    }

    /// A manifest of a repository. Clients that may read what only accounts may read share none with others.
    pub fn manifest(upstream: &str, repository: &Name, is_private: bool, digest: &Digest) -> Flight {
        let rights = if is_private { "private" } else { "public" };
        Flight(format!("flight:manifest:{rights}:{upstream}/{repository}@{digest}"))
    }

    /// What upstream says when it is asked for `object` of a repository in the way that `kind` names. As for [`Flight::manifest`], clients
    /// that may read what only accounts may read share none with others.
    pub fn answer(
        kind: &'static str,
        upstream: &str,
        repository: &Name,
        is_private: bool,
        object: &dyn Display,
    ) -> Flight {
        let rights = if is_private { "private" } else { "public" };
        Flight(format!("flight:{kind}:{rights}:{upstream}/{repository}:{object}"))
    }

    pub(crate) fn key(&self) -> &str {
        &self.0
    }
}

pub(crate) fn probe(name: &str) -> String {
    format!("{VERSION}/probe/{name}")
}

fn object(kind: &str, digest: &Digest) -> String {
    let hex = digest.hex();
    format!("{VERSION}/{kind}/{}/{}/{hex}", digest.algorithm().as_str(), &hex[..2])
}

fn flat(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().as_str(), digest.hex())
}

fn of(source: &Source) -> String {
    let Source { upstream, credential, repository } = source;
    // A user name may hold any character, and an upstream's name a port.
    let credential = match &**credential {
        Source::ANONYMOUS => Source::ANONYMOUS.to_owned(),
        account => Algorithm::Sha256.digest(account.as_bytes()).hex(),
    };
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' };
    let upstream: String = upstream.chars().map(plain).collect();
    format!("{VERSION}/sources/{upstream}/{credential}/{repository}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(credential: &str) -> Source {
        Source { upstream: "docker.io".into(), credential: credential.into(), repository: "library/a".parse().unwrap() }
    }

    #[test]
    fn a_key_is_readable_and_takes_any_account() {
        let digest = Algorithm::Sha256.digest(b"");
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(blob(&digest), format!("v1/blobs/sha256/e3/{hex}"));
        let member = member(&source(Source::ANONYMOUS), &digest);
        assert_eq!(member, format!("v1/sources/docker.io/anonymous/library/a/_members/sha256-{hex}"));
        let latest = "latest".parse().unwrap();
        let (one, other) = (tag(&source("a/../b"), &latest), tag(&source("a"), &latest));
        assert!(one != other && !one.contains(".."), "{one}");
        // An account by this name is not anonymous.
        assert_ne!(tag(&source("anonymous2"), &latest), tag(&source(Source::ANONYMOUS), &latest));
    }
}
