//! A request's path to the resource it names. Pure, fuzzed.
//!
//! The path is read from the right, because a name may hold any number of slashes and the words `manifests` and `blobs`, too.
//! It is decoded here, once, and what leaves this file are types: no handler, log line or file name is ever made of what a
//! client wrote. Percent-encoding is accepted only for characters that a name, tag or digest may hold anyway (`%3A` for the colon
//! of a digest is seen in the field), so that no decoding can change how a path splits.

use std::borrow::Cow;

use crate::{
    oci::{Digest, Invalid, Reference},
    route::{RequestedName, is_registry},
};

/// The longest path that is looked at, in bytes: prefix, name, words and a digest fit five times over.
const LONGEST: usize = 2048;

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// `/`, which is no endpoint of the spec.
    Root,
    /// `/v2/` (end-1), of this registry when it is written before.
    Ping(Option<Box<str>>),
    /// `/v2/_catalog`, of this registry when it is written before.
    Catalog(Option<Box<str>>),
    /// `/v2/<name>/manifests/<reference>` (end-3, end-7, end-9).
    Manifest(RequestedName, Reference),
    /// `/v2/<name>/blobs/<digest>` (end-2, end-10).
    Blob(RequestedName, Digest),
    /// `/v2/<name>/blobs/uploads/…` (end-4 to end-6, end-11, end-13, end-14), and the id behind it.
    Upload(RequestedName, Option<Box<str>>),
    /// `/v2/<name>/tags/list` (end-8).
    Tags(RequestedName),
    /// `/v2/<name>/referrers/<digest>` (end-12).
    Referrers(RequestedName, Digest),
}

impl Resource {
    /// The repository as the path names it.
    pub(crate) fn name(&self) -> Option<&RequestedName> {
        match self {
            Resource::Root | Resource::Ping(_) | Resource::Catalog(_) => None,
            Resource::Manifest(name, _)
            | Resource::Blob(name, _)
            | Resource::Upload(name, _)
            | Resource::Tags(name)
            | Resource::Referrers(name, _) => Some(name),
        }
    }

    /// The tag or digest; empty when there is none.
    pub(crate) fn reference(&self) -> String {
        match self {
            Resource::Manifest(_, reference) => reference.to_string(),
            Resource::Blob(_, digest) | Resource::Referrers(_, digest) => digest.to_string(),
            Resource::Root | Resource::Ping(_) | Resource::Catalog(_) | Resource::Upload(..) | Resource::Tags(_) => {
                String::new()
            }
        }
    }
}

/// Why a path names nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    /// No such endpoint.
    #[error("there is no such endpoint")]
    Nowhere,
    /// Longer than [`LONGEST`].
    #[error("the path is longer than {LONGEST} bytes")]
    TooLong,
    /// An escape that is malformed or hides a character that no name, tag or digest may hold.
    #[error("the path holds a percent-encoded character that no name, tag or digest may hold")]
    Encoding,
    /// The name breaks the grammar.
    #[error("{0}")]
    Name(Invalid),
    /// The reference is neither a tag nor a digest.
    #[error("{0}")]
    Reference(Invalid),
    /// The digest is malformed or of an algorithm that is not served.
    #[error("{0}")]
    Digest(Invalid),
}

/// Reads the path of a request, without its query.
pub(crate) fn parse(path: &str) -> Result<Resource, PathError> {
    if path.len() > LONGEST {
        return Err(PathError::TooLong);
    }
    if path == "/" {
        return Ok(Resource::Root);
    }
    let path = decode(path)?;
    let (registry, rest) = split_prefix(&path).ok_or(PathError::Nowhere)?;
    match rest {
        "" => return Ok(Resource::Ping(registry)),
        "_catalog" => return Ok(Resource::Catalog(registry)),
        _ => {}
    }
    let asked = |name: &str| asked(registry.clone(), name);
    let (before, last) = rest.rsplit_once('/').ok_or(PathError::Nowhere)?;
    let (name, word) = before.rsplit_once('/').ok_or(PathError::Nowhere)?;
    match word {
        "manifests" => Ok(Resource::Manifest(asked(name)?, last.parse().map_err(reference)?)),
        "blobs" if last == "uploads" => Ok(Resource::Upload(asked(name)?, None)),
        "blobs" => Ok(Resource::Blob(asked(name)?, last.parse().map_err(PathError::Digest)?)),
        "referrers" => Ok(Resource::Referrers(asked(name)?, last.parse().map_err(PathError::Digest)?)),
        "tags" if last == "list" => Ok(Resource::Tags(asked(name)?)),
        "uploads" => match name.strip_suffix("/blobs") {
            Some(name) => Ok(Resource::Upload(asked(name)?, (!last.is_empty()).then(|| last.into()))),
            None => Err(PathError::Nowhere),
        },
        _ => Err(PathError::Nowhere),
    }
}

fn reference(invalid: Invalid) -> PathError {
    match invalid {
        Invalid::Digest(_) => PathError::Digest(invalid),
        Invalid::Name(_) | Invalid::Tag => PathError::Reference(invalid),
    }
}

