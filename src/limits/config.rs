//! Everything that is configured about clients, as one value that is replaced whole or not at all.

use std::sync::Arc;

use ipnet::IpNet;

use super::{
    abuse,
    allowlist::Allowlist,
    bans::{BanRecord, Target},
    budget,
    class::Classes,
    throttle::Rules,
};
use crate::client::ClientKey;

/// One configuration. Immutable; a reload makes another one.
#[derive(Clone, Debug, Default)]
pub struct LimitsConfig {
    /// `[[throttle]]`, with `[limits] dry_run` laid over.
    pub throttles: Rules,
    /// `[[class]]`.
    pub classes: Classes,
    /// `[budget]`.
    pub budget: budget::Policy,
    /// `[ban]`: the automatic rungs.
    pub abuse: abuse::Settings,
    /// `[limits] allowlist` and `user_allowlist`.
    pub allowlist: Allowlist,
    /// `[server] trusted_proxies`.
    pub trusted_proxies: Vec<IpNet>,
    /// `[limits] bypass_header`, in lower case; empty when there is none.
    pub bypass_header: String,
    /// `[server] token_header`: carries an account's password as containerd's hosts.toml sends it; empty when there is none.
    pub token_header: String,
    /// `[limits] response_text`: ends what a throttled client is told.
    pub response_text: String,
    /// `[ban] code = "DENIED"`: how a ban is called on the wire; `TOOMANYREQUESTS` when false.
    pub bans_are_denied: bool,
    /// `[admin] public_url`: where a banned client is told to go.
    pub public_url: String,
    /// `[[account]]`, in the order of the file.
    pub accounts: Arc<[Account]>,
}

/// Somebody with a password.
#[derive(Clone, PartialEq)]
pub struct Account {
    /// The principal.
    pub name: Arc<str>,
    /// `$argon2id$…`, or `$2y$…` out of an htpasswd file.
    pub password_hash: Arc<str>,
    /// Whether it may see and do everything on the admin listener.
    pub is_admin: bool,
    /// It may pass floors and shares of the budget.
    pub budget_override: bool,
    /// Addresses that are its own: bans there it may lift.
    pub networks: Vec<IpNet>,
    /// Likewise for bans caused by requests to these namespaces.
    pub namespaces: Vec<String>,
    /// Repository patterns it may pull where anonymous may not.
    pub pull: Arc<[String]>,
    /// Hosted names it may push to.
    pub push: Arc<[String]>,
    /// Hosted names it may delete from.
    pub delete: Arc<[String]>,
}

// A hash can be guessed at, offline.
impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("name", &self.name).field("is_admin", &self.is_admin).finish_non_exhaustive()
    }
}

impl Account {
    /// Whether this ban is of it, of its networks, or because of requests to its namespaces. Whether it may lift it is another question.
    pub fn owns(&self, record: &BanRecord) -> bool {
        let is_own_client = match &record.client {
            Target::Principal(name) => **name == *self.name,
            Target::Network(network) => self.networks.iter().any(|own| own.contains(network)),
        };
        is_own_client || self.namespaces.iter().any(|namespace| record.concerns(namespace))
    }
}

impl LimitsConfig {
    /// The account of this name.
    pub fn account(&self, name: &str) -> Option<&Account> {
        self.accounts.iter().find(|account| *account.name == *name)
    }

    /// The account of this client, when it is one.
    pub fn account_of(&self, client: &ClientKey) -> Option<&Account> {
        match client {
            ClientKey::Principal(name) => self.account(name),
            ClientKey::Address(_) => None,
        }
    }
}
