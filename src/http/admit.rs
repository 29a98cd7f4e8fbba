//! Who is asking, and may they.
//!
//! A client is a verified principal, else the address it asks from (`limits/client.rs`). A listener without a login never challenges:
//! dockerd would answer with the user's Docker Hub password. Credentials that are offered anyway are used when they verify
//! and are as if they had not been sent when they do not. They are never logged, forwarded or kept; what is kept is a keyed
//! hash of them and whose they are.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher as _, Hasher as _},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use actix_http::{
    RequestHead,
    header::{AUTHORIZATION, FORWARDED, HeaderMap, HeaderName, X_FORWARDED_FOR},
};
use argon2::{Argon2, PasswordHash, PasswordVerifier as _};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use ipnet::IpNet;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::connection::Shared;
use crate::{
    asker::{Class, Client, ClientKey},
    limits::client,
};

/// Verified (or refused) credentials that are remembered, and for how long: a password change counts within a minute.
const REMEMBERED: u64 = 10_000;
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// Passwords verified at once: each takes tens of milliseconds of a core and tens of MiB.
const VERIFIED_AT_ONCE: usize = 2;

/// Passwords that may wait for their turn.
const WAITING: usize = 64;

/// The longest `Authorization` that is looked at, in bytes.
const LONGEST_CREDENTIALS: usize = 8 << 10;

/// Somebody who has a password here.
#[derive(Clone)]
pub struct Account {
    /// The principal.
    pub name: Arc<str>,
    /// `$argon2id$…`
    pub password_hash: Arc<str>,
    /// Repository patterns it may pull where anonymous may not.
    pub pull: Arc<[String]>,
    /// Hosted names it may push to.
    pub push: Arc<[String]>,
    /// Hosted names it may delete from.
    pub delete: Arc<[String]>,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Permission to be answered. It is carried in the response body and so held until the last byte is sent.
///
/// Everybody is let in for now; throttles, bans and the budget's shares will refuse here.
#[derive(Debug)]
pub struct Admission {
    /// Who was let in.
    pub client: Arc<Client>,
}

/// Why nobody could be told from the credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Busy;

/// Knows the clients of all listeners.
pub(crate) struct Gate {
    trusted_proxies: Vec<IpNet>,
    accounts: Vec<Account>,
    remembered: moka::sync::Cache<[u8; 32], Option<Arc<Client>>>,
    key: [u64; 2],
    verifying: Semaphore,
    waiting: Semaphore,
}

impl Gate {
    pub(crate) fn new(trusted_proxies: Vec<IpNet>, accounts: Vec<Account>) -> Gate {
        Gate {
            trusted_proxies,
            accounts,
            remembered: moka::sync::Cache::builder().max_capacity(REMEMBERED).time_to_live(REMEMBERED_FOR).build(),
            // The standard library's hash keys are the random numbers at hand; a guess of them is worth a look into our memory.
            key: [(); 2].map(|()| RandomState::new().build_hasher().finish()),
            verifying: Semaphore::new(VERIFIED_AT_ONCE),
            waiting: Semaphore::new(WAITING),
        }
    }

    /// The client, when no password has to be verified to know it. Allocates nothing for a peer that asked before.
    pub(crate) fn at_once(&self, shared: &Shared, head: &RequestHead) -> Option<Arc<Client>> {
        if let Some(credentials) = self.offered(head.headers()) {
            return match self.remembered.get(&self.digest(credentials))? {
                Some(principal) => Some(principal),
                None => Some(self.by_address(shared, head.headers())),
            };
        }
        Some(self.by_address(shared, head.headers()))
    }

