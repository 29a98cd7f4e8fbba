//! `[[policy]]`: which images are held to which rules, and what becomes of one that breaks one.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::signature::SignedBy;
use crate::setting::{ConfigError, Size, Span};

/// One `[[policy]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// What it is called in sentences and reports.
    pub name: String,
    /// Patterns of registry/repository:tag.
    pub images: Vec<String>,
    /// Patterns of images that it leaves to the policies below it.
    #[serde(default)]
    pub except: Vec<String>,
    /// What becomes of an image that breaks a rule.
    #[serde(default)]
    pub mode: Mode,
    /// It must not start as root.
    #[serde(default)]
    pub non_root: bool,
    /// Its config, history and layers must hold no credentials.
    #[serde(default)]
    pub no_secrets: bool,
    /// It must expose no port below 1024 as root.
    #[serde(default)]
    pub no_low_ports: bool,
    /// Its history must break no rule that hadolint calls an error.
    #[serde(default)]
    pub lint: bool,
    /// How old it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Span>,
    /// How long it must have been in the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_age: Option<Span>,
    /// Its base must not have moved on.
    #[serde(default)]
    pub fresh_base: bool,
    /// It must have no package manager, shell, downloader and compiler.
    #[serde(default)]
    pub minimal: bool,
    /// It must have no file that is setuid or setgid, or that every user may write.
    #[serde(default)]
    pub no_setuid: bool,
    /// A scanner must have found no critical vulnerability.
    #[serde(default)]
    pub no_critical: bool,
    /// How many bytes config and layers may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<Size>,
    /// Patterns of the bases that it may be built on; none is any, be it known or not.
    #[serde(default)]
    pub trusted_base: Vec<String>,
    /// Those of whom one must have signed it; none is any, signed or not.
    #[serde(default)]
    pub signed: Vec<SignedBy>,
    /// The attestations that it must have; with `signed`, by those or in an index that those signed.
    #[serde(default)]
    pub attested: Vec<Wanted>,
    /// What becomes of an image of which a rule cannot say.
    #[serde(default)]
    pub unknown: Unknown,
    /// How long a client may wait for what is to be known, with `unknown = "wait"` or `"deny"`.
    #[serde(default = "wait")]
    pub wait: Span,
    /// Images that may break the rules until a time.
    #[serde(default)]
    pub exempt: Vec<Exemption>,
    /// Whom to ask, for the sentence that a client prints.
    #[serde(default)]
    pub contact: String,
}

fn wait() -> Span {
    Span::seconds(5)
}

/// What becomes of an image that breaks a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It is served; reports say what is wrong.
    #[default]
    Audit,
    /// It is served with a `Warning` that clients print.
    Warn,
    /// It is refused.
    Enforce,
}

impl Mode {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Mode::Audit => "audit",
            Mode::Warn => "warn",
            Mode::Enforce => "enforce",
        }
    }
}

/// An attestation that an image must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// A list of what is in it.
    Sbom,
    /// How it was built.
    Provenance,
}

/// What becomes of an image of which a rule cannot say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// It is served at once.
    #[default]
    Allow,
    /// Its client waits while its config is fetched; what is unknown then is served.
    Wait,
    /// Its client waits while its config is fetched; what is unknown then breaks the rule.
    Deny,
}

/// Images that may break the rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exemption {
    /// A pattern of registry/repository:tag.
    pub image: String,
    /// Why.
    pub reason: String,
    /// Until when, in RFC 3339.
    #[serde(with = "expiry")]
    pub expires: SystemTime,
}

mod expiry {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_seconds(*at))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        let fix = r#"write a time such as "2027-01-31T00:00:00Z""#;
        humantime::parse_rfc3339_weak(&text).map_err(|_| D::Error::custom(fix))
    }
}

/// containerd gives up after 30 s without an answer, dockerd after 15.
const LONGEST_WAIT: Span = Span::seconds(10);
/// A sentence is one line of a header.
const LONGEST_CONTACT: usize = 200;