/// The name of a repository as it stands in the path, decoded and with its registry if that stands in it, too.
pub(crate) fn written_name(path: &str, tail: &str) -> Option<String> {
    let path = decode(path).ok()?;
    split_prefix(&path)?.1.strip_suffix(tail).map(str::to_owned)
}

/// Splits `/v2/rest` and `/<registry>/v2/rest`.
fn split_prefix(path: &str) -> Option<(Option<Box<str>>, &str)> {
    let path = path.strip_prefix('/')?;
    if path == "v2" {
        return Some((None, ""));
    }
    if let Some(rest) = path.strip_prefix("v2/") {
        return Some((None, rest));
    }
    let (registry, rest) = path.split_once('/')?;
    let rest = if rest == "v2" { "" } else { rest.strip_prefix("v2/")? };
    is_host(registry).then(|| (Some(registry.into()), rest))
}

/// Reads a name as it stands in a query, with or without a registry.
pub(crate) fn name(text: &str) -> Result<RequestedName, PathError> {
    asked(None, text)
}

fn asked(prefix: Option<Box<str>>, name: &str) -> Result<RequestedName, PathError> {
    if prefix.is_some() {
        return Ok(RequestedName { registry: prefix, name: name.parse().map_err(PathError::Name)?, whole: None });
    }
    match name.split_once('/') {
        Some((first, rest)) if is_registry(first) && is_host(first) => Ok(RequestedName {
            registry: Some(first.into()),
            name: rest.parse().map_err(PathError::Name)?,
            whole: name.parse().ok(),
        }),
        _ => Ok(RequestedName { registry: None, name: name.parse().map_err(PathError::Name)?, whole: None }),
    }
}

/// A host name with an optional port, or another name an upstream may be configured by.
fn is_host(text: &str) -> bool {
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=253).contains(&host.len())
        && host.as_bytes()[0].is_ascii_alphanumeric()
        && host.bytes().all(word)
        && port.is_none_or(|port| (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn decode(path: &str) -> Result<Cow<'_, str>, PathError> {
    if !path.contains('%') {
        return Ok(Cow::Borrowed(path));
    }
    let mut decoded = String::with_capacity(path.len());
    let mut pieces = path.split('%');
    decoded.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let code = piece
            .get(..2)
            .filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .ok_or(PathError::Encoding)?;
        let byte = u8::from_str_radix(code, 16).map_err(|_| PathError::Encoding)?;
        if !(byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b':')) {
            return Err(PathError::Encoding);
        }
        decoded.push(char::from(byte));
        decoded.push_str(&piece[2..]);
    }
    Ok(Cow::Owned(decoded))
}

