//! `[shared.peers]`: how the replicas of a fleet reach one another, and the signature by which one believes another.
//!
//! A request to another replica is signed with the secret that all of them know, for the URL of that replica, what is asked for, and the
//! time. The secret itself is never sent: the URL comes from Redis, and an attacker who writes there could name a server of its own. A
//! signature that is seen on the network is good for that blob or answer at that replica, for [`SKEW`].
//!
//! # What it guarantees of an answer
//! * A blob is hashed by who gets it. An answer is not, so it is sealed: a MAC with the same secret over the URL of the replica that was
//!   asked, the token and the key of the flight, the nonce of the request, and all bytes of the answer. Who gets it believes that a replica
//!   of the fleet, reached by that URL, said exactly this to this request.
//! * What was said of another flight, to another request, or at another time does not match: neither who writes to Redis nor who is
//!   between two replicas can have one tag answered with what another names, or with what it named before.
//!
//! # What it refuses to do
//! * It hides nothing. Who is between two replicas reads what they say, and can keep it from arriving; then the replica asks upstream.
//! * It keeps no list of nonces. Who repeats a request that it saw gets the answer that it saw, or a younger one.
//!
//! # What breaks if a line is moved
//! * Tokens, keys and nonces are checked to be hexadecimal ([`Question::new`]) *before* they are signed or verified. They stand side by side
//!   in what is signed, so that one with a space or a line's end could be read as two.
//! * What requests and what answers are signed as begins differently. Else a replica that can be made to sign the one would sign the other.

use std::{
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ring::hmac;
use serde::{Deserialize, Serialize};
use url::Url;
use weir_storage::{
    oci::{Algorithm, Digest},
    setting::ConfigError,
};

use crate::random::unique;

/// How far the clocks of two replicas may be apart.
const SKEW: Duration = Duration::from_secs(5 * 60);

/// A secret that is shorter can be guessed.
const SECRET_BYTES: usize = 32;

/// The name of the signature in `Authorization`.
const SCHEME: &str = "Weir-Peer";

/// The longest of the words that a question has.
const WORD: usize = 64;

/// Where the other replicas get the blobs that this one fetches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Peers {
    /// The address that the other replicas connect to. It is not for clients.
    pub listen: SocketAddr,
    /// The URL by which they reach it: this replica's own, no load balancer's.
    pub url: String,
    /// A file with a secret of at least 32 characters, the same for all replicas.
    pub secret_file: PathBuf,
}

impl Default for Peers {
    fn default() -> Peers {
        Peers { listen: SocketAddr::from(([127, 0, 0, 1], 5002)), url: String::new(), secret_file: PathBuf::new() }
    }
}

impl Peers {
    /// Everything that is wrong with the table. No file is read.
    pub(crate) fn validate(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        if !is_plain(&self.url) {
            let fix = r#"write the URL by which the other replicas reach this one, such as "http://10.0.0.5:5002""#;
            errors.push(match self.url.contains('@') {
                true => ConfigError::without_value("shared.peers.url", fix),
                false => ConfigError::new("shared.peers.url", &self.url, fix),
            });
        }
        if self.secret_file.as_os_str().is_empty() {
            let fix = "name a file with a secret that all replicas have, such as `openssl rand -hex 32` prints";
            errors.push(ConfigError::new("shared.peers.secret_file", &self.secret_file, fix));
        }
        errors
    }
}

/// The request of one replica for the answer of another one's flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    token: String,
    key: String,
    nonce: String,
}

/// What all replicas of a fleet know, and the URL of this one. Cloning is cheap.
#[derive(Clone)]
pub struct PeerSecret {
    key: Arc<hmac::Key>,
    url: Arc<str>,
}

impl fmt::Debug for PeerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerSecret").field("url", &self.url).finish_non_exhaustive()
    }
}

