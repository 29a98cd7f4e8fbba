//! Everything that is configured about clients, as one value that is replaced whole or not at all.

use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    abuse,
    allowlist::{Allowlist, AllowlistEntry},
    bans::BanRecord,
    budget,
    class::Classes,
    repositories::RepositoryRules,
    role::Role,
    target::Target,
    throttle::{Rules, covers_any},
};
use crate::{client::ClientKey, setting::ConfigError};

/// `[limits]`: what is common to all throttles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Names of throttles that only count, or `["*"]`; covers automatic bans too.
    pub dry_run: Vec<String>,
    /// A request header that, with value 1 and from a trusted proxy, lifts all throttles.
    pub bypass_header: String,
    /// Clients that are never throttled.
    pub allowlist: Vec<AllowlistEntry>,
    /// Accounts that are never throttled.
    pub user_allowlist: Vec<String>,
    /// Ends the message that a throttled client reads.
    pub response_text: String,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            dry_run: Vec::new(),
            bypass_header: String::new(),
            allowlist: Vec::new(),
            user_allowlist: Vec::new(),
            response_text: "Retry later".to_owned(),
        }
    }
}

impl Settings {
    /// Both lists as one.
    pub fn allowlist(&self) -> Allowlist {
        // GitLab's list holds numbers of users; here they are names of accounts, whatever they look like.
        let user = |name: &String| AllowlistEntry {
            client: Target::Principal(name.clone()),
            comment: "user_allowlist".to_owned(),
            expires: None,
        };
        Allowlist(self.allowlist.iter().cloned().chain(self.user_allowlist.iter().map(user)).collect())
    }

    /// Whether automatic bans are in dry run, whatever their mode is.
    pub fn bans_are_dry(&self) -> bool {
        self.dry_run.iter().any(|name| name == "*" || name == "ban")
    }

    /// Everything that is wrong with the table. The keys begin with `limits`.
    pub fn validate(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        for name in self.dry_run.iter().filter(|name| *name != "ban" && !covers_any(name)) {
            let fix = r#"there is no such throttle; write its name, the beginning of names, "ban", or "*" for all"#;
            errors.push(ConfigError::new("limits.dry_run", name, fix));
        }
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if !self.bypass_header.chars().all(token) {
            let fix = r#"not a header name; write one such as "Gitlab-Bypass-Rate-Limiting""#;
            errors.push(ConfigError::new("limits.bypass_header", &self.bypass_header, fix));
        }
        if self.response_text.trim().is_empty() || self.response_text.chars().any(char::is_control) {
            let fix = r#"write one line, such as "Retry later""#;
            errors.push(ConfigError::new("limits.response_text", &self.response_text, fix));
        }
        errors
    }
}

/// One configuration. Immutable; a reload makes another one.
#[derive(Clone, Debug, Default)]
pub struct LimitsConfig {
    /// `[[throttle]]`, with `[limits] dry_run` laid over.
    pub throttles: Rules,
    /// `[[class]]`.
    pub classes: Classes,
    /// `[budget]`.
    pub budget: budget::Policy,
    /// `[ban]`: the automatic levels.
    pub abuse: abuse::Settings,
    /// `[limits] allowlist` and `user_allowlist`.
    pub allowlist: Allowlist,
    /// `[server] trusted_proxies`.
    pub trusted_proxies: Vec<IpNet>,
    /// `[limits] bypass_header`, in lower case; empty when there is none.
    pub bypass_header: String,
    /// `[server] token_header`: carries an account's password as containerd's hosts.toml sends it; empty when there is none.
    pub token_header: String,
    /// `[limits] response_text`: ends what a throttled client reads.
    pub response_text: String,
    /// `[admin] public_url`: where a banned client lifts its ban.
    pub public_url: String,
    /// `[[account]]`, in the order of the file.
    pub accounts: Arc<[Account]>,
    /// `[[upstream]]` `allow` and `deny`.
    pub repositories: RepositoryRules,
}

/// A user with a password.
#[derive(Clone, PartialEq)]
pub struct Account {
    /// The principal.
    pub name: Arc<str>,
    /// `$argon2id$…`, or `$2y$…` out of an htpasswd file.
    pub password_hash: Arc<str>,
    /// What it may see and do on the admin listener.
    pub role: Role,
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
        f.debug_struct("Account").field("name", &self.name).field("role", &self.role).finish_non_exhaustive()
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
