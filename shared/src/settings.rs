//! `[shared]`: the engines by which several replicas are one.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use url::Url;
use weir_storage::setting::{ConfigError, Span, as_span};

use crate::{peers::Peers, redis_settings::Redis};

/// What replicas share. Without any table in it nothing is shared, and no engine is asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The bucket behind the disk.
    pub s3: Option<S3>,
    /// By what it is agreed who asks upstream.
    pub redis: Option<Redis>,
    /// How replicas give one another what arrives.
    pub peers: Option<Peers>,
}

/// `[shared.s3]`: a bucket of an S3-compatible store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3 {
    /// The URL of the store; empty is that of AWS in `region`, or what `AWS_ENDPOINT_URL` says.
    pub endpoint: String,
    /// The region that requests are signed for.
    pub region: String,
    /// The name of the bucket, which must be there.
    pub bucket: String,
    /// What all keys begin with, so that a bucket can hold more than this.
    pub prefix: String,
    /// Whether the bucket stands in the path (true) or before the host name.
    pub path_style: bool,
    /// Certificates that are trusted besides those of the system, as PEM; empty is none.
    pub ca_file: PathBuf,
    /// A file with credentials, as the AWS programs write it; empty is by the `AWS_*` variables or the role of the machine.
    pub credentials_file: PathBuf,
    /// How long a connection may take (1 s).
    #[serde(with = "as_span")]
    pub connect_timeout: Duration,
    /// How long an answer, or the next bytes of a blob, may take (3 s); after it the bucket counts as away for this request.
    #[serde(with = "as_span")]
    pub timeout: Duration,
    /// Blobs that are written to the bucket at once (4), each with one part of 8 MiB in memory.
    pub uploads: usize,
}

impl Default for S3 {
    fn default() -> S3 {
        S3 {
            endpoint: String::new(),
            region: "us-east-1".to_owned(),
            bucket: String::new(),
            prefix: String::new(),
            path_style: true,
            ca_file: PathBuf::new(),
            credentials_file: PathBuf::new(),
            connect_timeout: Duration::from_secs(1),
            timeout: Duration::from_secs(3),
            uploads: 4,
        }
    }
}

impl Settings {
    /// Everything that is wrong with the tables. The keys begin with `shared`. No file is read, and no engine asked.
    pub fn validate(&self) -> Vec<ConfigError> {
        let mut errors = self.s3.as_ref().map(S3::validate).unwrap_or_default();
        if let Some(redis) = &self.redis {
            errors.extend(redis.validate());
            if self.s3.is_none() {
                let fix = "replicas hand over what they fetched in a bucket; write [shared.s3], too, or remove [shared.redis]";
                errors.push(ConfigError::without_value("shared.redis", fix));
            }
        }
        if let Some(peers) = &self.peers {
            errors.extend(peers.validate());
            if self.redis.is_none() {
                let fix = "a replica learns from Redis which other one fetches a blob; write [shared.redis], too, or remove [shared.peers]";
                errors.push(ConfigError::without_value("shared.peers", fix));
            }
        }
        errors
    }
}

impl S3 {
    fn validate(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        if let Some(fix) = wrong_endpoint(&self.endpoint) {
            // A user in a URL may come with a password.
            errors.push(match self.endpoint.contains('@') {
                true => ConfigError::without_value("shared.s3.endpoint", fix),
                false => ConfigError::new("shared.s3.endpoint", &self.endpoint, fix),
            });
        }
        if !is_bucket(&self.bucket) {
            let fix = "name a bucket: 3 to 63 lower-case letters, digits, dots and hyphens";
            errors.push(ConfigError::new("shared.s3.bucket", &self.bucket, fix));
        }
        if self.region.is_empty() || !self.region.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            let fix = r#"write the region that the store signs for, such as "us-east-1""#;
            errors.push(ConfigError::new("shared.s3.region", &self.region, fix));
        }
        if !is_prefix(&self.prefix) {
            let fix = r#"write words of letters, digits, "_", "-" and "." with "/" between them, such as "weir/prod""#;
            errors.push(ConfigError::new("shared.s3.prefix", &self.prefix, fix));
        }
        if !self.path_style && !self.endpoint.is_empty() && self.bucket.contains('.') {
            let fix =
                "with a dot in its name the bucket is no part of a host name that a certificate covers; write true";
            errors.push(ConfigError::new("shared.s3.path_style", self.path_style, fix));
        }
        if !(Duration::from_millis(50)..=Duration::from_secs(10)).contains(&self.connect_timeout) {
            let fix = r#"write "50ms" to "10s""#;
            errors.push(ConfigError::new("shared.s3.connect_timeout", Span(self.connect_timeout).to_string(), fix));
        }
        if !(Duration::from_millis(500)..=Duration::from_secs(20)).contains(&self.timeout) {
            let fix = r#"write "500ms" to "20s": a client waits for it, and containerd gives up after 30 s"#;
            errors.push(ConfigError::new("shared.s3.timeout", Span(self.timeout).to_string(), fix));
        }
        if !(1..=32).contains(&self.uploads) {
            let fix = "write 1 to 32: each holds 8 MiB in memory";
            errors.push(ConfigError::new("shared.s3.uploads", self.uploads, fix));
        }
        errors
    }
}