    /// The client, after verifying what it offers.
    ///
    /// # Errors
    /// [`Busy`] when too many passwords are being verified.
    pub(crate) async fn identify(&self, shared: &Shared, head: &RequestHead) -> Result<Arc<Client>, Busy> {
        if let Some(client) = self.at_once(shared, head) {
            return Ok(client);
        }
        let Some(credentials) = self.offered(head.headers()) else {
            return Ok(self.by_address(shared, head.headers()));
        };
        let digest = self.digest(credentials);
        let _place = self.waiting.try_acquire().map_err(|_| Busy)?;
        let _turn = self.verifying.acquire().await.map_err(|_| Busy)?;
        // Somebody else may have verified the same credentials while this waited.
        let known = match self.remembered.get(&digest) {
            Some(known) => known,
            None => {
                let known = self.verify(credentials).await.ok_or(Busy)?;
                self.remembered.insert(digest, known.clone());
                known
            }
        };
        Ok(known.unwrap_or_else(|| self.by_address(shared, head.headers())))
    }

    /// Basic credentials that are worth looking at.
    fn offered<'a>(&self, headers: &'a HeaderMap) -> Option<&'a [u8]> {
        if self.accounts.is_empty() {
            return None;
        }
        let value = headers.get(AUTHORIZATION)?.as_bytes();
        let (scheme, credentials) = value.split_at_checked(6)?;
        (scheme.eq_ignore_ascii_case(b"basic ") && value.len() <= LONGEST_CREDENTIALS).then(|| credentials.trim_ascii())
    }

    fn digest(&self, credentials: &[u8]) -> [u8; 32] {
        let mut hasher = Sha256::new();
        for key in self.key {
            hasher.update(key.to_le_bytes());
        }
        hasher.update(credentials);
        hasher.finalize().into()
    }

    /// Whose credentials these are; nobody's is an answer, too. An unknown name costs what a known one costs.
    async fn verify(&self, credentials: &[u8]) -> Option<Option<Arc<Client>>> {
        let Some((name, password)) = decoded(credentials) else { return Some(None) };
        let found = self.accounts.iter().find(|account| *account.name == *name);
        let hash = found.or(self.accounts.first())?.password_hash.clone();
        let correct = tokio::task::spawn_blocking(move || {
            PasswordHash::new(&hash)
                .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
        })
        .await
        .ok()?;
        Some(found.filter(|_| correct).map(|account| {
            Arc::new(Client {
                key: ClientKey::Principal(account.name.clone()),
                pull: account.pull.clone(),
                push: account.push.clone(),
                delete: account.delete.clone(),
                class: Class::Standard,
            })
        }))
    }

    fn by_address(&self, shared: &Shared, headers: &HeaderMap) -> Arc<Client> {
        let peer = shared.peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        let forwarded = !self.trusted_proxies.is_empty()
            && (headers.contains_key(X_FORWARDED_FOR) || headers.contains_key(FORWARDED));
        if forwarded {
            let address =
                client::asking(peer, &self.trusted_proxies, texts(headers, X_FORWARDED_FOR), texts(headers, FORWARDED));
            return anonymous(address);
        }
        shared.client.borrow_mut().get_or_insert_with(|| anonymous(peer)).clone()
    }
}

fn anonymous(address: IpAddr) -> Arc<Client> {
    let none: Arc<[String]> = Arc::from([]);
    Arc::new(Client {
        key: ClientKey::Address(client::fold(address)),
        pull: none.clone(),
        push: none.clone(),
        delete: none,
        class: Class::Standard,
    })
}

/// The values of a header as text; one that is none reads as an address that nobody has, and so ends the chain.
fn texts(headers: &HeaderMap, name: HeaderName) -> std::vec::IntoIter<&str> {
    headers.get_all(name).map(|value| value.to_str().unwrap_or("?")).collect::<Vec<_>>().into_iter()
}

