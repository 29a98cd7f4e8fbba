//! `[shared.redis]`: by what replicas agree who of them asks upstream.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use url::Url;
use weir_storage::setting::{ConfigError, Span, as_span};

/// A Redis or Valkey, or what speaks like them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Redis {
    /// `redis://host:port/database`, or `rediss://` for TLS. Without credentials.
    pub url: String,
    /// What all keys begin with, so that several fleets can share one.
    pub prefix: String,
    /// The user of an access list; empty is the default user.
    pub username: String,
    /// A file with the password, read at each connection; empty is none.
    pub password_file: PathBuf,
    /// Certificates that are trusted instead of those of the system, as PEM; empty is those of the system.
    pub ca_file: PathBuf,
    /// How long an answer may take (250 ms); after it Redis counts as away for this request.
    #[serde(with = "as_span")]
    pub timeout: Duration,
    /// How long a replica waits for what another one fetches (10 s); then it asks upstream itself.
    #[serde(with = "as_span")]
    pub follow: Duration,
}

impl Default for Redis {
    fn default() -> Redis {
        Redis {
            url: "redis://127.0.0.1:6379".to_owned(),
            prefix: "weir".to_owned(),
            username: String::new(),
            password_file: PathBuf::new(),
            ca_file: PathBuf::new(),
            timeout: Duration::from_millis(250),
            follow: Duration::from_secs(10),
        }
    }
}

impl Redis {
    /// Everything that is wrong with the table. No file is read, and no engine asked.
    pub(crate) fn validate(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        if let Some(fix) = wrong_url(&self.url) {
            // A user in a URL may come with a password.
            errors.push(match self.url.contains('@') {
                true => ConfigError::without_value("shared.redis.url", fix),
                false => ConfigError::new("shared.redis.url", &self.url, fix),
            });
        }
        let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
        if self.prefix.is_empty() || self.prefix.len() > 100 || !self.prefix.chars().all(is_word) {
            let fix = r#"write 1 to 100 letters, digits, "_", "-", "." and ":", such as "weir""#;
            errors.push(ConfigError::new("shared.redis.prefix", &self.prefix, fix));
        }
        if !self.username.is_empty() && self.password_file.as_os_str().is_empty() {
            let fix = "a user has a password; name a file with it in password_file";
            errors.push(ConfigError::new("shared.redis.username", &self.username, fix));
        }
        if !self.ca_file.as_os_str().is_empty() && !self.url.starts_with("rediss:") {
            let fix = "certificates are for TLS; write a url that begins with rediss://";
            errors.push(ConfigError::new("shared.redis.ca_file", &self.ca_file, fix));
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(2)).contains(&self.timeout) {
            let fix = r#"write "10ms" to "2s": a cold pull waits for it"#;
            errors.push(ConfigError::new("shared.redis.timeout", Span(self.timeout).to_string(), fix));
        }
        if !(Duration::from_millis(500)..=Duration::from_secs(25)).contains(&self.follow) {
            let fix = r#"write "500ms" to "25s": a client gets no byte meanwhile, and containerd gives up after 30 s"#;
            errors.push(ConfigError::new("shared.redis.follow", Span(self.follow).to_string(), fix));
        }
        errors
    }
}

fn wrong_url(text: &str) -> Option<&'static str> {
    let Ok(url) = Url::parse(text) else {
        return Some(r#"not a URL; write one such as "redis://redis.example.com:6379""#);
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Some("credentials have no place in a URL; write username and password_file");
    }
    let is_database = matches!(url.path(), "" | "/") || url.path()[1..].parse::<u16>().is_ok();
    let is_redis = matches!(url.scheme(), "redis" | "rediss") && url.host_str().is_some_and(|host| !host.is_empty());
    (!is_redis || !is_database || url.query().is_some() || url.fragment().is_some()).then_some(
        r#"write redis:// or rediss://, host, port, and the number of a database if it is not 0, such as "rediss://redis.example.com:6379/1""#,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_named_with_its_key_and_what_to_write() {
        let good = Redis::default;
        assert_eq!(good().validate(), []);
        assert_eq!(Redis { url: "rediss://r.example.com/1".into(), ca_file: "ca.pem".into(), ..good() }.validate(), []);
        let cases: [(Redis, &str); 10] = [
            (
                Redis { url: "redis.example.com".into(), ..good() },
                r#"shared.redis.url = "redis.example.com": not a URL"#,
            ),
            (Redis { url: "http://redis.example.com".into(), ..good() }, "shared.redis.url"),
            (Redis { url: "redis://r.example.com/one".into(), ..good() }, "the number of a database"),
            (Redis { url: "rediss://r.example.com#insecure".into(), ..good() }, "shared.redis.url"),
            (Redis { prefix: String::new(), ..good() }, r#"shared.redis.prefix = """#),
            (Redis { prefix: "a b".into(), ..good() }, "shared.redis.prefix"),
            (Redis { username: "weir".into(), ..good() }, "shared.redis.username"),
            (Redis { ca_file: "ca.pem".into(), ..good() }, "shared.redis.ca_file"),
            (Redis { timeout: Duration::ZERO, ..good() }, r#"shared.redis.timeout = "0s": write "10ms" to "2s""#),
            (Redis { follow: Duration::from_secs(60), ..good() }, r#"shared.redis.follow = "1m""#),
        ];
        for (settings, said) in cases {
            let errors = settings.validate();
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert!(errors[0].to_string().contains(said), "{said}: {}", errors[0]);
        }
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_not_printed() {
        let errors = Redis { url: "redis://:hunter2@redis.example.com".into(), ..Redis::default() }.validate();
        assert_eq!(errors.len(), 1);
        assert!(!errors[0].to_string().contains("hunter2"), "{}", errors[0]);
    }
}
