//! `[[class]]`: whose pulls matter how much when the budget is short.

use serde::{Deserialize, Serialize};

use super::{Mistake, Network, account::Account};
pub use crate::client::OnExceed;
use crate::{client, limits::class};

/// One rule; the first that matches a client decides, and who matches none is standard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// What the client becomes.
    pub name: client::Class,
    /// Clients at these addresses …
    #[serde(default)]
    pub cidr: Vec<Network>,
    /// … or with one of these accounts …
    #[serde(default)]
    pub accounts: Vec<String>,
    /// … or whose `User-Agent` holds this, which may only lower.
    #[serde(default)]
    pub user_agent: String,
    /// Where it stops when the budget is short.
    #[serde(default)]
    pub on_exceed: OnExceed,
}

impl Class {
    pub(super) fn rule(&self) -> class::ClassRule {
        class::ClassRule {
            class: self.name,
            cidr: self.cidr.iter().map(|network| network.0).collect(),
            accounts: self.accounts.clone(),
            user_agent: self.user_agent.clone(),
            on_exceed: self.on_exceed,
        }
    }
}

pub(super) fn check(classes: &[Class], accounts: &[Account], mistakes: &mut Vec<Mistake>) {
    for (number, class) in classes.iter().enumerate() {
        if class.cidr.is_empty() && class.accounts.is_empty() && class.user_agent.is_empty() {
            mistakes.push(Mistake::unseen(
                format!("class[{number}]"),
                "matches nobody; give it cidr, accounts or user_agent",
            ));
        }
        if !class.user_agent.is_empty() && class.name > client::Class::Standard {
            mistakes.push(Mistake::new(
                format!("class[{number}].user_agent"),
                &class.user_agent,
                "anybody can send any User-Agent, so it may only lower a class; use cidr or accounts",
            ));
        }
        for name in &class.accounts {
            if !accounts.iter().any(|account| account.name == *name) {
                mistakes.push(Mistake::new(format!("class[{number}].accounts"), name, "there is no such [[account]]"));
            }
        }
    }
}
