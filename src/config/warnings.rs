//! What is allowed and yet hardly meant: `weir check` prints it as `warning:` lines, and `weir serve` logs it.

use std::{
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use rustix::process::{Resource, getrlimit};

use super::{Config, ConfigError, ConfigErrors, Size, Span};
use crate::oci::matches;

/// A year: nothing is fresh for longer by intention.
const LONG: Duration = Duration::from_secs(365 * 86_400);

/// Each thing to look at, as key, value and what is odd about it. Asks the system for the size of the disk and the limit of
/// open files, and nothing else; `now` is for what expires.
pub fn warnings(config: &Config, now: SystemTime) -> Vec<ConfigError> {
    let mut found = config.noticed.clone();
    upstreams(config, &mut found);
    names(config, &mut found);
    patterns(config, &mut found);
    times(config, now, &mut found);
    resources(config, &mut found);
    config.places.name(ConfigErrors(found)).0
}

fn upstreams(config: &Config, found: &mut Vec<ConfigError>) {
    for (number, upstream) in config.upstream.iter().enumerate() {
        let key = |name: &str| format!("upstream[{number}].{name}");
        let url = &upstream.url;
        if url.path().trim_end_matches('/').ends_with("/v2") {
            let fix = "/v2/ is added to this URL, which becomes …/v2/v2/; leave it out";
            found.push(ConfigError::new(key("url"), url.as_str(), fix));
        }
        let host = url.host_str().unwrap_or("").trim_matches(['[', ']']);
        let address = host.parse::<IpAddr>().ok();
        let is_loopback = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        if url.scheme() == "http" && !upstream.accounts.is_empty() && !is_loopback {
            let fix = "the password of an account goes to this host in clear; write https";
            found.push(ConfigError::new(key("url"), url.as_str(), fix));
        }
        let is_own = |listen: &std::net::SocketAddr| {
            let is_here = address == Some(listen.ip())
                || is_loopback && (listen.ip().is_loopback() || listen.ip().is_unspecified());
            url.port_or_known_default() == Some(listen.port()) && is_here
        };
        let listeners = config.listener.iter().map(|listener| &listener.address);
        if config.server.listen.0.iter().chain(listeners).chain([&config.admin.listen]).any(is_own) {
            found.push(ConfigError::new(
                key("url"),
                url.as_str(),
                "this is Weir itself; write the URL of the registry",
            ));
        }
    }
}

fn names(config: &Config, found: &mut Vec<ConfigError>) {
    let is_mirrored = |name: &str| config.upstream.iter().any(|upstream| *upstream.name == *name);
    for (number, namespace) in config.hosted.namespaces.iter().enumerate() {
        let first = namespace.split('/').next().unwrap_or("");
        let shadowed = match config.upstream.iter().find(|upstream| upstream.default) {
            Some(hub) if &*hub.name == "docker.io" && matches(namespace, "library/name") => "the official images",
            _ if is_mirrored(first) => "an upstream",
            _ => continue,
        };
        let fix = format!("hides {shadowed}, which are no longer mirrored; take a first component of its own");
        found.push(ConfigError::new(format!("hosted.namespaces[{number}]"), namespace, fix));
    }
    for (number, rule) in config.mirror.tag.iter().enumerate() {
        let registry = rule.pattern.split('/').next().unwrap_or("");
        if !registry.contains(['*', '[']) && !is_mirrored(registry) {
            let fix = format!("matches nothing: no [[upstream]] has the name {registry:?}");
            found.push(ConfigError::new(format!("mirror.tag[{number}].pattern"), &rule.pattern, fix));
        }
    }
    let hosted = |pattern: &String| config.hosted.namespaces.iter().any(|namespace| may_overlap(pattern, namespace));
    let pushed = accounts(config).filter(|(key, _)| !key.contains(".pull["));
    let private = keyed("hosted.private".to_owned(), &config.hosted.private);
    for (key, pattern) in pushed.chain(private).filter(|(_, pattern)| !hosted(pattern)) {
        found.push(ConfigError::new(key, pattern, "matches nothing: no entry of hosted.namespaces has such names"));
    }
    for (key, pattern) in keyed("hosted.immutable_tags".to_owned(), &config.hosted.immutable_tags) {
        let name = pattern.rsplit_once(':').map_or("", |(name, _)| name).to_owned();
        if !hosted(&name) {
            found.push(ConfigError::new(
                key,
                pattern,
                "protects nothing: no entry of hosted.namespaces has such names",
            ));
        }
    }
    // Only the name of a registry is sure to be no part of a name that another upstream has.
    let is_registry = |registry: &str| registry.contains(['.', ':']) && !registry.contains(['*', '[']);
    let images = config.policy.iter().enumerate();
    let images = images.flat_map(|(number, policy)| keyed(format!("policy[{number}].images"), &policy.images));
    let pulled = accounts(config).filter(|(key, _)| key.contains(".pull["));
    for (key, pattern) in images.chain(pulled) {
        let registry = pattern.split_once('/').map_or("", |(registry, _)| registry);
        if is_registry(registry) && !is_mirrored(registry) && !hosted(pattern) {
            let fix = format!("matches nothing: no [[upstream]] has the name {registry:?}");
            found.push(ConfigError::new(key, pattern, fix));
        }
    }
    let is_account = |name: &str| config.account.iter().any(|account| account.name == name);
    // GitLab's list has numbers of users, and the names of an htpasswd file are not read here.
    let is_known = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit()) || is_account(name);
    if config.server.htpasswd.as_os_str().is_empty() {
        let unknown = config.limits.user_allowlist.iter().enumerate().filter(|(_, name)| !is_known(name));
        for (number, name) in unknown {
            let fix = "no [[account]] has this name, so that it exempts no client";
            found.push(ConfigError::new(format!("limits.user_allowlist[{number}]"), name, fix));
        }
    }
}

