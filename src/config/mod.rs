//! `deploy.toml` and the environment become typed settings; every default stands once.
//!
//! A table is the `Settings` of the part that uses it, which gives it defaults and says all that is wrong with it. What stands
//! here are the tables that several parts share, and what two tables say about each other. [`Settings::new`] then gives every
//! part its own: no part sees a [`Config`], and none reads the file or the environment by itself.
//!
//! What is not known is refused, never silently ignored: a throttle with a mistyped name would be found out by the
//! upstream's bill.

mod account;
mod admin;
mod effective;
mod listener;
mod networks;
mod overlay;
mod places;
mod serde_messages;
mod server;
mod settings;
mod tls;
mod warnings;
mod watch;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use toml::de::DeTable;

use crate::{
    hosted,
    limits::{self, abuse, budget, class::ClassRule, throttle::Throttle},
    mirror, policy, telemetry, upstream,
};

pub use self::{
    account::Account,
    admin::Admin,
    effective::{effective, in_force, needs_restart},
    listener::Listener,
    places::Places,
    server::Server,
    settings::{Listen, Settings, limits_config, policies, read_list, upstreams, warm_schedules},
    tls::Tls,
    warnings::warnings,
    watch::Watch,
};
pub use crate::limits::Role;
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
    pub storage: weir_storage::Settings,
    /// What several replicas share.
    pub shared: weir_shared::Settings,
    /// Freshness, and how much goes on at once.
    pub mirror: mirror::Settings,
    /// Registries that are mirrored.
    pub upstream: Vec<upstream::Settings>,
    /// Lists that are warmed at an hour.
    pub warm: Vec<mirror::warm::Table>,
    /// What images are held to.
    pub policy: Vec<policy::Table>,
    /// What looks for vulnerabilities.
    pub scanner: policy::ScannerSettings,
    /// Namespaces that live here.
    pub hosted: hosted::Settings,
    /// How often a client may ask.
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
    /// Where each value was written.
    #[serde(skip)]
    pub places: Places,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            throttle: Throttle::defaults(),
            server: Server::default(),
            listener: Vec::new(),
            admin: Admin::default(),
            account: Vec::new(),
            storage: weir_storage::Settings::default(),
            shared: weir_shared::Settings::default(),
            mirror: mirror::Settings::default(),
            upstream: upstream::Settings::defaults(),
            warm: Vec::new(),
            policy: Vec::new(),
            scanner: policy::ScannerSettings::default(),
            hosted: hosted::Settings::default(),
            limits: limits::Settings::default(),
            budget: budget::Settings::default(),
            class: Vec::new(),
            ban: abuse::Settings::default(),
            log: telemetry::Settings::default(),
            noticed: Vec::new(),
            places: Places::default(),
        }
    }
}

/// A configuration as far as it could be read, with all that is wrong with it.
#[derive(Clone, Debug)]
pub struct Draft {
    /// What is written where it is right, and the defaults elsewhere.
    pub config: Config,
    /// What is wrong.
    pub errors: Vec<ConfigError>,
    /// Whether nothing was left out for being of the wrong kind. If not, a table may name what another one lacks for that reason alone.
    pub is_whole: bool,
}

impl Draft {
    fn into_config(self) -> Result<Config, ConfigErrors> {
        if self.errors.is_empty() { Ok(self.config) } else { Err(ConfigErrors(self.errors)) }
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
        Config::draft(file, environment)?.into_config()
    }