/// A name as it stands in a path.
#[cfg(test)]
fn printed(asked: &RequestedName) -> String {
    asked.registry.as_ref().map_or(asked.name.to_string(), |registry| format!("{registry}/{}", asked.name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn named(path: &str) -> String {
        match parse(path).unwrap() {
            Resource::Root => "root".to_owned(),
            Resource::Ping(registry) => format!("ping {registry:?}"),
            Resource::Catalog(registry) => format!("catalog {registry:?}"),
            Resource::Manifest(name, reference) => format!("manifest {} {reference}", printed(&name)),
            Resource::Blob(name, digest) => format!("blob {} {}", printed(&name), &digest.to_string()[..10]),
            Resource::Upload(name, id) => format!("upload {} {}", printed(&name), id.unwrap_or_default()),
            Resource::Tags(name) => format!("tags {}", printed(&name)),
            Resource::Referrers(name, _) => format!("referrers {}", printed(&name)),
        }
    }

    #[test]
    fn paths_are_read_from_the_right() {
        for (path, expected) in [
            ("/", "root"),
            ("/v2", "ping None"),
            ("/v2/", "ping None"),
            ("/docker.io/v2/", "ping Some(\"docker.io\")"),
            ("/localhost:5000/v2", "ping Some(\"localhost:5000\")"),
            ("/v2/_catalog", "catalog None"),
            ("/v2/busybox/manifests/latest", "manifest busybox latest"),
            ("/v2/a/b/c/tags/list", "tags a/b/c"),
            ("/v2/docker.io/library/busybox/manifests/1.36", "manifest docker.io/library/busybox 1.36"),
            ("/docker.io/v2/library/busybox/manifests/1.36", "manifest docker.io/library/busybox 1.36"),
            ("/v2/localhost:5000/foo/tags/list", "tags localhost:5000/foo"),
            ("/localhost:5000/v2/foo/tags/list", "tags localhost:5000/foo"),
            ("/v2/localhost/foo/tags/list", "tags localhost/foo"),
            // Hosts are the same in any case, names are not.
            ("/v2/LocalHost/foo/tags/list", "tags LocalHost/foo"),
            ("/v2/GHCR.io/org/app/tags/list", "tags GHCR.io/org/app"),
            // Words of the API are good names.
            ("/v2/blobs/uploads/manifests/latest", "manifest blobs/uploads latest"),
            ("/v2/v2/tags/list/tags/list", "tags v2/tags/list"),
            ("/v2/manifests/manifests/manifests", "manifest manifests manifests"),
            ("/v2/a/blobs/uploads/manifests", "upload a manifests"),
            ("/v2/a/blobs/uploads/", "upload a "),
            ("/v2/a/blobs/uploads", "upload a "),
            ("/v2/a/blobs/uploads/some-id", "upload a some-id"),
            // One component with a dot is a name, not a registry with nothing behind it.
            ("/v2/my.image/manifests/x", "manifest my.image x"),
        ] {
            assert_eq!(named(path), expected, "{path}");
        }
        assert_eq!(named(&format!("/v2/a/blobs/{DIGEST}")), "blob a sha256:e3b");
        assert_eq!(named(&format!("/v2/a/blobs/{}", DIGEST.replace(':', "%3A"))), "blob a sha256:e3b");
        assert_eq!(named(&format!("/v2/a/manifests/{DIGEST}")), format!("manifest a {DIGEST}"));
        assert_eq!(named(&format!("/v2/a/referrers/{DIGEST}")), "referrers a");
    }

    #[test]
    fn what_is_no_path_of_ours_is_refused() {
        let long = format!("/v2/a/manifests/{}", "a".repeat(5000));
        for bad in [
            "",
            "//",
            "*",
            "v2/",
            "/v1/",
            "/V2/",
            "//v2/",
            "/v2//",
            "/v2/x",
            "/v2/_catalog/",
            "/v2/a/tags/list/",
            "/v2/a/tags/",
            "/v2/a/manifests/",
            "/v2/a/manifests",
            "/v2//manifests/x",
            "/v2/manifests/x",
            "/v2/a//b/manifests/x",
            "/v2/a/../b/manifests/x",
            "/v2/../../etc/manifests/passwd",
            "/v2/%2e%2e/%2e%2e/manifests/x",
            "/v2/a%2fb/manifests/x",
            "/v2/a%2Fb/manifests/x",
            "/v2/a%00b/manifests/x",
            "/v2/a/manifests/x%0d%0aX",
            "/v2/a%252e/manifests/x",
            "/v2/a%5cb/manifests/x",
            "/v2/a\\b/manifests/x",
            "/v2/a%c0%ae/manifests/x",
            "/v2/a/manifests/%",
            "/v2/a/manifests/%4",
            "/v2/a/manifests/%zz",
            "/v2/a/manifests/%+1",
            "/v2/a/manifests/%é1",
            "/%2F%2F%2F..%2F..%2Fetc%2Fpasswd",
            "/..%2fv2/a/manifests/x",
            "/v2/a;x/manifests/x",
            "/v2/A/manifests/x",
            "/v2/*/tags/list",
            "/v2/a*/tags/list",
            "/v2/a/manifests/.x",
            "/v2/a/manifests/..",
            "/v2/a/manifests/a:b",
            "/v2/a/blobs/sha256:abc",
            "/v2/a/blobs/sha256:../../x",
            "/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e",
            "/v2/a/blobs/latest",
            "/v2/a/referrers/latest",
            "/a/b/v2/c/tags/list",
            "/../v2/a/tags/list",
            "/-/v2/a/tags/list",
            "/v2/host:port/a/tags/list",
            "/v2/:5000/a/tags/list",
            "/v2/h.x:123456/a/tags/list",
            &long,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let upper = DIGEST.to_uppercase().replace("SHA256", "sha256");
        for bad in [upper.as_str(), &DIGEST[..70], &format!("{DIGEST}/.."), &format!("{DIGEST}0")] {
            assert!(parse(&format!("/v2/a/blobs/{bad}")).is_err(), "{bad}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5000))]

        #[test]
        fn nothing_panics(path in ".*", tail in "(/|%|v2|\\.|[a-z:%0-9]){0,20}") {
            let _ = parse(&path);
            let _ = parse(&format!("/v2/{tail}/manifests/{path}"));
            let _ = parse(&format!("/v2/{tail}"));
        }

        #[test]
        fn a_parsed_name_prints_as_it_was_read(
            registry in proptest::option::of("[a-z]{1,5}\\.[a-z]{1,5}(:[0-9]{1,5})?"),
            name in "[a-z0-9]{1,5}(/[a-z0-9]{1,4}([._-][a-z0-9]{1,3})?){0,4}",
            tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}",
        ) {
            let path = |style: bool| match (&registry, style) {
                (None, _) => format!("/v2/{name}/manifests/{tag}"),
                (Some(registry), true) => format!("/v2/{registry}/{name}/manifests/{tag}"),
                (Some(registry), false) => format!("/{registry}/v2/{name}/manifests/{tag}"),
            };
            for style in [true, false] {
                match parse(&path(style)) {
                    Ok(Resource::Manifest(asked, reference)) => {
                        prop_assert_eq!(asked.registry.as_deref(), registry.as_deref());
                        prop_assert_eq!(asked.name.as_str(), name.as_str());
                        prop_assert_eq!(reference.to_string(), tag.as_str());
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }
}