/// The entries of a list with their keys.
fn keyed(key: String, list: &[String]) -> impl Iterator<Item = (String, &String)> {
    list.iter().enumerate().map(move |(number, entry)| (format!("{key}[{number}]"), entry))
}

/// All patterns of accounts.
fn accounts(config: &Config) -> impl Iterator<Item = (String, &String)> {
    config.account.iter().enumerate().flat_map(|(number, account)| {
        [("pull", &account.pull), ("push", &account.push), ("delete", &account.delete)]
            .into_iter()
            .flat_map(move |(name, list)| keyed(format!("account[{number}].{name}"), list))
    })
}

/// Whether a name can match both patterns, as far as the text before the first wildcard says.
fn may_overlap(one: &str, other: &str) -> bool {
    let literal = |pattern: &str| pattern.split(['*', '[']).next().unwrap_or("").to_owned();
    let (one, other) = (literal(one), literal(other));
    one.starts_with(&other) || other.starts_with(&one)
}

fn patterns(config: &Config, found: &mut Vec<ConfigError>) {
    let tags = config.mirror.tag.iter().enumerate();
    let tags = tags.map(|(number, rule)| (format!("mirror.tag[{number}].pattern"), &rule.pattern));
    let hosted = &config.hosted;
    let private = keyed("hosted.private".to_owned(), &hosted.private);
    let immutable = keyed("hosted.immutable_tags".to_owned(), &hosted.immutable_tags);
    let upstreams = config.upstream.iter().enumerate().flat_map(|(number, upstream)| {
        keyed(format!("upstream[{number}].allow"), &upstream.allow)
            .chain(keyed(format!("upstream[{number}].deny"), &upstream.deny))
    });
    let namespaces = config.account.iter().enumerate();
    let namespaces =
        namespaces.flat_map(|(number, account)| keyed(format!("account[{number}].namespaces"), &account.namespaces));
    let images = config.policy.iter().enumerate().flat_map(|(number, policy)| {
        keyed(format!("policy[{number}].images"), &policy.images)
            .chain(keyed(format!("policy[{number}].except"), &policy.except))
    });
    let others = upstreams.chain(namespaces).chain(images);
    for (key, pattern) in tags.chain(private).chain(immutable).chain(accounts(config)).chain(others) {
        if pattern.rfind('[') > pattern.rfind(']') {
            found.push(ConfigError::new(key, pattern, "matches nothing: the bracket is never closed; write [0-9]"));
        }
    }
}

fn times(config: &Config, now: SystemTime, found: &mut Vec<ConfigError>) {
    let mirror = &config.mirror;
    let spans = [
        ("mirror.tag_ttl", mirror.tag_ttl),
        ("mirror.stale_while_revalidate", mirror.stale_while_revalidate),
        ("mirror.stale_if_error", mirror.stale_if_error),
        ("mirror.not_found_grace", mirror.not_found_grace),
        ("mirror.negative_ttl", mirror.negative_ttl),
        ("mirror.listing_ttl", mirror.listing_ttl),
        ("storage.partial_ttl", config.storage.partial_ttl),
        ("server.drain", config.server.drain.0),
    ];
    let rules = mirror.tag.iter().enumerate();
    let rules = rules.map(|(number, rule)| (format!("mirror.tag[{number}].ttl"), rule.ttl));
    for (key, span) in spans.map(|(key, span)| (key.to_owned(), span)).into_iter().chain(rules) {
        if span > LONG {
            let fix = "longer than a year; is the unit the one that was meant?";
            found.push(ConfigError::new(key, Span(span).to_string(), fix));
        }
    }
    for (number, entry) in config.limits.allowlist.iter().enumerate() {
        if entry.expires.is_some_and(|expires| expires < now) {
            let key = format!("limits.allowlist[{number}].client");
            found.push(ConfigError::new(key, entry.client.to_string(), "this entry has expired; take it out"));
        }
    }
}

fn resources(config: &Config, found: &mut Vec<ConfigError>) {
    let floors = &config.budget.floors;
    for (key, floor, above, name) in [
        ("budget.floors.critical", floors.critical, floors.standard, "standard"),
        ("budget.floors.standard", floors.standard, floors.bulk, "bulk"),
    ] {
        if floor > above {
            let fix = format!("more than the floor of {name}, {above}: the higher class is refused first");
            found.push(ConfigError::new(key, floor, fix));
        }
    }
    if let Some(disk) = size_of_disk(&config.storage.root).filter(|disk| config.storage.capacity > *disk) {
        let fix = format!("more than the {} GiB of the disk of storage.root, whose size counts instead", disk >> 30);
        found.push(ConfigError::new("storage.capacity", Size(config.storage.capacity).to_string(), fix));
    }
    if let Some(limit) = getrlimit(Resource::Nofile).maximum
        && config.server.connections as u64 > limit / 2
    {
        let fix =
            format!("needs two open files each, and this process may have {limit}; raise the limit, or lower this");
        found.push(ConfigError::new("server.connections", config.server.connections, fix));
    }
}

/// Of the file system that `root` is on, or will be made on.
fn size_of_disk(root: &Path) -> Option<u64> {
    let absolute = std::path::absolute(root).ok()?;
    let disk = absolute.ancestors().find_map(|path| rustix::fs::statvfs(path).ok())?;
    disk.f_blocks.checked_mul(disk.f_frsize)
}