    /// As [`Config::load`], but with what is right beside what is wrong.
    ///
    /// # Errors
    /// A file that cannot be read, or is no TOML.
    pub fn draft(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Draft, ConfigErrors> {
        let text = match file {
            None => String::new(),
            Some(file) => std::fs::read_to_string(file).map_err(|error| {
                ConfigError::without_value(
                    "",
                    format!("{}: {error}; name a readable file with --config", file.display()),
                )
            })?,
        };
        Config::read_file(file, &text, environment)
    }

    /// As [`Config::load`], of text that was read already.
    ///
    /// # Errors
    /// As of [`Config::load`].
    pub fn read(text: &str, environment: impl IntoIterator<Item = (String, String)>) -> Result<Config, ConfigErrors> {
        Config::read_file(None, text, environment)?.into_config()
    }

    fn read_file(
        file: Option<&Path>,
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Draft, ConfigErrors> {
        let (spanned, mistakes) = DeTable::parse_recoverable(text);
        let syntax = |mistake: toml::de::Error| {
            let at = mistake.span().map_or(0, |span| span.start);
            let place = file.map(|file| places::line(file, text, at));
            ConfigError { place, ..ConfigError::without_value("", mistake.to_string().trim_end()) }
        };
        if !mistakes.is_empty() {
            let mut errors: Vec<_> = mistakes.into_iter().map(syntax).collect();
            // Further ones of the same line follow from the first.
            errors.dedup_by(|later, earlier| later.place.is_some() && later.place == earlier.place);
            return Err(ConfigErrors(errors));
        }
        let (mut places, mut noticed, mut errors) = (Places::default(), Vec::new(), Vec::new());
        if let Some(file) = file {
            places.add_file(file, text, spanned.get_ref());
        }
        let mut table: toml::Table = text.parse().map_err(|mistake| ConfigErrors::from(syntax(mistake)))?;
        let known = known();
        let others = overlay::lay_over(&mut table, environment, &known, &mut places, &mut noticed, &mut errors);
        networks::untruncated(&toml::Value::Table(table.clone()), "", &mut noticed);
        let config = Config::typed(table, &known, others, &mut errors);
        // What was left out may be what another table names.
        let is_whole = errors.is_empty();
        errors.extend(config.check(is_whole));
        noticed.iter_mut().for_each(|notice| places.name_one(notice));
        let errors = places.name(ConfigErrors(errors)).0;
        Ok(Draft { config: Config { noticed, places, ..config }, errors, is_whole })
    }

    /// What `table` says. What is of the wrong kind is left out, and goes to `errors`.
    fn typed(
        mut table: toml::Table,
        known: &toml::Value,
        mut others: overlay::OtherKinds,
        errors: &mut Vec<ConfigError>,
    ) -> Config {
        loop {
            let error = match serde_path_to_error::deserialize(toml::Value::Table(table.clone())) {
                Ok(config) => return config,
                Err(error) => error,
            };
            let key = error.path().to_string();
            if let Some(other) = others.get_mut(&key).and_then(Vec::pop)
                && let Some(value) = overlay::find_mut(&mut table, &key)
            {
                *value = other;
                continue;
            }
            let value = overlay::find(&table, &key);
            let said = error.inner().message();
            let fix = serde_messages::fix(said, &key, value, overlay::default_of(known, &key).as_ref());
            // What is missing because it was left out is no second mistake.
            let missing = said.strip_prefix("missing field `").and_then(|name| name.strip_suffix('`'));
            let is_known = |name| errors.iter().any(|error| error.key == format!("{key}.{name}"));
            if !missing.is_some_and(is_known) {
                errors.push(match value {
                    // A secret under a mistyped key is still a secret.
                    Some(value) if !value.is_table() && !key.contains("password") && !holds_a_password(value) => {
                        ConfigError { value: Some(value.to_string()), ..ConfigError::without_value(&key, fix) }
                    }
                    _ => ConfigError::without_value(&key, fix),
                });
            }
            if !overlay::take_out(&mut table, &key) {
                return Config::default();
            }
        }
    }

    /// Every address that is listened on, with its key.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        let server = self.server.listen.0.iter().map(|address| ("server.listen".to_owned(), *address));
        let more = self.listener.iter().enumerate();
        let more = more.map(|(number, listener)| (format!("listener[{number}].address"), listener.address));
        server.chain(more).chain([("admin.listen".to_owned(), self.admin.listen)]).collect()
    }

    /// The local socket of the admin API.
    pub fn admin_socket(&self) -> PathBuf {
        match self.admin.socket.as_os_str().is_empty() {
            true => self.storage.root.join("weir.sock"),
            false => self.admin.socket.clone(),
        }
    }

    /// Everything that a type cannot say; what two tables say about each other only of a configuration that is whole.
    fn check(&self, is_whole: bool) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        self.server.check(&mut errors);
        listener::check(&self.listener, &mut errors);
        self.admin.check(&mut errors);
        account::check(&self.account, &mut errors);
        errors.extend(self.storage.validate());
        errors.extend(self.shared.validate());
        errors.extend(self.mirror.validate());
        errors.extend(upstream::Settings::validate(&self.upstream));
        errors.extend(self.hosted.validate());
        errors.extend(Throttle::validate(&self.throttle));
        errors.extend(self.limits.validate());
        errors.extend(self.budget.validate());
        errors.extend(ClassRule::validate(&self.class));
        errors.extend(self.ban.validate());
        errors.extend(self.log.validate());
        errors.extend(policy::Table::validate(&self.policy));
        errors.extend(self.scanner.validate());
        if is_whole {
            listener::check_apart(&self.addresses(), &mut errors);
            self.admin.check_login(&self.account, &mut errors);
            account::check_classes(&self.account, &self.class, &mut errors);
        }
        errors
    }
}

/// The defaults as a table, with what has none filled in: they say of what kind a value is.
fn known() -> toml::Value {
    let mut config = Config::default();
    config.server.connections_per_client = Some(1);
    config.server.tls = Some(Tls { cert: PathBuf::new(), key: PathBuf::new() });
    config.admin.tls.clone_from(&config.server.tls);
    config.shared.s3 = Some(weir_shared::S3::default());
    config.shared.redis = Some(weir_shared::Redis::default());
    config.shared.peers = Some(weir_shared::Peers::default());
    toml::Value::try_from(config).unwrap_or(toml::Value::Table(toml::Table::new()))
}

/// A URL with a user in it: what stands there may be a password.
fn holds_a_password(value: &toml::Value) -> bool {
    value.as_str().is_some_and(|text| text.contains("://") && text.contains('@'))
}

#[cfg(test)]
mod tests;