impl Table {
    /// Everything that is wrong with these tables. The keys begin with `policy[N]`.
    pub fn validate(tables: &[Table]) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        for (number, table) in tables.iter().enumerate() {
            let key = |name: &str| format!("policy[{number}].{name}");
            let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if table.name.is_empty() || table.name.len() > 64 || !table.name.bytes().all(is_letter) {
                let fix = "write 1 to 64 letters, digits, dashes, dots and underscores";
                errors.push(ConfigError::new(key("name"), &table.name, fix));
            }
            if tables.iter().take(number).any(|other| other.name == table.name) {
                let fix = "another [[policy]] has this name; give each its own";
                errors.push(ConfigError::new(key("name"), &table.name, fix));
            }
            if table.images.is_empty() {
                let fix = r#"it is for no image; write patterns such as ["docker.io/acme/*"]"#;
                errors.push(ConfigError::without_value(key("images"), fix));
            }
            for (name, patterns) in [("images", &table.images), ("except", &table.except)] {
                for pattern in patterns.iter().filter(|pattern| !is_full(pattern)) {
                    let fix = r#"write the registry too, as "docker.io/library/*" or "*""#;
                    errors.push(ConfigError::new(key(name), pattern, fix));
                }
            }
            for (place, source) in table.signed.iter().enumerate() {
                if let Some(fix) = source.fix() {
                    errors.push(ConfigError::without_value(format!("policy[{number}].signed[{place}]"), fix));
                }
            }
            if table.wait > LONGEST_WAIT {
                let fix = "write 10s at most: dockerd waits 15 s for an answer";
                errors.push(ConfigError::new(key("wait"), table.wait.to_string(), fix));
            }
            let is_plain = |byte: u8| byte == b' ' || byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
            if table.contact.len() > LONGEST_CONTACT || !table.contact.bytes().all(is_plain) {
                let fix = "write at most 200 letters of ASCII, without quotes and backslashes: it goes into a header";
                errors.push(ConfigError::new(key("contact"), &table.contact, fix));
            }
            for exemption in table.exempt.iter().filter(|exemption| exemption.reason.trim().is_empty()) {
                let fix = "write a reason, for the one who reads this when it has expired";
                errors.push(ConfigError::new(key("exempt"), &exemption.image, fix));
            }
            for exemption in table.exempt.iter().filter(|exemption| !is_full(&exemption.image)) {
                let fix = r#"write the registry too, as "docker.io/acme/legacy:*""#;
                errors.push(ConfigError::new(key("exempt"), &exemption.image, fix));
            }
        }
        errors
    }
}

/// Whether a pattern can match a full name: it begins with a star or names a registry.
fn is_full(pattern: &str) -> bool {
    let (registry, rest) = pattern.split_once('/').unwrap_or((pattern, ""));
    pattern.starts_with('*')
        || (!rest.is_empty() && (registry.contains(['.', ':', '*', '[']) || registry == "localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct File {
        policy: Vec<Table>,
    }

    fn keys(text: &str) -> Vec<String> {
        let file: File = toml::from_str(text).unwrap();
        Table::validate(&file.policy).into_iter().map(|error| error.key).collect()
    }

    #[test]
    fn what_could_not_be_meant_is_refused_by_its_key() {
        let sound = "[[policy]]\nname = \"a\"\nimages = [\"docker.io/*\", \"*\", \"localhost:5000/a\"]\n";
        assert_eq!(keys(sound), Vec::<String>::new());
        for (more, key) in [
            ("except = [\"library/busybox\"]", "policy[0].except"),
            ("signed = [{ key = \"a\" }, { issuer = \"a\" }]", "policy[0].signed[1]"),
            ("wait = \"11s\"", "policy[0].wait"),
            ("contact = \"a\\nb\"", "policy[0].contact"),
            ("exempt = [{ image = \"*\", reason = \" \", expires = \"2027-01-31T00:00:00Z\" }]", "policy[0].exempt"),
            ("exempt = [{ image = \"app\", reason = \"x\", expires = \"2027-01-31T00:00:00Z\" }]", "policy[0].exempt"),
            ("[[policy]]\nname = \"a\"\nimages = [\"*\"]", "policy[1].name"),
            ("[[policy]]\nname = \"b c\"\nimages = [\"*\"]", "policy[1].name"),
            ("[[policy]]\nname = \"b\"\nimages = []", "policy[1].images"),
        ] {
            assert_eq!(keys(&format!("{sound}{more}")), [key], "{more}");
        }
    }
}
