//! From a configuration to what each part of Weir is given: its own `Settings` and nothing else.

use std::{net::SocketAddr, sync::Arc};

use super::{Account, Config, ConfigError, ConfigErrors, account};
use crate::{
    admin, hosted, http,
    limits::{
        self, LimitsConfig, Role, abuse,
        budget::Policy,
        class::Classes,
        repositories::RepositoryRules,
        throttle::{Mode, Rules},
    },
    mirror, policy,
    route::{Routes, SharedRoutes},
    telemetry, upstream,
};

/// Everything that `main` hands out.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For the store.
    pub storage: weir_storage::Settings,
    /// What it shares with other replicas.
    pub shared: weir_shared::Settings,
    /// For the mirror.
    pub mirror: mirror::Settings,
    /// One per upstream, in the order of the file.
    pub upstreams: Vec<upstream::Settings>,
    /// For the namespaces that live here.
    pub hosted: hosted::Settings,
    /// Where names lead, as both sides share it; reloaded.
    pub routes: SharedRoutes,
    /// For the registry side.
    pub http: http::Settings,
    /// Where the registry side listens.
    pub listeners: Vec<Listen>,
    /// For the admin side.
    pub admin: admin::Settings,
    /// That of the admin side, which is reloaded with those of the listeners.
    pub admin_certificate: Option<Arc<http::Certificate>>,
    /// What is warmed by itself, and how names are read; reloaded too.
    pub warm: (Vec<mirror::warm::Schedule>, Routes),
    /// What images are held to; reloaded too.
    pub policy: policy::Policies,
    /// What is reloaded: throttles, classes, budget, bans, accounts.
    pub limits: LimitsConfig,
    /// What is logged, and how.
    pub log: telemetry::Settings,
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

impl Settings {
    /// What each part is given. Reads the password files of upstream accounts, and certificates.
    ///
    /// # Errors
    /// Files that cannot be read, or do not hold what they should.
    pub fn new(config: &Config) -> Result<Settings, ConfigErrors> {
        Settings::read(config).map_err(|errors| config.places.name(errors))
    }

    fn read(config: &Config) -> Result<Settings, ConfigErrors> {
        let mut errors = Vec::new();
        let parts = (
            noting(read_upstreams(config), &mut errors),
            noting(admin_tls(config), &mut errors),
            noting(listeners(config), &mut errors),
            noting(read_limits(config), &mut errors),
            noting(read_schedules(config), &mut errors),
            noting(read_policies(config), &mut errors),
        );
        let (Some(upstreams), Some((admin_certificate, tls)), Some(listeners), Some(limits), Some(warm), Some(policy)) =
            parts
        else {
            return Err(ConfigErrors(errors));
        };
        let routes = SharedRoutes::from(routes(config));
        Ok(Settings {
            storage: weir_storage::Settings {
                namespaces: config.hosted.namespaces.clone(),
                namespace_capacity: config.hosted.capacity,
                upload_sessions: config.hosted.uploads,
                upload_ttl: config.hosted.upload_ttl,
                unnamed_ttl: config.hosted.unnamed_ttl,
                ..config.storage.clone()
            },
            shared: config.shared.clone(),
            hosted: config.hosted.clone(),
            mirror: config.mirror.clone(),
            upstreams,
            http: http(config, routes.clone()),
            listeners,
            admin: admin(config, tls, routes.clone()),
            routes,
            admin_certificate,
            limits,
            warm,
            policy,
            log: config.log.clone(),
        })
    }
}

/// What was read, or nothing and its errors among the others: one part that is wrong hides no mistake of the next.
fn noting<T>(read: Result<T, ConfigErrors>, errors: &mut Vec<ConfigError>) -> Option<T> {
    read.map_err(|found| errors.extend(found.0)).ok()
}

