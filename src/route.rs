//! A repository name, with or without a registry, to the upstream that serves it. Pure.
//!
//! The world is closed: a name either belongs to exactly one configured upstream or to none, and then no upstream is asked.
//! There is no fall-through from one registry to another, by which another registry would answer for a private name.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::oci::{Name, Reference, matches};

/// The name under which Docker Hub goes; single-component names below it are official images.
pub const DOCKER_HUB: &str = "docker.io";

/// Other spellings of Docker Hub that clients send as `ns=`.
const DOCKER_HUB_ALIASES: [&str; 2] = ["registry-1.docker.io", "index.docker.io"];

/// Whether the first component of a name is a registry by its looks. In any case, since hosts are; names are not.
pub fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first.eq_ignore_ascii_case("localhost")
}

/// A repository as a client wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedName {
    /// The registry written into the path, in either prefix style.
    pub registry: Option<Box<str>>,
    /// The name without that registry.
    pub name: Name,
    /// The name with that registry as its first component, when that is a valid name too: `ns=` may say that it is one.
    pub whole: Option<Name>,
}

/// Where a repository lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrored {
    /// The upstream's configured name.
    pub upstream: Arc<str>,
    /// The repository as that upstream names it.
    pub repository: Name,
    /// Whether `ns=` decided, and so is echoed as `OCI-Namespace` (distribution-spec, "Registry Proxying").
    pub by_namespace: bool,
}

/// Where a name leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// To an upstream; nothing can be written there.
    Mirrored(Mirrored),
    /// To a repository that lives here; no upstream is ever asked for it.
    Hosted(Name),
}

/// The configured upstreams, and the names that live here.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    hosted: Arc<[String]>,
    default: Option<Arc<str>>,
    upstreams: Box<[Arc<str>]>,
}

impl Routes {
    /// Routes to these upstreams; `default` serves names without a registry and need not be among `upstreams`.
    pub fn new(default: Option<&str>, upstreams: impl IntoIterator<Item = impl AsRef<str>>) -> Routes {
        let mut names: Vec<Arc<str>> = upstreams.into_iter().map(|name| Arc::from(name.as_ref())).collect();
        let default = default.map(|default| {
            names.iter().find(|name| &***name == default).cloned().unwrap_or_else(|| {
                names.push(Arc::from(default));
                Arc::from(default)
            })
        });
        Routes { hosted: Arc::from([]), default, upstreams: names.into() }
    }

    /// With these patterns of names that live here.
    pub fn hosting(self, namespaces: &[String]) -> Routes {
        Routes { hosted: namespaces.into(), ..self }
    }

    /// Where `asked` leads: a name without a registry and without `ns` may live here; any other is an upstream's, or leads nowhere.
    pub fn find(&self, asked: &RequestedName, ns: Option<&str>) -> Option<Route> {
        if asked.registry.is_none() && ns.is_none() && self.hosts(&asked.name) {
            return Some(Route::Hosted(asked.name.clone()));
        }
        self.route(asked, ns).map(Route::Mirrored)
    }

    /// As [`Routes::named_image`], of an image that an upstream has.
    ///
    /// # Errors
    /// A sentence that says what to write instead.
    pub fn image(&self, text: &str) -> Result<(Mirrored, Reference), String> {
        match self.named_image(text)? {
            (Route::Mirrored(mirrored), reference) => Ok((mirrored, reference)),
            (Route::Hosted(_), _) => Err("this is hosted here, and comes from no upstream".to_owned()),
        }
    }

    /// The image that people mean by `busybox:1.36`, `ghcr.io/acme/app` or `ghcr.io/acme/app:1@sha256:…`; without a tag, `latest`.
    ///
    /// # Errors
    /// A sentence that says what to write instead.
    pub fn named_image(&self, text: &str) -> Result<(Route, Reference), String> {
        let (named, digest) = text.split_once('@').map_or((text, None), |(named, digest)| (named, Some(digest)));
        // What comes after the last colon is a tag unless a slash follows, which is a registry's port.
        let tagged = named.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
        let (path, tag) = tagged.map_or((named, "latest"), |(path, tag)| (path, tag));
        let (registry, name) = match path.split_once('/') {
            Some((first, rest)) if is_registry(first) => (Some(first), rest),
            _ => (None, path),
        };
        let name: Name = name.parse().map_err(|_| "this is no image; write it as docker pull takes it".to_owned())?;
        let reference: Reference = digest.unwrap_or(tag).parse().map_err(|error| format!("{error}"))?;
        let asked = RequestedName { registry: registry.map(Into::into), name, whole: None };
        let route = self.find(&asked, None).ok_or_else(|| self.why_not(&asked))?;
        Ok((route, reference))
    }