fn wrong_endpoint(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return None;
    }
    let Ok(url) = Url::parse(text) else { return Some(r#"not a URL; write one such as "https://s3.example.com""#) };
    if !url.username().is_empty() || url.password().is_some() {
        return Some(
            "credentials have no place in a URL; put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or into credentials_file",
        );
    }
    let is_http = matches!(url.scheme(), "http" | "https") && url.host_str().is_some();
    let is_plain = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
    (!is_http || !is_plain).then_some(
        r#"write scheme, host and port alone, such as "https://s3.example.com:9000"; the bucket has a key of its own"#,
    )
}

fn is_bucket(name: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
    let is_outer = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (3..=63).contains(&name.len())
        && name.chars().all(is_inner)
        && name.starts_with(is_outer)
        && name.ends_with(is_outer)
}

fn is_prefix(prefix: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty()
            && !matches!(word, "." | "..")
            && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
    };
    prefix.is_empty() || prefix.len() <= 200 && prefix.split('/').all(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_named_with_its_key_and_what_to_write() {
        let good = || S3 { bucket: "weir".to_owned(), ..S3::default() };
        assert_eq!(good().validate(), []);
        let cases: [(S3, &str); 12] = [
            (S3::default(), r#"shared.s3.bucket = "": name a bucket"#),
            (S3 { bucket: "Weir".into(), ..good() }, r#"shared.s3.bucket = "Weir""#),
            (S3 { bucket: "-weir".into(), ..good() }, r#"shared.s3.bucket = "-weir""#),
            (S3 { endpoint: "s3.example.com".into(), ..good() }, r#"shared.s3.endpoint = "s3.example.com": not a URL"#),
            (S3 { endpoint: "ftp://s3.example.com".into(), ..good() }, "shared.s3.endpoint"),
            (S3 { endpoint: "https://s3.example.com/weir".into(), ..good() }, "the bucket has a key of its own"),
            (S3 { prefix: "/a".into(), ..good() }, r#"shared.s3.prefix = "/a""#),
            (S3 { prefix: "a/../b".into(), ..good() }, "shared.s3.prefix"),
            (S3 { region: String::new(), ..good() }, "shared.s3.region"),
            (S3 { timeout: Duration::from_secs(60), ..good() }, r#"shared.s3.timeout = "1m""#),
            (S3 { connect_timeout: Duration::ZERO, ..good() }, r#"shared.s3.connect_timeout = "0s""#),
            (S3 { uploads: 0, ..good() }, "shared.s3.uploads = 0: write 1 to 32"),
        ];
        for (settings, said) in cases {
            let errors = settings.validate();
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert!(errors[0].to_string().contains(said), "{said}: {}", errors[0]);
        }
    }

    #[test]
    fn redis_without_a_bucket_is_refused() {
        let settings = Settings { redis: Some(Redis::default()), ..Settings::default() };
        let errors = settings.validate();
        assert!(errors.len() == 1 && errors[0].to_string().contains("write [shared.s3]"), "{errors:?}");
        let s3 = Some(S3 { bucket: "weir".to_owned(), ..S3::default() });
        assert_eq!(Settings { s3, ..settings }.validate(), []);
        let peers = Peers { url: "http://one:5002".into(), secret_file: "secret".into(), ..Peers::default() };
        let errors = Settings { peers: Some(peers), ..Settings::default() }.validate();
        assert!(errors.len() == 1 && errors[0].to_string().contains("write [shared.redis]"), "{errors:?}");
    }

    #[test]
    fn a_password_in_the_endpoint_is_refused_and_not_printed() {
        let errors =
            S3 { endpoint: "https://me:hunter2@s3.example.com".into(), bucket: "weir".into(), ..S3::default() }
                .validate();
        assert_eq!(errors.len(), 1);
        assert!(!errors[0].to_string().contains("hunter2"), "{}", errors[0]);
    }
}
