//! `deploy.toml` and the environment become typed settings; every default stands once, here.
//!
//! There is one file per table. Each holds the table as it is written ([`Config`] and its parts, what serde reads), its
//! defaults, and `check`, which says all that is wrong with it. [`Config::settings`] then gives every room its own
//! `Settings`: no room sees a [`Config`], and none reads a file or the environment by itself.
//!
//! What is not known is refused, never silently ignored: a throttle with a mistyped name would be found out by the
//! upstream's bill.

mod account;
mod admin;
mod hosted;
mod listener;
mod mirror;
mod networks;
mod overlay;
mod serde_messages;
mod server;
mod settings;
mod storage;
mod tls;
mod upstream;
mod warnings;
mod watch;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    limits::{self, abuse, budget, class::ClassRule, throttle::Throttle},
    telemetry,
};

pub use self::{
    account::{Account, Role},
    admin::Admin,
    hosted::Hosted,
    listener::Listener,
    mirror::{Mirror, TagRule},
    server::Server,
    settings::{Listen, Settings, limits_config},
    storage::Storage,
    tls::Tls,
    upstream::Upstreams,
    warnings::warnings,
    watch::Watch,
};
pub use crate::setting::{ConfigError, ConfigErrors, Network, OneOrMany, Size, Span};

/// The commented default configuration, which is also what `weir` runs without a file. A test holds it to the code.
pub const DEPLOY_TOML: &str = include_str!("../../deploy.toml");

/// A configuration as it is written. Unknown keys are refused in every table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The registry's listener.
    pub server: Server,
    /// More listeners.
    pub listener: Vec<Listener>,
    /// The second listener: health, metrics, JSON API.
    pub admin: Admin,
    /// People and robots.
    pub account: Vec<Account>,
    /// The disk.
    pub storage: Storage,
    /// Freshness, and how much goes on at once.
    pub mirror: Mirror,
    /// Registries that are mirrored.
    pub upstream: Upstreams,
    /// Namespaces that live here.
    pub hosted: Hosted,
    /// How often a client may ask.
    #[serde(default = "Throttle::defaults")]
    pub throttle: Vec<Throttle>,
    /// What is common to all throttles.
    pub limits: limits::Settings,
    /// How the upstream budget is shared.
    pub budget: budget::Settings,
    /// Whose pulls matter how much.
    pub class: Vec<ClassRule>,
    /// Turning clients away.
    pub ban: abuse::Settings,
    /// What is logged, and how.
    pub log: telemetry::Settings,
    /// What was odd about the file and the environment themselves; see [`warnings()`].
    #[serde(skip)]
    pub noticed: Vec<ConfigError>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            throttle: Throttle::defaults(),
            server: Server::default(),
            listener: Vec::new(),
            admin: Admin::default(),
            account: Vec::new(),
            storage: Storage::default(),
            mirror: Mirror::default(),
            upstream: Upstreams::default(),
            hosted: Hosted::default(),
            limits: limits::Settings::default(),
            budget: budget::Settings::default(),
            class: Vec::new(),
            ban: abuse::Settings::default(),
            log: telemetry::Settings::default(),
            noticed: Vec::new(),
        }
    }
}

impl Config {
    /// Reads `file` (or takes the defaults when there is none), lays the environment over it and checks the whole.
    ///
    /// # Errors
    /// All that is wrong, each with its key, its value and what to write instead.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, ConfigErrors> {
        let text = match file {
            None => String::new(),
            Some(file) => std::fs::read_to_string(file).map_err(|error| {
                ConfigError::without_value(
                    "",
                    format!("{}: {error}; name a readable file with --config", file.display()),
                )
            })?,
        };
        Config::read(&text, environment)
    }

    /// As [`Config::load`], of text that was read already.
    pub fn read(text: &str, environment: impl IntoIterator<Item = (String, String)>) -> Result<Config, ConfigErrors> {
        let mut table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| ConfigError::without_value("", error.to_string().trim_end()))?;
        let known = known();
        let mut noticed = overlay::lay_over(&mut table, environment, &known)?;
        let mut config: Config =
            serde_path_to_error::deserialize(toml::Value::Table(table.clone())).map_err(|error| {
                let key = error.path().to_string();
                let value = overlay::find(&table, &key);
                let fix = serde_messages::fix(
                    error.inner().message(),
                    &key,
                    value,
                    overlay::default_of(&known, &key).as_ref(),
                );
                match value {
                    // A secret under a mistyped key is still a secret.
                    Some(value) if !value.is_table() && !key.contains("password") && !holds_a_password(value) => {
                        ConfigError { key, value: Some(value.to_string()), fix }
                    }
                    _ => ConfigError::without_value(key, fix),
                }
            })?;
        networks::untruncated(&toml::Value::Table(table), "", &mut noticed);
        config.noticed = noticed;
        let errors = config.check();
        if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
    }

    /// The local socket of the admin API.
    pub fn admin_socket(&self) -> PathBuf {
        match self.admin.socket.as_os_str().is_empty() {
            true => self.storage.root.join("weir.sock"),
            false => self.admin.socket.clone(),
        }
    }

    /// Whether something changed that is read at start only.
    pub fn needs_restart_after(&self, old: &Config) -> bool {
        let mut same = self.clone();
        same.noticed.clone_from(&old.noticed);
        same.throttle.clone_from(&old.throttle);
        same.limits.clone_from(&old.limits);
        same.budget.clone_from(&old.budget);
        same.class.clone_from(&old.class);
        same.ban.clone_from(&old.ban);
        same.account.clone_from(&old.account);
        same.server.trusted_proxies.clone_from(&old.server.trusted_proxies);
        same.server.token_header.clone_from(&old.server.token_header);
        same.server.htpasswd.clone_from(&old.server.htpasswd);
        same != *old
    }

    /// Everything that a type cannot say.
    fn check(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        self.server.check(&mut errors);
        listener::check(&self.listener, &mut errors);
        listener::check_apart(&self.server.listen.0, &self.listener, self.admin.listen, &mut errors);
        self.admin.check(&self.account, &mut errors);
        account::check(&self.account, &mut errors);
        self.storage.check(&mut errors);
        self.mirror.check(&mut errors);
        self.upstream.check(&mut errors);
        self.hosted.check(&mut errors);
        errors.extend(Throttle::validate(&self.throttle));
        errors.extend(self.limits.validate());
        errors.extend(self.budget.validate());
        errors.extend(ClassRule::validate(&self.class));
        account::check_classes(&self.account, &self.class, &mut errors);
        errors.extend(self.ban.validate());
        errors.extend(self.log.validate());
        errors
    }
}

/// The defaults as a table, with what has none filled in: they say of what kind a value is.
fn known() -> toml::Value {
    let mut config = Config::default();
    config.server.connections_per_client = Some(1);
    config.server.tls = Some(Tls { cert: PathBuf::new(), key: PathBuf::new() });
    toml::Value::try_from(config).unwrap_or(toml::Value::Table(toml::Table::new()))
}

/// A URL with a user in it: what stands there may be a password.
fn holds_a_password(value: &toml::Value) -> bool {
    value.as_str().is_some_and(|text| text.contains("://") && text.contains('@'))
}

#[cfg(test)]
mod tests;
