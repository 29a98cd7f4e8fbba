//! Which repository is meant by a name as people write it.

use super::json::parameter;
use crate::{
    mirror::Repository,
    route::{Mirrored, RequestedName, Route, Routes, is_registry},
};

/// The repository that a query names as people write it: `busybox`, `docker.io/library/busybox`, `ghcr.io/acme/app`.
pub(super) fn located(routes: &Routes, query: &str) -> Result<Mirrored, &'static str> {
    let text = parameter(query, "repository").ok_or("name a repository: ?repository=docker.io/library/busybox")?;
    named(routes, &text)
}

/// The repository of a name.
pub(super) fn named(routes: &Routes, text: &str) -> Result<Mirrored, &'static str> {
    routes.route(&requested(text)?, None).ok_or(NOT_FOUND)
}

/// The repository of a name, be it mirrored or hosted.
pub(super) fn cached(routes: &Routes, text: &str) -> Result<Repository, &'static str> {
    match routes.find(&requested(text)?, None).ok_or(NOT_FOUND)? {
        Route::Hosted(name) => Ok(Repository::hosted(name)),
        Route::Mirrored(Mirrored { upstream, repository, .. }) => Ok(Repository { upstream, name: repository }),
    }
}

/// A name's repository, and its tag or digest. What comes after the last colon is a tag unless a slash follows, which is a registry's port.
pub(super) fn split(name: &str) -> (&str, Option<&str>) {
    match (name.split_once('@'), name.rsplit_once(':')) {
        (Some((repository, digest)), _) => (repository, Some(digest)),
        (None, Some((repository, tag))) if !tag.contains('/') => (repository, Some(tag)),
        _ => (name, None),
    }
}

const NOT_FOUND: &str = "no configured upstream has this repository";

fn requested(text: &str) -> Result<RequestedName, &'static str> {
    let (registry, name) = match text.split_once('/') {
        Some((first, rest)) if is_registry(first) => (Some(first), rest),
        _ => (None, text),
    };
    let name = name.parse().map_err(|_| "this is no repository name; write it as in an image, without the tag")?;
    Ok(RequestedName { registry: registry.map(Into::into), name, whole: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_named_as_in_an_image() {
        let routes = Routes::new(Some("docker.io"), ["docker.io", "ghcr.io", "localhost:5000"]);
        for (query, found) in [
            ("repository=busybox", "docker.io library/busybox"),
            ("repository=library%2Fbusybox", "docker.io library/busybox"),
            ("repository=docker.io/acme/app&reference=1", "docker.io acme/app"),
            ("repository=ghcr.io/acme/app", "ghcr.io acme/app"),
            ("repository=localhost:5000/app", "localhost:5000 app"),
        ] {
            let place = located(&routes, query).unwrap();
            assert_eq!(format!("{} {}", place.upstream, place.repository), found);
        }
        for bad in
            ["", "repository=", "repository=../etc", "repository=evil.example/app", "repository=a*", "repository=%00"]
        {
            assert!(located(&routes, bad).is_err(), "{bad}");
        }
    }
}
