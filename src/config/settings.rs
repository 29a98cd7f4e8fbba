//! From a configuration to what each room is given: its own `Settings` and nothing else.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use super::{Account, Config, ConfigError, ConfigErrors, Log, Role, account};
use crate::{
    admin, hosted, http,
    limits::{
        self, LimitsConfig, abuse,
        budget::Policy,
        class::Classes,
        throttle::{Mode, Rules},
    },
    mirror,
    route::Routes,
    upstream,
};

/// Everything that `main` hands out.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For the store.
    pub storage: weir_storage::Settings,
    /// For the mirror.
    pub mirror: mirror::Settings,
    /// One per upstream, in the order of the file.
    pub upstreams: Vec<upstream::Settings>,
    /// For the namespaces that live here.
    pub hosted: hosted::Settings,
    /// For the registry side.
    pub http: http::Settings,
    /// Where the registry side listens.
    pub listeners: Vec<Listen>,
    /// For the admin side.
    pub admin: admin::Settings,
    /// What is reloaded: throttles, classes, budget, bans, accounts.
    pub limits: LimitsConfig,
    /// What is logged, and how.
    pub log: Log,
}

/// A listener to be bound.
#[derive(Clone, Debug)]
pub struct Listen {
    /// The key that named it, for what goes wrong.
    pub key: String,
    /// Where.
    pub address: SocketAddr,
    /// Whether `GET /v2/` challenges.
    pub login: bool,
    /// With this, TLS is spoken.
    pub certificate: Option<Arc<http::Certificate>>,
}

impl Config {
    /// What each room is given. Reads the password files of upstream accounts, and certificates.
    ///
    /// # Errors
    /// Files that cannot be read, or do not hold what they should.
    pub fn settings(&self) -> Result<Settings, ConfigErrors> {
        Ok(Settings {
            storage: weir_storage::Settings {
                namespaces: self.hosted.namespaces.clone(),
                namespace_capacity: self.hosted.capacity.0,
                upload_sessions: self.hosted.uploads,
                upload_ttl: self.hosted.upload_ttl.0,
                unnamed_ttl: self.hosted.unnamed_ttl.0,
                ..self.storage.settings()
            },
            hosted: self.hosted.settings(),
            mirror: self.mirror.settings(),
            upstreams: self.upstream.settings()?,
            http: self.http(),
            listeners: self.listeners()?,
            admin: self.admin(),
            limits: self.limits_config()?,
            log: self.log.clone(),
        })
    }

    fn routes(&self) -> Routes {
        let default = self.upstream.0.iter().find(|upstream| upstream.default).map(|upstream| &*upstream.name);
        Routes::new(default, self.upstream.0.iter().map(|upstream| &*upstream.name)).hosting(&self.hosted.namespaces)
    }

    fn http(&self) -> http::Settings {
        http::Settings {
            workers: self.server.workers(),
            connections: self.server.connections,
            connections_per_client: self.server.connections_per_client(),
            head_timeout: self.server.head_timeout.0,
            keep_alive: self.server.keep_alive.0,
            write_stall: self.server.write_stall.0,
            body_stall: self.server.body_stall.0,
            drain: self.server.drain.0,
            routes: self.routes(),
        }
    }

    fn listeners(&self) -> Result<Vec<Listen>, ConfigErrors> {
        let mut listeners = Vec::new();
        let tls = self.server.tls.as_ref().map(|tls| tls.load("server.tls")).transpose()?;
        for address in &self.server.listen.0 {
            let key = "server.listen".to_owned();
            listeners.push(Listen { key, address: *address, login: false, certificate: tls.clone() });
        }
        for (number, listener) in self.listener.iter().enumerate() {
            let table = format!("listener[{number}]");
            let tls = listener.tls.as_ref().map(|tls| tls.load(&format!("{table}.tls"))).transpose()?;
            let key = format!("{table}.address");
            listeners.push(Listen { key, address: listener.address, login: listener.login, certificate: tls });
        }
        Ok(listeners)
    }

    fn admin(&self) -> admin::Settings {
        let (public, public_is_https) = (self.admin.public_host(), self.admin.public_url.starts_with("https:"));
        admin::Settings {
            hosts: admin::AllowedHosts { listen: self.admin.listen, public, public_is_https },
            login: !self.admin.listen.ip().is_loopback(),
            routes: self.routes(),
        }
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

    /// What is reloaded together or not at all. Reads the htpasswd file.
    ///
    /// # Errors
    /// What is wrong, with its key.
    pub fn limits_config(&self) -> Result<LimitsConfig, ConfigErrors> {
        let throttles = Rules::new(&self.throttle, &self.limits.dry_run, Rules::CEILING)?;
        let classes = Classes(self.class.clone());
        let trusted_proxies: Vec<_> = self.server.trusted_proxies.iter().map(|network| network.0).collect();
        let mut accounts: Vec<_> = self.account.iter().map(Account::principal).collect();
        if !self.server.htpasswd.as_os_str().is_empty() {
            let users = account::htpasswd(&self.server.htpasswd)
                .map_err(|error| ConfigError::without_value("server.htpasswd", error))?;
            // An [[account]] is the operator's word on a user of the same name.
            let known = |user: &limits::Account| self.account.iter().any(|account| *account.name == *user.name);
            accounts.extend(users.into_iter().filter(|user| !known(user)));
        }
        let mode = match self.ban.mode {
            Mode::Enforce if self.limits.bans_are_dry() => Mode::DryRun,
            mode => mode,
        };
        // A network whose owner is an admin is where operators sit.
        let admins = self.account.iter().filter(|account| account.role == Role::Admin);
        let of_admins = admins.flat_map(|account| account.networks.iter().map(|network| network.0));
        let exempt = trusted_proxies.iter().copied().chain(of_admins).collect();
        Ok(LimitsConfig {
            throttles,
            budget: Policy::new(&self.budget, &classes),
            classes,
            abuse: abuse::Settings { mode, exempt, ..self.ban.clone() },
            allowlist: self.limits.allowlist(),
            trusted_proxies,
            bypass_header: self.limits.bypass_header.to_ascii_lowercase(),
            token_header: self.server.token_header.to_ascii_lowercase(),
            response_text: self.limits.response_text.clone(),
            public_url: self.admin.public_url.clone(),
            accounts: accounts.into(),
        })
    }
}
