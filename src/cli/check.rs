//! `weir check`: says what is wrong with a configuration, or what it comes to.

use std::{
    fmt::Write,
    net::{SocketAddr, TcpListener},
    path::Path,
    time::SystemTime,
};

use rustix::fs::{Access, AtFlags, CWD, accessat, statfs};

use super::say;
use crate::config::{Config, ConfigError, Settings, warnings};

pub(super) fn run(config: &Config) -> Result<(), String> {
    // Password files and certificates are part of a configuration that works.
    let settings = Settings::new(config).map_err(|errors| errors.to_string())?;
    if let Some(error) = unusable_root(&config.storage.root) {
        return Err(config.places.name(error.into()).to_string());
    }
    for listen in settings
        .listeners
        .iter()
        .map(|listen| (&*listen.key, listen.address))
        .chain([("admin.listen", config.admin.listen)])
    {
        can_listen(listen.0, listen.1)?;
    }
    let mut text = String::new();
    for warning in warnings(config, SystemTime::now()) {
        let _ = writeln!(text, "warning: {warning}");
    }
    text.push_str("the configuration is fine\n");
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
    for throttle in &config.throttle {
        let (name, mode) = (&throttle.name, throttle.mode.as_str());
        let _ =
            writeln!(text, "  {name}: {} in {} s, {mode}", throttle.requests_per_period, throttle.period_in_seconds);
    }
    say(&text)
}

/// Whether this machine has the address. The port may be in use: a Weir that runs has it.
fn can_listen(key: &str, address: SocketAddr) -> Result<(), String> {
    match TcpListener::bind((address.ip(), 0)) {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(format!("{key} = \"{address}\": {error}; write an address of this machine, or 0.0.0.0 for all"))
        }
    }
}

/// What is wrong with the data directory as the disk is now: it, or what it would be made in, is no directory that this user may write in.
/// Nothing is made.
fn unusable_root(root: &Path) -> Option<ConfigError> {
    let error = |fix: String| Some(ConfigError::new("storage.root", root, fix));
    let absolute = match std::path::absolute(root) {
        Ok(absolute) => absolute,
        Err(found) => return error(format!("{found}; name a directory by its absolute path")),
    };
    let there = absolute.ancestors().find_map(|path| match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        about => Some((path, about)),
    });
    let (path, about) = there?;
    match about {
        Err(found) => error(format!("{}: {found}; name a directory", path.display())),
        Ok(_) if is_of_the_kernel(path) => {
            error(format!("{} is a view of the kernel and keeps no files; name another directory", path.display()))
        }
        Ok(about) if !about.is_dir() => error(format!("{} is no directory; name one", path.display())),
        Ok(_) => match accessat(CWD, path, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) => None,
            Err(found) => error(format!(
                "{} may not be written in ({}); give it to the user that runs weir, or name another directory",
                path.display(),
                std::io::Error::from(found)
            )),
        },
    }
}

/// Whether a path is on a file system without files of its own, such as /proc, where no directory can be made.
fn is_of_the_kernel(path: &Path) -> bool {
    /// proc, sysfs, cgroup, cgroup2, devpts, debugfs, tracefs, securityfs, bpf: from linux/magic.h.
    const MAGIC: [u64; 9] =
        [0x9fa0, 0x6265_6572, 0x27_e0eb, 0x6367_7270, 0x1cd1, 0x6462_6720, 0x7472_6163, 0x7363_6673, 0xcafe_4a11];
    statfs(path).is_ok_and(|about| MAGIC.contains(&(about.f_type as u64)))
}