impl PeerSecret {
    /// Reads the secret.
    ///
    /// # Errors
    /// A file that cannot be read, or whose secret is too short.
    pub fn read(settings: &Peers) -> Result<PeerSecret, ConfigError> {
        let wrong =
            |fix: &str| Err(ConfigError::new("shared.peers.secret_file", &settings.secret_file, fix.to_owned()));
        let bytes = match std::fs::read(&settings.secret_file) {
            Ok(bytes) => bytes,
            Err(error) => return wrong(&format!("{error}; name a readable file")),
        };
        let secret = bytes.trim_ascii();
        if secret.len() < SECRET_BYTES {
            return wrong("write at least 32 characters into it, such as `openssl rand -hex 32` prints");
        }
        Ok(PeerSecret {
            key: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret)),
            url: Arc::from(settings.url.as_str()),
        })
    }

    /// The URL by which the other replicas reach this one.
    pub fn url(&self) -> &Arc<str> {
        &self.url
    }

    /// The `Authorization` of a request for this blob to the replica with this URL.
    pub fn sign(&self, url: &str, digest: &Digest, now: SystemTime) -> String {
        self.authorization(url, &digest.to_string(), now)
    }

    /// Whether a replica of this fleet asks this one for this blob, and lately. It takes as long for any wrong signature.
    pub fn admits(&self, authorization: &str, digest: &Digest, now: SystemTime) -> bool {
        self.is_authorized(authorization, &digest.to_string(), now)
    }

    /// The `Authorization` of this question to the replica with this URL.
    pub fn sign_question(&self, url: &str, question: &Question, now: SystemTime) -> String {
        self.authorization(url, &format!("answer {question}"), now)
    }

    /// As [`PeerSecret::admits`], of a question.
    pub fn admits_question(&self, authorization: &str, question: &Question, now: SystemTime) -> bool {
        self.is_authorized(authorization, &format!("answer {question}"), now)
    }

    /// What makes these bytes this replica's answer to this question, in hexadecimal digits.
    pub fn seal(&self, question: &Question, answer: &[u8]) -> String {
        hex_of(hmac::sign(&self.key, &sealed(&self.url, question, answer)).as_ref())
    }

    /// Whether these bytes are what the replica with this URL answered to this question.
    pub fn is_sealed(&self, url: &str, question: &Question, answer: &[u8], seal: &str) -> bool {
        bytes_of(seal).is_some_and(|tag| hmac::verify(&self.key, &sealed(url, question, answer), &tag).is_ok())
    }

    fn authorization(&self, url: &str, what: &str, now: SystemTime) -> String {
        let seconds = since_epoch(now);
        let tag = hmac::sign(&self.key, message(url, what, seconds).as_bytes());
        format!("{SCHEME} {seconds}.{}", hex_of(tag.as_ref()))
    }

    fn is_authorized(&self, authorization: &str, what: &str, now: SystemTime) -> bool {
        let signature = authorization.strip_prefix(SCHEME).and_then(|rest| rest.trim_start().split_once('.'));
        let Some((seconds, hex)) = signature else { return false };
        let (Ok(seconds), Some(tag)) = (seconds.parse::<u64>(), bytes_of(hex)) else { return false };
        seconds.abs_diff(since_epoch(now)) <= SKEW.as_secs()
            && hmac::verify(&self.key, message(&self.url, what, seconds).as_bytes(), &tag).is_ok()
    }
}

impl Question {
    /// Asks for the answer of the flight with this token, for an object whose key has this hash; `None` when a word is not of up to 64
    /// lower-case hexadecimal digits. The nonce is of one request.
    pub fn new(token: &str, key: &str, nonce: &str) -> Option<Question> {
        let is_word = |word: &&str| {
            (1..=WORD).contains(&word.len()) && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let are_words = [token, key, nonce].iter().all(is_word);
        are_words.then(|| Question { token: token.to_owned(), key: key.to_owned(), nonce: nonce.to_owned() })
    }

    /// As [`Question::new`], with a nonce that no other has.
    pub(crate) fn of(token: &str, key: &str) -> Option<Question> {
        Question::new(token, key, &unique())
    }

    /// Which flight.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The hash of the object's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What tells this request from all others.
    pub fn nonce(&self) -> &str {
        &self.nonce
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.token, self.key, self.nonce)
    }
}