/// `name:password` (RFC 7617).
fn decoded(credentials: &[u8]) -> Option<(String, String)> {
    let text = String::from_utf8(BASE64_STANDARD.decode(credentials).ok()?).ok()?;
    text.split_once(':').map(|(name, password)| (name.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use actix_http::header::HeaderValue;
    use argon2::{Params, PasswordHasher as _, password_hash::SaltString};

    use super::*;

    fn account(name: &str, password: &str) -> Account {
        let salt = SaltString::from_b64("c29tZXNhbHQ").unwrap();
        let cheap =
            Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, Params::new(16, 1, 1, None).unwrap());
        let hash = cheap.hash_password(password.as_bytes(), &salt).unwrap().to_string();
        let none: Arc<[String]> = Arc::from([]);
        let pull = Arc::from(["corp/*".to_owned()]);
        Account { name: name.into(), password_hash: hash.into(), pull, push: none.clone(), delete: none }
    }

    fn head(headers: &[(HeaderName, &str)]) -> RequestHead {
        let mut head = RequestHead::default();
        for (name, value) in headers {
            head.headers.append(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        head
    }

    fn basic(credentials: &str) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(credentials))
    }

    #[tokio::test]
    async fn credentials_count_when_they_verify_and_are_nothing_when_they_do_not() {
        let gate = Gate::new(Vec::new(), vec![account("ci", "secret:with:colons"), account("ann", "b")]);
        let shared = Shared::new(Some("192.0.2.1:5000".parse().unwrap()), false);
        let key = async |authorization: &str| {
            gate.identify(&shared, &head(&[(AUTHORIZATION, authorization)])).await.unwrap().key.to_string()
        };
        for _ in 0..2 {
            assert_eq!(key(&basic("ci:secret:with:colons")).await, "ci");
            assert_eq!(key(&basic("ann:b")).await, "ann");
            for wrong in [
                basic("ci:b"),
                basic("ci:"),
                basic("nobody:b"),
                basic("ci"),
                basic(""),
                "Basic".into(),
                "Basic !".into(),
                "Bearer abc".into(),
                format!("Basic {}", "A".repeat(100_000)),
            ] {
                assert_eq!(key(&wrong).await, "192.0.2.1", "{wrong:.40}");
            }
        }
        assert!(gate.at_once(&shared, &head(&[(AUTHORIZATION, &basic("ci:secret:with:colons"))])).is_some());
        assert!(gate.at_once(&shared, &head(&[(AUTHORIZATION, &basic("ci:never seen"))])).is_none());
    }

    #[test]
    fn without_accounts_nobody_s_password_is_looked_at() {
        let gate = Gate::new(Vec::new(), Vec::new());
        let shared = Shared::new(Some("[2001:db8::1]:5000".parse().unwrap()), false);
        let client = gate.at_once(&shared, &head(&[(AUTHORIZATION, &basic("hubuser:hubpassword"))])).unwrap();
        assert_eq!(client.key.to_string(), "2001:db8::/64");
    }

    #[test]
    fn forwarding_headers_count_only_from_trusted_proxies() {
        let gate = Gate::new(vec!["10.0.0.0/8".parse().unwrap()], Vec::new());
        let key = |peer: &str, headers: &[(HeaderName, &str)]| {
            let shared = Shared::new(Some(peer.parse().unwrap()), false);
            gate.at_once(&shared, &head(headers)).unwrap().key.to_string()
        };
        assert_eq!(key("192.0.2.1:1", &[(X_FORWARDED_FOR, "1.1.1.1")]), "192.0.2.1");
        assert_eq!(
            key("10.0.0.1:1", &[(X_FORWARDED_FOR, "1.1.1.1"), (X_FORWARDED_FOR, "2001:db8::9")]),
            "2001:db8::/64"
        );
        assert_eq!(key("10.0.0.1:1", &[(FORWARDED, "for=192.0.2.9")]), "192.0.2.9");
        assert_eq!(key("10.0.0.1:1", &[]), "10.0.0.1");
        // One connection of a proxy carries many clients.
        let shared = Shared::new(Some("10.0.0.1:1".parse().unwrap()), false);
        for client in ["192.0.2.1", "192.0.2.2"] {
            assert_eq!(gate.at_once(&shared, &head(&[(X_FORWARDED_FOR, client)])).unwrap().key.to_string(), client);
        }
    }

    #[tokio::test]
    async fn a_flood_of_passwords_is_turned_away() {
        let gate = Gate::new(Vec::new(), vec![account("ci", "a")]);
        let shared = Shared::new(Some("192.0.2.1:5000".parse().unwrap()), false);
        let _all = gate.waiting.acquire_many(WAITING as u32).await.unwrap();
        assert_eq!(gate.identify(&shared, &head(&[(AUTHORIZATION, &basic("ci:a"))])).await, Err(Busy));
    }
}
