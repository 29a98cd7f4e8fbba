//! `[[account]]`: people and robots, who they are and what they may do here.

use std::{path::Path, sync::Arc};

use argon2::password_hash::PasswordHash;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Network};
use crate::limits::{self, Role, class::ClassRule};

/// A user with a password.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// The user name.
    pub name: String,
    /// An Argon2id hash in PHC form, as `weir hash-password` prints it.
    pub password_hash: String,
    /// What they are to the admin listener.
    #[serde(default)]
    pub role: Role,
    /// Addresses that are theirs: bans there they may lift.
    #[serde(default)]
    pub networks: Vec<Network>,
    /// Likewise for bans caused by requests to these namespaces.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Names they may pull although anonymous may not; all by default.
    #[serde(default = "everything")]
    pub pull: Vec<String>,
    /// They may pass floors and shares of the budget.
    #[serde(default)]
    pub budget_override: bool,
    /// Hosted names they may push to.
    #[serde(default)]
    pub push: Vec<String>,
    /// Hosted names they may delete from.
    #[serde(default)]
    pub delete: Vec<String>,
}

fn everything() -> Vec<String> {
    vec!["*".to_owned()]
}

impl Account {
    pub(super) fn principal(&self) -> limits::Account {
        limits::Account {
            name: self.name.as_str().into(),
            password_hash: self.password_hash.as_str().into(),
            role: self.role,
            budget_override: self.budget_override,
            networks: self.networks.iter().map(|network| network.0).collect(),
            namespaces: self.namespaces.clone(),
            pull: self.pull.clone().into(),
            push: self.push.clone().into(),
            delete: self.delete.clone().into(),
        }
    }
}

/// Users out of an htpasswd file: bcrypt or Argon2, as `htpasswd -B` writes them. They are users, and may pull everything.
pub(super) fn htpasswd(path: &Path) -> Result<Vec<limits::Account>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut users = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
    {
        let (name, hash) = line.trim().split_once(':').unwrap_or_default();
        let is_known =
            hash.starts_with("$2") || PasswordHash::new(hash).is_ok_and(|hash| hash.algorithm.as_str() == "argon2id");
        if name.is_empty() || !is_known {
            // The hash is not printed.
            return Err(format!("{} line {}: not a name and a bcrypt or Argon2id hash", path.display(), number + 1));
        }
        users.push(limits::Account {
            name: name.into(),
            password_hash: hash.into(),
            role: Role::User,
            budget_override: false,
            networks: Vec::new(),
            namespaces: Vec::new(),
            pull: everything().into(),
            push: Arc::from([]),
            delete: Arc::from([]),
        });
    }
    Ok(users)
}

pub(super) fn check(accounts: &[Account], errors: &mut Vec<ConfigError>) {
    for (number, account) in accounts.iter().enumerate() {
        let key = |name: &str| format!("account[{number}].{name}");
        if account.name.is_empty() || account.name.contains(':') || account.name.chars().any(char::is_control) {
            errors.push(ConfigError::new(
                key("name"),
                &account.name,
                "Basic authentication cannot carry this; write a name without a colon",
            ));
        }
        if accounts[..number].iter().any(|other| other.name == account.name) {
            errors.push(ConfigError::new(
                key("name"),
                &account.name,
                "another account has this name; give each its own",
            ));
        }
        // The hash is not printed: people paste passwords in its place.
        if PasswordHash::new(&account.password_hash).map_or(true, |hash| hash.algorithm.as_str() != "argon2id") {
            errors.push(ConfigError::without_value(
                key("password_hash"),
                "not an Argon2id hash; paste the line that `weir hash-password` prints",
            ));
        }
    }
}

/// A class may name only accounts that exist.
pub(super) fn check_classes(accounts: &[Account], classes: &[ClassRule], errors: &mut Vec<ConfigError>) {
    for (number, class) in classes.iter().enumerate() {
        for name in class.accounts.iter().filter(|name| !accounts.iter().any(|account| account.name == **name)) {
            errors.push(ConfigError::new(format!("class[{number}].accounts"), name, "there is no such [[account]]"));
        }
    }
}
