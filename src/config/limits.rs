//! `[limits]`: what is common to all throttles: dry runs, exemptions, words.

use serde::{Deserialize, Serialize};

use super::{Mistake, throttle};
use crate::limits::allowlist::{self, Allowlist, Who};

/// What is common to all throttles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Names of throttles that only count, or `["*"]`; covers automatic bans too.
    pub dry_run: Vec<String>,
    /// A request header that, with value 1 and from a trusted proxy, lifts all throttles.
    pub bypass_header: String,
    /// Clients that are never throttled.
    pub allowlist: Vec<Allowed>,
    /// Accounts that are never throttled.
    pub user_allowlist: Vec<String>,
    /// Said to whoever is throttled.
    pub response_text: String,
}

/// A client that is never throttled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowed {
    /// An address, a CIDR or an account.
    pub client: String,
    /// Why.
    #[serde(default)]
    pub comment: String,
    /// Until when, in RFC 3339; forever when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            dry_run: Vec::new(),
            bypass_header: String::new(),
            allowlist: Vec::new(),
            user_allowlist: Vec::new(),
            response_text: "Retry later".to_owned(),
        }
    }
}

impl Limits {
    pub(super) fn allowlist(&self) -> Allowlist {
        let entry = |entry: &Allowed| allowlist::AllowlistEntry {
            who: Who::parse(&entry.client),
            comment: entry.comment.clone(),
            expires: entry.expires.as_deref().and_then(|time| humantime::parse_rfc3339_weak(time).ok()),
        };
        // GitLab's list holds numbers of users; here they are names of accounts, whatever they look like.
        let user = |name: &String| allowlist::AllowlistEntry {
            who: Who::Principal(name.clone()),
            comment: "user_allowlist".to_owned(),
            expires: None,
        };
        Allowlist(self.allowlist.iter().map(entry).chain(self.user_allowlist.iter().map(user)).collect())
    }

    /// Whether automatic bans are in dry run, whatever their mode is.
    pub(super) fn bans_are_dry(&self) -> bool {
        self.dry_run.iter().any(|name| name == "*" || name == "ban")
    }

    pub(super) fn check(&self, mistakes: &mut Vec<Mistake>) {
        for name in &self.dry_run {
            if name != "ban" && !throttle::selects(name) {
                mistakes.push(Mistake::new(
                    "limits.dry_run",
                    name,
                    r#"there is no such throttle; write its name, the beginning of names, "ban", or "*" for all"#,
                ));
            }
        }
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if !self.bypass_header.chars().all(token) {
            mistakes.push(Mistake::new(
                "limits.bypass_header",
                &self.bypass_header,
                r#"not a header name; write one such as "Gitlab-Bypass-Rate-Limiting""#,
            ));
        }
        if self.response_text.trim().is_empty() || self.response_text.chars().any(char::is_control) {
            mistakes.push(Mistake::new(
                "limits.response_text",
                &self.response_text,
                r#"write one line, such as "Retry later""#,
            ));
        }
        for (number, entry) in self.allowlist.iter().enumerate() {
            if entry.client.is_empty() {
                mistakes.push(Mistake::new(
                    format!("limits.allowlist[{number}].client"),
                    &entry.client,
                    "write an address, a CIDR or the name of an account",
                ));
            }
            if let Some(expires) = &entry.expires
                && humantime::parse_rfc3339_weak(expires).is_err()
            {
                mistakes.push(Mistake::new(
                    format!("limits.allowlist[{number}].expires"),
                    expires,
                    r#"write a time such as "2027-01-31T00:00:00Z""#,
                ));
            }
        }
    }
}
