//! What a configuration comes to, in lines for people: the rest of what `weir check` prints.

use std::{fmt::Write, path::Path};

use rustix::fs::statvfs;
use serde_json::json;

use super::output::bytes;
use crate::{
    config::{Config, Size, Tls},
    limits::class::ClassRule,
};

/// One line for each thing that is served, kept, mirrored, shared or limited. Asks the system how much of the disk is free.
pub(super) fn describe(config: &Config) -> String {
    let mut text = String::new();
    listeners(config, &mut text);
    storage(config, &mut text);
    upstreams(config, &mut text);
    clients(config, &mut text);
    text
}

fn listeners(config: &Config, text: &mut String) {
    let over = |tls: &Option<Tls>| if tls.is_some() { ", over TLS" } else { "" };
    for address in &config.server.listen.0 {
        let _ = writeln!(text, "  serves registry clients on {address}{}", over(&config.server.tls));
    }
    for listener in &config.listener {
        let login = if listener.login { ", with a login" } else { "" };
        let _ = writeln!(text, "  serves registry clients on {}{}{login}", listener.address, over(&listener.tls));
    }
    let login = if config.admin.listen.ip().is_loopback() { "" } else { ", with a login" };
    let _ = writeln!(text, "  serves operators on {}{}{login}", config.admin.listen, over(&config.admin.tls));
}

fn storage(config: &Config, text: &mut String) {
    let (root, capacity) = (&config.storage.root, Size(config.storage.capacity));
    let root = std::path::absolute(root).unwrap_or_else(|_| root.clone());
    let free =
        free_on_disk(&root).map_or_else(String::new, |free| format!(", on a disk with {} free", bytes(&json!(free))));
    let _ = writeln!(text, "  keeps at most {capacity} in {}{free}", root.display());
    if !config.hosted.namespaces.is_empty() {
        let _ = writeln!(text, "  hosts {}", config.hosted.namespaces.join(", "));
    }
    if let Some(s3) = &config.shared.s3 {
        let _ = writeln!(text, "  shares the bucket {}, which can do what replicas need", s3.bucket);
    }
    if let Some(redis) = &config.shared.redis {
        let _ = writeln!(text, "  agrees with other replicas who asks upstream over {}", redis.url);
    }
    if let Some(peers) = &config.shared.peers {
        let _ = writeln!(text, "  gives other replicas what arrives, by {}", peers.url);
    }
}

fn upstreams(config: &Config, text: &mut String) {
    for upstream in &config.upstream {
        let default = if upstream.default { ", names without a registry too" } else { "" };
        let accounts = match upstream.accounts.len() {
            0 => "anonymously".to_owned(),
            count => format!("anonymously and as {count} of ours"),
        };
        let _ = writeln!(text, "  mirrors {} from {} {accounts}{default}", upstream.name, upstream.url);
        if upstream.allow != ["*"] {
            let _ = writeln!(text, "    of it {} alone", upstream.allow.join(", "));
        }
        if !upstream.deny.is_empty() {
            let _ = writeln!(text, "    but not {}", upstream.deny.join(", "));
        }
    }
}

fn clients(config: &Config, text: &mut String) {
    for account in &config.account {
        let _ = writeln!(text, "  account {}: {}", account.name, account.role.word());
    }
    for class in &config.class {
        let _ = writeln!(text, "  class {}: {}", class.class.word(), clients_of(class));
    }
    for throttle in &config.throttle {
        let (name, mode) = (&throttle.name, throttle.mode.as_str());
        let _ =
            writeln!(text, "  {name}: {} in {} s, {mode}", throttle.requests_per_period, throttle.period_in_seconds);
    }
}

/// Of which clients a rule of a class speaks.
fn clients_of(rule: &ClassRule) -> String {
    let networks = rule.cidr.iter().map(ToString::to_string);
    let accounts = rule.accounts.iter().map(|name| format!("account {name}"));
    let agent = Some(&rule.user_agent).filter(|agent| !agent.is_empty());
    let agent = agent.map(|agent| format!("a User-Agent with {agent:?}"));
    networks.chain(accounts).chain(agent).collect::<Vec<_>>().join(", ")
}

/// Bytes that this user may still write on the file system that `root` is on, or will be made on.
fn free_on_disk(root: &Path) -> Option<u64> {
    let disk = root.ancestors().find_map(|path| statvfs(path).ok())?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}
