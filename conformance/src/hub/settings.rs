//! How a hub behaves: addresses, limits, accounts and the habits that differ between registries.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Everything a [`Hub`](super::Hub) may be set to. The default is Docker Hub as documented, on ports of the system's choice,
/// without a pull limit. All but the addresses may be changed while it runs, see [`Hub::adjust`](super::Hub::adjust).
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the registry and the token service listen; port 0 lets the system choose.
    pub registry: SocketAddr,
    /// Where the CDN listens, to which blobs are redirected; port 0 lets the system choose.
    pub cdn: SocketAddr,
    /// The path of the token service on the registry's port.
    pub token_path: String,
    /// The `service` of the challenge; a token fetched for another service is refused as Hub refuses it.
    pub service: String,
    /// What a token is good for (`expires_in`, whole seconds on the wire). Docker Hub: 300 s.
    pub token_life: Duration,
    /// What a signed CDN address is good for.
    pub cdn_life: Duration,
    /// The challenge with which the registry meets an anonymous request.
    pub challenge: Challenge,
    /// The pull limit of each anonymous source (IPv4 address or IPv6 /64); `None` sends no `ratelimit-*` header.
    pub limit: Option<Limit>,
    /// Who may log in.
    pub accounts: Vec<Account>,
    /// Whether blobs are redirected to the CDN (Docker Hub: GET and HEAD) or sent by the registry itself.
    pub redirect_blobs: bool,
    /// Bytes per second of each body; `None` is as fast as it goes.
    pub bandwidth: Option<u64>,
    /// How long each answer waits before its first byte.
    pub latency: Duration,
    /// Whether `GET /v2/<name>/referrers/<digest>` answers; if not, 404 and the fallback tag `sha256-<hex>` exists instead.
    pub referrers: bool,
    /// The most tags in one page of `tags/list`; `None` returns all whatever `n` says, as Hub once did.
    pub page: Option<usize>,
    /// How many connections are served at once on each port; more wait in the listen queue.
    pub connections: u32,
    /// How many requests the log keeps; the oldest go first.
    pub log_length: usize,
    /// The longest that [`Hub::wait_for`](super::Hub::wait_for) and [`Gate::started`](super::Gate::started) wait.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Settings {
            registry: any,
            cdn: any,
            token_path: "/token".to_owned(),
            service: "registry.docker.io".to_owned(),
            token_life: Duration::from_secs(300),
            cdn_life: Duration::from_secs(600),
            challenge: Challenge::Bearer,
            limit: None,
            accounts: Vec::new(),
            redirect_blobs: true,
            bandwidth: None,
            latency: Duration::ZERO,
            referrers: true,
            page: Some(10_000),
            connections: 4_096,
            log_length: 50_000,
            patience: Duration::from_secs(30),
        }
    }
}

/// How the registry asks who is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// `Bearer` with a token service (Docker Hub, ghcr, quay).
    Bearer,
    /// `Basic` on every request (ECR private); only accounts get in.
    Basic,
    /// No client is asked (MCR, registry.k8s.io); private repositories answer 401 all the same.
    Nobody,
}

/// So many pulls in so long a sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Counted manifest GETs that one source may send in the window.
    pub pulls: u32,
    /// The length of the window, whole seconds on the wire.
    pub window: Duration,
}

impl Limit {
    /// `pulls` in Docker Hub's six hours.
    pub const fn hub(pulls: u32) -> Limit {
        Limit { pulls, window: Duration::from_secs(21_600) }
    }
}

/// A user who may log in, by Basic at the token service or at the registry.
#[derive(Clone, Debug)]
pub struct Account {
    /// The user name.
    pub name: String,
    /// The password or access token.
    pub password: String,
    /// The account's own pull limit; `None` is a paying account: no `ratelimit-*` header, but a source.
    pub limit: Option<Limit>,
    /// The private repositories it reads; `*` is all of them.
    pub private: Vec<String>,
}

impl Account {
    /// An account with Hub's 200 pulls in six hours that reads every private repository.
    pub fn new(name: &str, password: &str) -> Account {
        Account {
            name: name.to_owned(),
            password: password.to_owned(),
            limit: Some(Limit::hub(200)),
            private: vec!["*".to_owned()],
        }
    }

    /// Whether this account reads the private repository of that name.
    pub fn reads(&self, repository: &str) -> bool {
        self.private.iter().any(|name| name == "*" || name == repository)
    }
}