    /// Why [`Routes::find`] finds nothing, and what to change.
    pub fn why_not(&self, asked: &RequestedName) -> &'static str {
        match (&asked.registry, &self.default) {
            (None, None) => {
                "no upstream serves names without a registry; write the registry too, as in docker.io/library/busybox, \
                 or set default = true in an [[upstream]]"
            }
            _ => "no configured upstream has this repository; add an [[upstream]]",
        }
    }

    fn hosts(&self, name: &Name) -> bool {
        self.hosted.iter().any(|pattern| matches(pattern, name.as_str()))
    }

    /// The configured upstream that a client means by `registry`.
    pub fn upstream(&self, registry: &str) -> Option<&Arc<str>> {
        // Upstreams are configured in lower case, and hosts are the same in any.
        let find = |name: &str| self.upstreams.iter().find(|upstream| upstream.eq_ignore_ascii_case(name));
        let is_hub = || DOCKER_HUB_ALIASES.iter().any(|alias| alias.eq_ignore_ascii_case(registry));
        find(registry).or_else(|| is_hub().then(|| find(DOCKER_HUB)).flatten())
    }

    /// The upstream of names without a registry.
    pub fn default_upstream(&self) -> Option<&Arc<str>> {
        self.default.as_ref()
    }

    /// Where `asked` lives, or `None` when no configured upstream has it.
    ///
    /// A configured registry in the path wins over `ns`, because a person wrote it there while `ns` is added by containerd to
    /// whatever it asks. A first component that only looks like a registry is part of the name when `ns` is given.
    pub fn route(&self, asked: &RequestedName, ns: Option<&str>) -> Option<Mirrored> {
        let written = asked.registry.as_deref().and_then(|registry| self.upstream(registry));
        let named = ns.map(|ns| self.upstream(ns));
        let (upstream, name, by_namespace) = match (written, named) {
            (Some(written), named) => (written, &asked.name, named == Some(Some(written))),
            (None, Some(Some(named))) if asked.registry.is_none() => (named, &asked.name, true),
            (None, Some(Some(named))) => (named, asked.whole.as_ref()?, true),
            (None, Some(None)) => return None,
            (None, None) if asked.registry.is_some() => return None,
            (None, None) => (self.default.as_ref()?, &asked.name, false),
        };
        let official = &**upstream == DOCKER_HUB && !name.as_str().contains('/');
        let repository = if official { name.below("library").ok()? } else { name.clone() };
        Some(Mirrored { upstream: upstream.clone(), repository, by_namespace })
    }
}

/// The routes that are in force, for all that route by them. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct SharedRoutes(Arc<ArcSwap<Routes>>);

impl SharedRoutes {
    /// Those of this moment. A request looks once, so that a reload does not change its way.
    pub fn load(&self) -> Guard<Arc<Routes>> {
        self.0.load()
    }

    /// As [`SharedRoutes::load`], for as long as is needed.
    pub fn get(&self) -> Arc<Routes> {
        self.0.load_full()
    }

    /// From now on these.
    pub fn replace(&self, routes: Routes) {
        self.0.store(Arc::new(routes));
    }
}

