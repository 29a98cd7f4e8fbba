//! How much a client's pulls matter: `[[class]]`, from the address, the account, and a `User-Agent` that may only lower.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    client::{Class, OnExceed},
    setting::{ConfigError, Network},
};

/// One `[[class]]`. It means a client that matches any of its three conditions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassRule {
    /// The class that the client gets.
    #[serde(rename = "name")]
    pub class: Class,
    /// Addresses.
    #[serde(default)]
    pub cidr: Vec<Network>,
    /// Verified accounts.
    #[serde(default)]
    pub accounts: Vec<String>,
    /// A part of the `User-Agent`, in any case; empty means none. It may only lower a class.
    #[serde(default)]
    pub user_agent: String,
    /// Where the client's requests stop when the budget is short.
    #[serde(default)]
    pub on_exceed: OnExceed,
}

impl ClassRule {
    /// Everything that is wrong with these rules, but for accounts that do not exist. The keys begin with `class[N]`.
    pub fn validate(rules: &[ClassRule]) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        for (number, rule) in rules.iter().enumerate() {
            if rule.cidr.is_empty() && rule.accounts.is_empty() && rule.user_agent.is_empty() {
                let fix = "matches no client; give it cidr, accounts or user_agent";
                errors.push(ConfigError::without_value(format!("class[{number}]"), fix));
            }
            if !rule.user_agent.is_empty() && rule.class > Class::Standard {
                errors.push(ConfigError::new(
                    format!("class[{number}].user_agent"),
                    &rule.user_agent,
                    "any client can send any User-Agent, so it may only lower a class; use cidr or accounts",
                ));
            }
        }
        errors
    }
}

/// All rules, in their order. Immutable; a reload makes another one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Classes(pub Vec<ClassRule>);

impl Classes {
    /// The first rule that means this client decides; who is meant by none is standard.
    ///
    /// A `User-Agent` is whatever the client writes, so it never gives more than address and account do.
    pub fn of(&self, address: IpAddr, account: Option<&str>, user_agent: &str) -> (Class, OnExceed) {
        let address = address.to_canonical();
        let known = |rule: &ClassRule| {
            rule.cidr.iter().any(|network| network.0.contains(&address))
                || account.is_some_and(|account| rule.accounts.iter().any(|name| name == account))
        };
        let verified = self.0.iter().find(|rule| known(rule));
        let decided = verified.map_or((Class::Standard, OnExceed::default()), |rule| (rule.class, rule.on_exceed));
        let before = self.0.iter().take_while(|rule| !known(rule));
        let said = before
            .into_iter()
            .find(|rule| !rule.user_agent.is_empty() && rule.class < decided.0 && holds(user_agent, &rule.user_agent));
        said.map_or(decided, |rule| (rule.class, rule.on_exceed))
    }

    /// Whether a client may be in a class above this one, so that what is kept for such clients is of use. A client is standard without a
    /// rule, so a rule for bulk is enough to have a client above bulk.
    pub fn is_anyone_above(&self, class: Class) -> bool {
        match class {
            Class::Bulk => !self.0.is_empty(),
            _ => self.0.iter().any(|rule| rule.class > class),
        }
    }
}

fn holds(text: &str, part: &str) -> bool {
    text.as_bytes().windows(part.len()).any(|window| window.eq_ignore_ascii_case(part.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(class: Class, cidr: &[&str], accounts: &[&str], user_agent: &str) -> ClassRule {
        ClassRule {
            class,
            cidr: cidr.iter().map(|network| network.parse().unwrap()).collect(),
            accounts: accounts.iter().map(|&name| name.to_owned()).collect(),
            user_agent: user_agent.to_owned(),
            on_exceed: OnExceed::Queue,
        }
    }

    #[test]
    fn the_first_match_wins_and_a_user_agent_only_lowers() {
        let classes = Classes(vec![
            rule(Class::Critical, &[], &["deploy"], ""),
            rule(Class::Bulk, &[], &[], "Trivy"),
            rule(Class::Critical, &["10.1.0.0/16"], &[], "containerd"),
            rule(Class::Bulk, &["10.0.0.0/8"], &[], ""),
            rule(Class::Exempt, &["192.0.2.9/32"], &[], ""),
        ]);
        for (address, account, agent, class) in [
            ("192.0.2.1", None, "docker/27", Class::Standard),
            ("10.1.2.3", None, "docker/27", Class::Critical),
            ("::ffff:10.1.2.3", None, "docker/27", Class::Critical),
            ("10.2.2.3", None, "docker/27", Class::Bulk),
            ("10.2.2.3", Some("deploy"), "docker/27", Class::Critical),
            ("192.0.2.9", None, "", Class::Exempt),
            // It lowers each client that a later rule matches …
            ("192.0.2.1", None, "aquasecurity/trivy 0.50", Class::Bulk),
            ("10.1.2.3", None, "trivy", Class::Bulk),
            // … not whom an earlier rule knows …
            ("10.1.2.3", Some("deploy"), "trivy", Class::Critical),
            // … and raises none.
            ("192.0.2.1", None, "containerd/2.0", Class::Standard),
            ("10.2.2.3", None, "containerd/2.0", Class::Bulk),
        ] {
            assert_eq!(classes.of(address.parse().unwrap(), account, agent).0, class, "{address} {account:?} {agent}");
        }
    }

    #[test]
    fn a_floor_holds_only_when_a_class_is_above() {
        let none = Classes::default();
        assert!([Class::Bulk, Class::Standard, Class::Critical].iter().all(|class| !none.is_anyone_above(*class)));
        let scanner = Classes(vec![rule(Class::Bulk, &["10.0.0.0/8"], &[], "")]);
        assert!(scanner.is_anyone_above(Class::Bulk) && !scanner.is_anyone_above(Class::Standard));
        let production = Classes(vec![rule(Class::Critical, &["10.0.0.0/8"], &[], "")]);
        assert!(production.is_anyone_above(Class::Standard) && !production.is_anyone_above(Class::Critical));
    }
}