/// Each upstream as its client is made. Looks at the files that they name.
///
/// # Errors
/// What is wrong, with its key.
pub fn upstreams(config: &Config) -> Result<Vec<upstream::Settings>, ConfigErrors> {
    read_upstreams(config).map_err(|errors| config.places.name(errors))
}

fn read_upstreams(config: &Config) -> Result<Vec<upstream::Settings>, ConfigErrors> {
    let errors = upstream::Settings::check_files(&config.upstream);
    if !errors.is_empty() {
        return Err(ConfigErrors(errors));
    }
    let mut upstreams = config.upstream.clone();
    for upstream in upstreams.iter_mut().filter(|upstream| upstream.proxy.is_empty()) {
        upstream.proxy.clone_from(&config.mirror.proxy);
    }
    Ok(upstreams)
}

/// What images are held to. Reads the keys and roots that `signed` names.
///
/// # Errors
/// What is wrong, with its key.
pub fn policies(config: &Config) -> Result<policy::Policies, ConfigErrors> {
    read_policies(config).map_err(|errors| config.places.name(errors))
}

fn read_policies(config: &Config) -> Result<policy::Policies, ConfigErrors> {
    policy::Policies::new(&config.policy, |file| std::fs::read(file).map_err(|error| error.to_string()))
}

/// What is warmed by itself, and how names are read. Reads the lists that `[[warm]]` names.
///
/// # Errors
/// What is wrong, with its key.
pub fn warm_schedules(config: &Config) -> Result<(Vec<mirror::warm::Schedule>, Routes), ConfigErrors> {
    read_schedules(config).map_err(|errors| config.places.name(errors))
}

fn read_schedules(config: &Config) -> Result<(Vec<mirror::warm::Schedule>, Routes), ConfigErrors> {
    let routes = routes(config);
    let errors = mirror::warm::Table::validate(&config.warm, &routes);
    if !errors.is_empty() {
        return Err(ConfigErrors(errors));
    }
    let schedule = |(number, table): (usize, &mirror::warm::Table)| {
        let listed = match table.file.as_os_str().is_empty() {
            true => Vec::new(),
            false => read_list(&std::fs::read_to_string(&table.file).map_err(|error| {
                let fix = format!("{error}; name a readable list of images");
                ConfigError::new(format!("warm[{number}].file"), &table.file, fix)
            })?),
        };
        table.schedule(number, &listed, &routes)
    };
    let schedules = config.warm.iter().enumerate().map(schedule).collect::<Result<_, ConfigError>>();
    Ok((schedules?, routes))
}

/// The images of a list: one a line; what follows `#` is a comment.
pub fn read_list(text: &str) -> Vec<String> {
    let line = |line: &str| line.split('#').next().unwrap_or_default().trim().to_owned();
    text.lines().map(line).filter(|line| !line.is_empty()).collect()
}

fn routes(config: &Config) -> Routes {
    let default = config.upstream.iter().find(|upstream| upstream.default).map(|upstream| &*upstream.name);
    Routes::new(default, config.upstream.iter().map(|upstream| &*upstream.name)).hosting(&config.hosted.namespaces)
}

fn http(config: &Config, routes: SharedRoutes) -> http::Settings {
    http::Settings {
        workers: config.server.workers(),
        connections: config.server.connections,
        connections_per_client: config.server.connections_per_client(),
        head_timeout: config.server.head_timeout.0,
        keep_alive: config.server.keep_alive.0,
        write_stall: config.server.write_stall.0,
        body_stall: config.server.body_stall.0,
        drain: config.server.drain.0,
        cors: config.server.cors.clone(),
        routes,
    }
}

