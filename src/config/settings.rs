//! From a configuration to what each room is given: its own `Settings` and nothing else.

use std::{net::SocketAddr, sync::Arc};

use super::{Account, Config, Log, Mistakes, Role};
use crate::{admin, hosted, http, limits::budget::Floors, mirror, route::Routes, upstream};

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
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

impl Config {
    /// What each room is given. Reads the password files of upstream accounts, and certificates.
    ///
    /// # Errors
    /// Files that cannot be read, or do not hold what they should.
    pub fn settings(&self) -> Result<Settings, Mistakes> {
        let mut mistakes = Vec::new();
        let upstreams = self.upstream.0.iter().enumerate();
        let upstreams = upstreams.filter_map(|(number, upstream)| upstream.settings(number, &mut mistakes)).collect();
        if !mistakes.is_empty() {
            return Err(Mistakes(mistakes));
        }
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
            upstreams,
            http: self.http(),
            listeners: self.listeners()?,
            admin: self.admin(),
            log: self.log.clone(),
        })
    }

    fn routes(&self) -> Routes {
        let default = self.upstream.0.iter().find(|upstream| upstream.default).map(|upstream| &*upstream.name);
        Routes::new(default, self.upstream.0.iter().map(|upstream| &*upstream.name)).hosting(&self.hosted.namespaces)
    }

    fn http(&self) -> http::Settings {
        let account = |account: &Account| http::Account {
            name: account.name.as_str().into(),
            password_hash: account.password_hash.as_str().into(),
            pull: account.pull.clone().into(),
            push: account.push.clone().into(),
            delete: account.delete.clone().into(),
        };
        http::Settings {
            workers: self.server.workers(),
            connections: self.server.connections,
            head_timeout: self.server.head_timeout.0,
            keep_alive: self.server.keep_alive.0,
            write_stall: self.server.write_stall.0,
            body_stall: self.server.body_stall.0,
            drain: self.server.drain.0,
            trusted_proxies: self.server.trusted_proxies.iter().map(|network| network.0).collect(),
            accounts: self.account.iter().map(account).collect(),
            routes: self.routes(),
        }
    }

    fn listeners(&self) -> Result<Vec<Listen>, Mistakes> {
        let mut listeners = Vec::new();
        let tls = self.server.tls.as_ref().map(|tls| tls.load("server.tls")).transpose()?;
        for address in &self.server.listen.0 {
            let key = "server.listen".to_owned();
            listeners.push(Listen { key, address: *address, login: false, tls: tls.clone() });
        }
        for (number, listener) in self.listener.iter().enumerate() {
            let table = format!("listener[{number}]");
            let tls = listener.tls.as_ref().map(|tls| tls.load(&format!("{table}.tls"))).transpose()?;
            let key = format!("{table}.address");
            listeners.push(Listen { key, address: listener.address, login: listener.login, tls });
        }
        Ok(listeners)
    }

    fn admin(&self) -> admin::Settings {
        let admins = self.account.iter().filter(|account| account.role == Role::Admin);
        admin::Settings {
            hosts: admin::Hosts { listen: self.admin.listen, public: self.admin.public_host() },
            admins: admins
                .map(|account| admin::Account {
                    name: account.name.as_str().into(),
                    password_hash: account.password_hash.as_str().into(),
                })
                .collect(),
            login: !self.admin.listen.ip().is_loopback(),
            routes: self.routes(),
            floors: Floors {
                critical: self.budget.floors.critical,
                standard: self.budget.floors.standard,
                bulk: self.budget.floors.bulk,
            },
        }
    }
}
