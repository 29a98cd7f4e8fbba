//! `weir check`: says what is wrong with a configuration, or what it comes to.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    time::SystemTime,
};

use clap::Args;
use rustix::fs::{Access, AtFlags, CWD, accessat, statfs};
use serde_json::json;
use weir_shared::{Bucket, PeerSecret, RedisClient};

use super::{Failure, config::is_below, describe::describe, say};
use crate::config::{Config, ConfigError, ConfigErrors, Draft, Settings, policies, upstreams, warnings};

/// How to print it.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Print errors and warnings as JSON
    #[arg(long)]
    json: bool,
}

/// Says all that is wrong with what the arguments and the environment name, or what it comes to.
pub(super) fn run(arguments: &Arguments, draft: Result<Draft, ConfigErrors>) -> Result<(), Failure> {
    let Draft { config, mut errors, is_whole } = match draft {
        Ok(draft) => draft,
        Err(unreadable) => return answer(arguments, &unreadable.0, &[]),
    };
    let found = unusable(&config, is_whole);
    // What is wrong with a value is said once.
    let is_said = |found: &ConfigError| errors.iter().any(|said| is_below(&found.key, &said.key));
    let found: Vec<_> = found.into_iter().filter(|found| !is_said(found)).collect();
    errors.extend(found);
    if errors.is_empty() {
        errors.extend(config.places.name(ConfigErrors(cannot_share(&config))).0);
    }
    let warnings = if is_whole { warnings(&config, SystemTime::now()) } else { config.noticed.clone() };
    answer(arguments, &errors, &warnings)?;
    if !arguments.json {
        say(&format!("the configuration is fine\n{}", describe(&config)))?;
    }
    Ok(())
}

/// Prints what was found; a failure when there are errors.
fn answer(arguments: &Arguments, errors: &[ConfigError], warnings: &[ConfigError]) -> Result<(), Failure> {
    if arguments.json {
        say(&as_json(errors, warnings))?;
    } else {
        say(&warnings.iter().map(|warning| format!("warning: {warning}\n")).collect::<String>())?;
    }
    match errors {
        [] => Ok(()),
        _ if arguments.json => Err(Failure { reason: String::new(), status: 1 }),
        errors => Err(ConfigErrors(errors.to_vec()).to_string().into()),
    }
}

/// Errors and warnings with the place, key and value of each, for `--json`.
fn as_json(errors: &[ConfigError], warnings: &[ConfigError]) -> String {
    let one = |error: &ConfigError| json!({"place": error.place, "key": error.key, "value": error.value, "problem": error.fix});
    let list = |errors: &[ConfigError]| errors.iter().map(one).collect::<Vec<_>>();
    format!("{:#}\n", json!({"errors": list(errors), "warnings": list(warnings)}))
}

/// What would fail at the start, though the configuration itself is right: password files and certificates, the data directory, addresses.
/// Of one that is not whole, only what one table alone says is looked at.
fn unusable(config: &Config, is_whole: bool) -> Vec<ConfigError> {
    let mut errors = match is_whole {
        true => Settings::new(config).err().map_or_else(Vec::new, |errors| errors.0),
        false => {
            let (upstreams, policies) = (upstreams(config).err(), policies(config).err());
            upstreams.into_iter().chain(policies).flat_map(|errors| errors.0).collect()
        }
    };
    errors.extend(unusable_root(&config.storage.root));
    errors.extend(config.addresses().into_iter().filter_map(|(key, address)| cannot_listen(key, address)));
    config.places.name(ConfigErrors(errors)).0
}

/// What is wrong with an address that this machine lacks. The port may be in use: a Weir that runs has it.
fn cannot_listen(key: String, address: SocketAddr) -> Option<ConfigError> {
    let error = TcpListener::bind((address.ip(), 0)).err()?;
    let fix = format!("{error}; write an address of this machine, or 0.0.0.0 for all");
    Some(ConfigError::new(key, address.to_string(), fix))
}

/// What is wrong with the engines that replicas are to share: each is connected to and tried out, under keys that are removed again.
fn cannot_share(config: &Config) -> Vec<ConfigError> {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return vec![ConfigError::without_value("shared", error.to_string())],
    };
    let bucket = config.shared.s3.as_ref().and_then(|s3| match Bucket::open(s3) {
        Ok(bucket) => {
            let unfit = runtime.block_on(bucket.probe()).err()?;
            Some(ConfigError::new("shared.s3.bucket", &s3.bucket, unfit.to_string()))
        }
        Err(error) => Some(error),
    });
    let redis = config.shared.redis.as_ref().and_then(|redis| match RedisClient::open(redis) {
        Ok(client) => {
            let error = runtime.block_on(client.probe()).err()?;
            Some(ConfigError::new("shared.redis.url", &redis.url, error.to_string()))
        }
        Err(error) => Some(error),
    });
    let secret = config.shared.peers.as_ref().and_then(|peers| PeerSecret::read(peers).err());
    bucket.into_iter().chain(redis).chain(secret).collect()
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
