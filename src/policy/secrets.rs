//! Credentials in the config and the history of an image, and in files of its layers. Their values go nowhere: what is found is a kind and a place.
//!
//! A credential is known by what its issuer makes it look like ([`patterns`]), or in the environment and in build arguments by the name
//! of the variable ([`names`]). A pattern of random characters alone would call every checksum a secret: `GPG_KEY`, `*_SHA256` and
//! `*_VERSION` of official images are none.

mod files;
mod names;
mod patterns;

pub(super) use self::files::{MOST_FILE, in_file, is_looked_at};

use super::{config::ImageConfig, history::Step};

/// A credential that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Secret {
    /// What it is, as `AWS access key` or `a value under a secret's name`.
    pub kind: &'static str,
    /// Where it stands, as `variable DB_PASSWORD` or `step 3 of the history`.
    pub place: String,
}

/// What is found by the name alone.
const BY_NAME: &str = "a value under a secret's name";
/// More are not listed: who mends so many sees the rest afterwards.
const MOST: usize = 100;

/// Looks at all that a config says.
pub(super) fn find(config: &ImageConfig) -> Vec<Secret> {
    let mut found = Found::default();
    for (number, variable) in config.env.iter().enumerate() {
        found.look_at_variable(variable, &place("variable", variable, number));
    }
    for (number, (key, value)) in config.labels.iter().enumerate() {
        found.look(&format!("{key}={value}"), &place("label", key, number));
    }
    for word in &config.words {
        found.look(word, "the command");
    }
    for (number, created_by) in config.history.iter().enumerate() {
        let place = format!("step {} of the history", number + 1);
        let step = Step::parse(created_by);
        let given = match step.instruction {
            "ENV" | "ARG" => step.arguments,
            _ => step.build_arguments,
        };
        given.split_whitespace().for_each(|variable| found.look_at_name(variable, &place));
        found.look(created_by, &place);
    }
    found.0
}

#[derive(Default)]
struct Found(Vec<Secret>);

/// Whether a text, such as a path, is or holds a credential.
pub(super) fn is_in_text(text: &str) -> bool {
    patterns::kinds(text).next().is_some()
}

impl Found {
    fn look_at_variable(&mut self, variable: &str, place: &str) {
        self.look_at_name(variable, place);
        self.look(variable, place);
    }

    fn look_at_name(&mut self, variable: &str, place: &str) {
        if let Some((name, value)) = variable.split_once('=')
            && names::is_secret(name, value)
        {
            self.add(BY_NAME, place);
        }
    }

    fn look(&mut self, text: &str, place: &str) {
        patterns::kinds(text).for_each(|kind| self.add(kind, place));
    }

    fn add(&mut self, kind: &'static str, place: &str) {
        let secret = Secret { kind, place: place.to_owned() };
        // A pattern says more than a name.
        let is_known = |known: &Secret| known.place == secret.place && (known.kind == kind || kind == BY_NAME);
        if self.0.len() < MOST && !self.0.iter().any(is_known) {
            self.0.retain(|known| known.place != secret.place || known.kind != BY_NAME);
            self.0.push(secret);
        }
    }
}

/// Names what a publisher named, unless the name itself may be a credential or no text to print.
fn place(what: &str, text: &str, number: usize) -> String {
    let name = text.split_once('=').map_or(text, |(name, _)| name);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/');
    match name.len() <= 100 && !name.is_empty() && name.bytes().all(is_plain) && patterns::kinds(name).next().is_none()
    {
        true => format!("{what} {name}"),
        false => format!("{what} {} of the config", number + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(env: &[String], history: &[String]) -> Vec<(&'static str, String)> {
        let config = ImageConfig { env: env.to_vec(), history: history.to_vec(), ..ImageConfig::default() };
        find(&config).into_iter().map(|secret| (secret.kind, secret.place)).collect()
    }

    #[test]
    fn a_secret_is_told_by_its_kind_and_its_place_and_never_by_its_value() {
        let token = format!("ghp_{}", "aB3".repeat(12));
        let env = [format!("A={token}"), format!("{token}=x"), "DB_PASSWORD=correct-horse".to_owned()];
        let history = [format!("RUN |1 TOKEN={token} /bin/sh -c make"), "ARG NPM_TOKEN=abcdefgh".to_owned()];
        let found = found(&env, &history);
        let github = "a GitHub token";
        let expected = [
            (github, "variable A"),
            (github, "variable 2 of the config"),
            (BY_NAME, "variable DB_PASSWORD"),
            (github, "step 1 of the history"),
            (BY_NAME, "step 2 of the history"),
        ];
        assert_eq!(found, expected.map(|(kind, place)| (kind, place.to_owned())));
        assert!(!format!("{found:?}").contains("aB3") && !format!("{found:?}").contains("horse"));
        let config = ImageConfig {
            labels: vec![("k".to_owned(), token.clone())],
            words: vec![format!("--token={token}")],
            ..ImageConfig::default()
        };
        let places: Vec<String> = find(&config).into_iter().map(|secret| secret.place).collect();
        assert_eq!(places, ["label k", "the command"]);
    }

    #[test]
    fn what_official_images_hold_is_no_secret() {
        let hex = "7169605f62c751356d054a26a821e680e5fa6305";
        let env = [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            format!("GPG_KEY={}", hex.to_uppercase()),
            format!("GPG_KEYS={hex} {hex}"),
            format!("PYTHON_SHA256={}", "0123456789abcdef".repeat(4)),
            "PYTHON_VERSION=3.12.8".to_owned(),
            "NODE_VERSION=22.12.0".to_owned(),
            "YARN_VERSION=1.22.22".to_owned(),
            format!("RABBITMQ_PGP_KEY_ID=0x{}", hex.to_uppercase()),
            "PHP_ASC_URL=https://www.php.net/get/php-8.4.1.tar.xz.asc/from/this/mirror".to_owned(),
            "POSTGRES_PASSWORD_FILE=/run/secrets/db".to_owned(),
            "NGINX_VERSION=1.27.3".to_owned(),
            "DOCKER_TLS_CERTDIR=/certs".to_owned(),
            "JAVA_TOOL_OPTIONS=-Djavax.net.ssl.trustStorePassword=changeit".to_owned(),
            "API_TOKEN=".to_owned(),
            "API_TOKEN=${TOKEN}".to_owned(),
            "SECRET_KEY=changeme".to_owned(),
            "TOKEN_TTL=3600000".to_owned(),
        ];
        let history = [
            format!("ENV GPG_KEY={hex}"),
            "RUN /bin/sh -c set -eux; export GNUPGHOME=\"$(mktemp -d)\"; gpg --batch --keyserver hkps://keys.openpgp.org --recv-keys \"$GPG_KEY\""
                .to_owned(),
            "RUN |1 TARGETARCH=amd64 /bin/sh -c curl -fsSL https://example.com/x".to_owned(),
        ];
        assert_eq!(found(&env, &history), []);
    }

    #[test]
    fn an_image_full_of_secrets_gives_a_bounded_list() {
        let env: Vec<String> = (0..1000).map(|number| format!("TOKEN{number}_PASSWORD=correct-horse")).collect();
        assert_eq!(found(&env, &[]).len(), MOST);
    }
}
