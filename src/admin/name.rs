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
    let asked = requested(text)?;
    routes.route(&asked, None).ok_or_else(|| routes.why_not(&asked))
}

/// The repository of a name, be it mirrored or hosted.
pub(super) fn cached(routes: &Routes, text: &str) -> Result<Repository, &'static str> {
    let asked = requested(text)?;
    match routes.find(&asked, None).ok_or_else(|| routes.why_not(&asked))? {
        Route::Hosted(name) => Ok(Repository::hosted(name)),
        Route::Mirrored(Mirrored { upstream, repository, .. }) => Ok(Repository { upstream, name: repository }),
    }
}

/// The full name of a repository or image that is written as people write it; a pattern, and what leads nowhere, as it is.
pub(super) fn in_full(routes: &Routes, text: &str) -> String {
    let (repository, _) = split(text);
    match cached(routes, repository) {
        Ok(found) => found.full_name() + &text[repository.len()..],
        Err(_) => text.to_owned(),
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
        for (written, full) in [
            ("busybox", "docker.io/library/busybox"),
            ("acme/app:1", "docker.io/acme/app:1"),
            ("ghcr.io/acme/app@sha256:1", "ghcr.io/acme/app@sha256:1"),
            ("acme/*", "acme/*"),
            ("evil.example/app", "evil.example/app"),
        ] {
            assert_eq!(in_full(&routes, written), full);
        }
        let without_default = Routes::new(None, ["docker.io"]);
        assert!(located(&without_default, "repository=busybox").unwrap_err().contains("default = true"));
        assert!(located(&without_default, "repository=quay.io/x").unwrap_err().contains("add an [[upstream]]"));
        for bad in
            ["", "repository=", "repository=../etc", "repository=evil.example/app", "repository=a*", "repository=%00"]
        {
            assert!(located(&routes, bad).is_err(), "{bad}");
        }
    }
}