fn listeners(config: &Config) -> Result<Vec<Listen>, ConfigErrors> {
    let mut listeners = Vec::new();
    let tls = config.server.tls.as_ref().map(|tls| tls.load("server.tls")).transpose()?;
    for address in &config.server.listen.0 {
        let key = "server.listen".to_owned();
        listeners.push(Listen { key, address: *address, login: false, certificate: tls.clone() });
    }
    for (number, listener) in config.listener.iter().enumerate() {
        let table = format!("listener[{number}]");
        let tls = listener.tls.as_ref().map(|tls| tls.load(&format!("{table}.tls"))).transpose()?;
        let key = format!("{table}.address");
        listeners.push(Listen { key, address: listener.address, login: listener.login, certificate: tls });
    }
    Ok(listeners)
}

/// The certificate of the admin side, and what TLS makes of it.
type AdminTls = (Option<Arc<http::Certificate>>, Option<Arc<rustls::ServerConfig>>);

fn admin_tls(config: &Config) -> Result<AdminTls, ConfigErrors> {
    let certificate = config.admin.tls.as_ref().map(|tls| tls.load("admin.tls")).transpose()?;
    let tls = certificate.as_ref().map(|certificate| certificate.server_config()).transpose();
    Ok((certificate, tls.map_err(|error| ConfigError::without_value("admin.tls", error))?))
}

fn admin(config: &Config, tls: Option<Arc<rustls::ServerConfig>>, routes: SharedRoutes) -> admin::Settings {
    let (public, public_is_https) = (config.admin.public_host(), config.admin.public_url.starts_with("https:"));
    admin::Settings {
        hosts: admin::AllowedHosts {
            listen: config.admin.listen,
            public,
            public_is_https,
            others: config.admin.hosts.clone(),
            is_tls: tls.is_some(),
        },
        tls,
        login: !config.admin.listen.ip().is_loopback(),
        routes,
    }
}

/// What is reloaded together or not at all. Reads the htpasswd file.
///
/// # Errors
/// What is wrong, with its key.
pub fn limits_config(config: &Config) -> Result<LimitsConfig, ConfigErrors> {
    read_limits(config).map_err(|errors| config.places.name(errors))
}

fn read_limits(config: &Config) -> Result<LimitsConfig, ConfigErrors> {
    let throttles = Rules::new(&config.throttle, &config.limits.dry_run, Rules::CEILING)?;
    let classes = Classes(config.class.clone());
    let trusted_proxies: Vec<_> = config.server.trusted_proxies.iter().map(|network| network.0).collect();
    let mut accounts: Vec<_> = config.account.iter().map(Account::principal).collect();
    if !config.server.htpasswd.as_os_str().is_empty() {
        let users = account::htpasswd(&config.server.htpasswd)
            .map_err(|error| ConfigError::without_value("server.htpasswd", error))?;
        // An [[account]] is the operator's word on a user of the same name.
        let known = |user: &limits::Account| config.account.iter().any(|account| *account.name == *user.name);
        accounts.extend(users.into_iter().filter(|user| !known(user)));
    }
    let mode = match config.ban.mode {
        Mode::Enforce if config.limits.bans_are_dry() => Mode::DryRun,
        mode => mode,
    };
    // A network whose owner is an admin is where operators sit.
    let admins = config.account.iter().filter(|account| account.role == Role::Admin);
    let of_admins = admins.flat_map(|account| account.networks.iter().map(|network| network.0));
    let exempt = trusted_proxies.iter().copied().chain(of_admins).collect();
    Ok(LimitsConfig {
        throttles,
        budget: Policy::new(&config.budget, &classes),
        classes,
        abuse: abuse::Settings { mode, exempt, ..config.ban.clone() },
        allowlist: config.limits.allowlist(),
        trusted_proxies,
        bypass_header: config.limits.bypass_header.to_ascii_lowercase(),
        token_header: config.server.token_header.to_ascii_lowercase(),
        response_text: config.limits.response_text.clone(),
        public_url: config.admin.public_url.clone(),
        accounts: accounts.into(),
        repositories: RepositoryRules::new(
            config.upstream.iter().map(|upstream| (&upstream.name, &*upstream.allow, &*upstream.deny)),
        ),
    })
}