/// How an object's key is named in a question: keys have names of repositories, which may be long.
pub(crate) fn hash_of(key: &str) -> String {
    Algorithm::Sha256.digest(key.as_bytes()).hex()
}

/// The URL of the replica whose lease has this token, seen from the replica with the URL `own`; `None` when the other one has no listener.
/// Redis is believed in nothing more than a host and a port, so that no other path and no credential is sent anywhere.
pub(crate) fn owner_of<'a>(token: &'a str, own: &str) -> Option<&'a str> {
    token.split_once(' ').map(|(_, url)| url).filter(|url| *url != own && is_plain(url))
}

/// Whether it is `http`, a host, and a port if any, and nothing more.
fn is_plain(text: &str) -> bool {
    let bare = |url: Url| {
        let is_anonymous = url.username().is_empty() && url.password().is_none();
        let is_root = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        url.scheme() == "http" && url.host_str().is_some() && is_anonymous && is_root
    };
    // The parser drops spaces, and takes a slash at the end for none.
    !text.ends_with('/') && !text.contains(char::is_whitespace) && Url::parse(text).is_ok_and(bare)
}

fn message(url: &str, what: &str, seconds: u64) -> String {
    format!("weir peer 1\n{url}\n{what}\n{seconds}")
}

fn sealed(url: &str, question: &Question, answer: &[u8]) -> Vec<u8> {
    let mut message = format!("weir answer 1\n{url}\n{question}\n").into_bytes();
    message.extend_from_slice(answer);
    message
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn since_epoch(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair.first()?)? << 4 | digit(pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(directory: &tempfile::TempDir, text: &str, url: &str) -> Result<PeerSecret, ConfigError> {
        let secret_file = directory.path().join("secret");
        std::fs::write(&secret_file, text).unwrap();
        PeerSecret::read(&Peers { url: url.to_owned(), secret_file, ..Peers::default() })
    }

    #[test]
    fn a_signature_is_good_for_one_blob_at_one_replica_and_for_a_while() {
        let directory = tempfile::tempdir().unwrap();
        let (word, other_word) = ("a".repeat(32), "b".repeat(32));
        let one = secret(&directory, &format!("{word}\n"), "http://one:5002").unwrap();
        let asking = secret(&directory, &word, "http://two:5002").unwrap();
        let elsewhere = secret(&directory, &other_word, "http://two:5002").unwrap();
        let (blob, another) = (Algorithm::Sha256.digest(b"a"), Algorithm::Sha256.digest(b"b"));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let good = asking.sign("http://one:5002", &blob, now);
        assert!(one.admits(&good, &blob, now));
        assert!(one.admits(&good, &blob, now + SKEW) && one.admits(&good, &blob, now - SKEW));
        assert!(!one.admits(&good, &blob, now + SKEW + Duration::from_secs(1)));
        assert!(!one.admits(&good, &another, now), "it is for another blob");
        assert!(
            !one.admits(&asking.sign("http://elsewhere:5002", &blob, now), &blob, now),
            "it is for another replica"
        );
        assert!(!one.admits(&elsewhere.sign("http://one:5002", &blob, now), &blob, now), "it has another secret");
        let later = good.replacen("1000000", "1000001", 1);
        assert!(!one.admits(&later, &blob, now), "its time is not the one that was signed");
        for bad in ["", "Weir-Peer", "Weir-Peer 1", "Weir-Peer 1.zz", "Weir-Peer 1000000.", "Weir-Peer 1000000.é"] {
            assert!(!one.admits(bad, &blob, now), "{bad}");
        }
        assert!(!format!("{one:?}").contains(&word), "{one:?}");
    }

    #[test]
    fn an_answer_is_believed_from_the_replica_and_for_the_request_that_it_was_sealed_for() {
        let directory = tempfile::tempdir().unwrap();
        let one = secret(&directory, &"a".repeat(32), "http://one:5002").unwrap();
        let asking = secret(&directory, &"a".repeat(32), "http://two:5002").unwrap();
        let elsewhere = secret(&directory, &"b".repeat(32), "http://one:5002").unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let question = Question::new("0a", "1b", "2c").unwrap();
        let others = [("0b", "1b", "2c"), ("0a", "1c", "2c"), ("0a", "1b", "2d")];
        let others = others.map(|(token, key, nonce)| Question::new(token, key, nonce).unwrap());
        let good = asking.sign_question("http://one:5002", &question, now);
        assert!(one.admits_question(&good, &question, now));
        assert!(!one.admits_question(&good, &question, now + SKEW + Duration::from_secs(1)));
        assert!(!one.admits_question(&asking.sign_question("http://three:5002", &question, now), &question, now));
        let seal = one.seal(&question, b"said");
        assert!(asking.is_sealed("http://one:5002", &question, b"said", &seal));
        assert!(!asking.is_sealed("http://three:5002", &question, b"said", &seal), "another replica said it");
        assert!(!asking.is_sealed("http://one:5002", &question, b"sail", &seal));
        assert!(!asking.is_sealed("http://one:5002", &question, b"said", &elsewhere.seal(&question, b"said")));
        for other in &others {
            assert!(!one.admits_question(&good, other, now), "{other}");
            assert!(!asking.is_sealed("http://one:5002", other, b"said", &seal), "{other}");
        }
        for bad in ["", "0g", "0A", "0 1", "0a\n", &"0".repeat(WORD + 1)] {
            assert_eq!(Question::new(bad, "1b", "2c"), None, "{bad}");
            assert_eq!(Question::new("0a", bad, "2c"), None, "{bad}");
            assert_eq!(Question::new("0a", "1b", bad), None, "{bad}");
        }
    }

    #[test]
    fn a_token_names_the_url_of_another_replica_and_of_nothing_else() {
        let own = "http://10.0.0.5:5002";
        assert_eq!(owner_of("a1b2 http://10.0.0.6:5002", own), Some("http://10.0.0.6:5002"));
        for token in ["a1b2", "a1b2 ", "a1b2 http://10.0.0.5:5002", "a1b2 file:///etc", "a1b2 http://10.0.0.6/a?b="] {
            assert_eq!(owner_of(token, own), None, "{token}");
        }
    }

    #[test]
    fn a_mistake_is_named_with_its_key_and_what_to_write() {
        let good = || Peers { url: "http://10.0.0.5:5002".into(), secret_file: "secret".into(), ..Peers::default() };
        assert_eq!(good().validate(), []);
        let credentials = ["http://a@b:1", "http://:c@b:1"];
        let bad = [
            "",
            "10.0.0.5:5002",
            "https://10.0.0.5",
            "http://10.0.0.5/a",
            "http://10.0.0.5/",
            "http://a b",
            "http://b:1?",
        ];
        for url in bad.into_iter().chain(credentials) {
            let errors = Peers { url: url.to_owned(), ..good() }.validate();
            assert!(errors.len() == 1 && errors[0].to_string().starts_with("shared.peers.url"), "{url}: {errors:?}");
        }
        let errors = Peers { secret_file: PathBuf::new(), ..good() }.validate();
        assert!(errors.len() == 1 && errors[0].to_string().contains("openssl rand -hex 32"), "{errors:?}");
        let directory = tempfile::tempdir().unwrap();
        let error = secret(&directory, "hunter2\n", "http://one:5002").unwrap_err().to_string();
        assert!(error.contains("at least 32 characters") && !error.contains("hunter2"), "{error}");
    }
}