impl From<Routes> for SharedRoutes {
    fn from(routes: Routes) -> SharedRoutes {
        SharedRoutes(Arc::new(ArcSwap::from_pointee(routes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_read_as_people_write_it() {
        let routes = Routes::new(Some("docker.io"), ["docker.io", "localhost:5000"]).hosting(&["own/*".to_owned()]);
        let digest = format!("sha256:{}", "0".repeat(64));
        for (text, found) in [
            ("busybox", "docker.io library/busybox latest"),
            ("acme/app:1", "docker.io acme/app 1"),
            ("localhost:5000/app", "localhost:5000 app latest"),
            ("localhost:5000/app:2", "localhost:5000 app 2"),
            (&format!("busybox:1@{digest}"), &format!("docker.io library/busybox {digest}")),
        ] {
            let (place, reference) = routes.image(text).unwrap();
            assert_eq!(format!("{} {} {reference}", place.upstream, place.repository), found);
        }
        for (bad, why) in [
            ("", "no image"),
            ("UPPER", "no image"),
            ("a*", "no image"),
            ("a@sha256:1", "digest"),
            ("own/app", "hosted here"),
            ("ghcr.io/a", "no configured upstream"),
        ] {
            let error = routes.image(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    fn asked(registry: Option<&str>, name: &str) -> RequestedName {
        let whole = registry.and_then(|registry| format!("{registry}/{name}").parse().ok());
        RequestedName { registry: registry.map(Into::into), name: name.parse().unwrap(), whole }
    }

    #[test]
    fn every_name_has_one_upstream_or_none() {
        let routes = Routes::new(Some("docker.io"), ["docker.io", "ghcr.io", "localhost:5000"]);
        let route = |registry, name, ns| {
            routes
                .route(&asked(registry, name), ns)
                .map(|found| (found.upstream.to_string(), found.repository.to_string(), found.by_namespace))
        };
        let found = |upstream: &str, name: &str, ns| Some((upstream.to_owned(), name.to_owned(), ns));

        assert_eq!(route(None, "busybox", None), found("docker.io", "library/busybox", false));
        assert_eq!(route(None, "org/app", None), found("docker.io", "org/app", false));
        assert_eq!(route(None, "busybox", Some("docker.io")), found("docker.io", "library/busybox", true));
        assert_eq!(route(None, "busybox", Some("registry-1.docker.io")), found("docker.io", "library/busybox", true));
        assert_eq!(route(None, "org/app", Some("ghcr.io")), found("ghcr.io", "org/app", true));
        assert_eq!(route(None, "app", Some("ghcr.io")), found("ghcr.io", "app", true));
        assert_eq!(route(None, "busybox", Some("Docker.IO")), found("docker.io", "library/busybox", true));
        assert_eq!(route(None, "busybox", Some("Registry-1.Docker.io")), found("docker.io", "library/busybox", true));
        assert_eq!(route(Some("GHCR.io"), "org/app", Some("ghcr.IO")), found("ghcr.io", "org/app", true));
        assert_eq!(route(Some("LocalHost:5000"), "foo", None), found("localhost:5000", "foo", false));
        assert_eq!(route(Some("ghcr.io"), "org/app", None), found("ghcr.io", "org/app", false));
        assert_eq!(route(Some("docker.io"), "busybox", None), found("docker.io", "library/busybox", false));
        assert_eq!(route(Some("localhost:5000"), "foo", None), found("localhost:5000", "foo", false));
        assert_eq!(route(Some("ghcr.io"), "org/app", Some("ghcr.io")), found("ghcr.io", "org/app", true));
        // What is written in the path wins over what containerd adds.
        assert_eq!(route(Some("ghcr.io"), "org/app", Some("docker.io")), found("ghcr.io", "org/app", false));
        // An organisation may hold a dot.
        assert_eq!(route(Some("my.org"), "app", Some("ghcr.io")), found("ghcr.io", "my.org/app", true));

        assert_eq!(route(Some("evil.example"), "a/b", None), None);
        assert_eq!(route(Some("169.254.169.254"), "latest", None), None);
        assert_eq!(route(None, "a/b", Some("evil.example")), None);
        assert_eq!(route(None, "a/b", Some("")), None);
        assert_eq!(route(Some("evil.example:80"), "a/b", Some("ghcr.io")), None);
        assert_eq!(Routes::new(None, ["ghcr.io"]).route(&asked(None, "a/b"), None), None);
    }

    #[test]
    fn a_registry_that_is_configured_under_an_alias_of_docker_hub_is_itself() {
        let routes = Routes::new(None, ["docker.io", "registry-1.docker.io"]);
        assert_eq!(routes.upstream("registry-1.docker.io").unwrap().as_ref(), "registry-1.docker.io");
        assert_eq!(routes.upstream("index.docker.io").unwrap().as_ref(), "docker.io");
    }
}
