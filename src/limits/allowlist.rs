//! Who is never throttled nor banned by a rule: principals and networks, each with a comment and perhaps an end.
//!
//! It lifts what we ask of a client, never what upstream asks of us: passing a budget floor is a right of its own.

use std::{net::IpAddr, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::target::Target;
use crate::client::ClientKey;

/// One entry of `[limits] allowlist`, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowlistEntry {
    /// The clients that it means.
    pub client: Target,
    /// Why, for the page and the log at start.
    #[serde(default)]
    pub comment: String,
    /// Until when, in RFC 3339; forever when absent.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "expiry")]
    pub expires: Option<SystemTime>,
}

mod expiry {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(at: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => serializer.collect_str(&humantime::format_rfc3339_seconds(*at)),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let fix = r#"write a time such as "2027-01-31T00:00:00Z""#;
        humantime::parse_rfc3339_weak(&text).map(Some).map_err(|_| D::Error::custom(fix))
    }
}

/// Why a client was let pass uncounted; GitLab's word for it is the log field `throttle_safelist`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exemption {
    /// The bypass header, with value 1, from a trusted proxy.
    BypassHeader,
    /// An entry for its account.
    User,
    /// An entry for its address.
    Address,
}

impl Exemption {
    /// The value of `throttle_safelist`.
    pub fn as_str(self) -> &'static str {
        match self {
            Exemption::BypassHeader => "throttle_bypass_header",
            Exemption::User => "throttle_user_allowlist",
            Exemption::Address => "throttle_address_allowlist",
        }
    }
}

/// All entries. Immutable; a reload makes another one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allowlist(pub Vec<AllowlistEntry>);

impl Allowlist {
    /// The first entry that lets this client pass now. Walks all entries: they are written by hand and few.
    pub fn find(&self, client: &ClientKey, address: IpAddr, now: SystemTime) -> Option<(&AllowlistEntry, Exemption)> {
        let address = address.to_canonical();
        let live = self.0.iter().filter(|entry| entry.expires.is_none_or(|expires| now < expires));
        live.filter_map(|entry| match (&entry.client, client) {
            (Target::Network(network), _) if network.contains(&address) => Some((entry, Exemption::Address)),
            (Target::Principal(name), ClientKey::Principal(principal)) if **name == **principal => {
                Some((entry, Exemption::User))
            }
            _ => None,
        })
        .next()
    }
}

/// Whether the bypass header counts: exactly `1`, and from a trusted proxy. Anybody else's is to be ignored and stripped.
pub fn bypasses(value: Option<&[u8]>, from_trusted_proxy: bool) -> Option<Exemption> {
    (from_trusted_proxy && value == Some(b"1")).then_some(Exemption::BypassHeader)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn an_entry_is_an_address_a_network_or_an_account_until_it_expires() {
        let end = UNIX_EPOCH + Duration::from_secs(100);
        let entry =
            |client: &str, expires| AllowlistEntry { client: client.parse().unwrap(), comment: String::new(), expires };
        let list = Allowlist(vec![entry("10.1.2.3/8", Some(end)), entry("2001:db8::1", None), entry("ci", None)]);
        let found = |client: &str, principal: bool, now| {
            let address = client.parse().unwrap_or(IpAddr::from([192, 0, 2, 1]));
            let key = if principal { ClientKey::Principal(client.into()) } else { ClientKey::Address(address) };
            list.find(&key, address, now).map(|(_, safe)| safe)
        };
        assert_eq!(found("10.9.9.9", false, UNIX_EPOCH), Some(Exemption::Address));
        assert_eq!(found("::ffff:10.9.9.9", false, UNIX_EPOCH), Some(Exemption::Address));
        assert_eq!(found("10.9.9.9", false, end), None);
        assert_eq!(found("2001:db8::1", false, end), Some(Exemption::Address));
        assert_eq!(found("2001:db8::2", false, end), None);
        assert_eq!(found("ci", true, end), Some(Exemption::User));
        assert_eq!(found("dev", true, end), None);
    }

    #[test]
    fn a_bypass_header_is_believed_only_with_value_1_from_a_trusted_proxy() {
        assert_eq!(bypasses(Some(b"1"), true), Some(Exemption::BypassHeader));
        for (value, trusted) in
            [(Some(&b"1"[..]), false), (Some(b"true"), true), (Some(b"1 "), true), (Some(b""), true), (None, true)]
        {
            assert_eq!(bypasses(value, trusted), None);
        }
    }
}
