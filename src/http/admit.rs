//! Who is asking, and may they: identity → ban → throttle.
//!
//! A client is a verified principal, else the address it asks from (`limits/client.rs`). A listener without a login never challenges:
//! dockerd would answer with the user's Docker Hub password. Credentials that are offered anyway, as Basic or in the header that
//! `server.token_header` names, are used when they verify and are as if they had not been sent when they do not; a listener with a login
//! refuses them then (401), so that a client whose password has expired does not silently become anonymous. They are never logged or
//! forwarded.
//!
//! The permit that [`Gate::admit`] gives is held by the request's scope, and so until the last byte of the response is sent.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use super::{peer::Peer, printable::printable};
use crate::{
    client::{Client, ClientKey},
    identity::{AuthError, Authenticator, Credentials, MAX_LENGTH, Principal},
    limits::{
        Limits, LimitsConfig, address,
        allowlist::bypasses,
        permit::{AdmissionRequest, Denied, LogFields, Permit, RequestInfo, RequestKind},
    },
    telemetry::DENIALS,
};
use actix_http::{
    RequestHead,
    header::{AUTHORIZATION, FORWARDED, HeaderMap, HeaderName, USER_AGENT, X_FORWARDED_FOR},
};

/// Why a client was not identified by its credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoginError {
    /// They are wrong, and the listener has a login.
    Wrong,
    /// They were not verified.
    Unverified(AuthError),
}

/// What a request offers to be known by.
enum Offered {
    Nothing,
    /// Something that is no name and password.
    Unreadable,
    Credentials(Credentials),
}

/// Knows the clients of all listeners.
pub(crate) struct Gate {
    pub(crate) limits: Limits,
    authenticator: Authenticator,
}

impl Gate {
    pub(crate) fn new(limits: Limits, authenticator: Authenticator) -> Gate {
        Gate { limits, authenticator }
    }

    /// The client, when no password has to be verified to know it. Allocates nothing for an anonymous peer that asked before.
    pub(crate) fn at_once(&self, peer: &Peer, head: &RequestHead) -> Option<Arc<Client>> {
        let config = self.limits.config();
        let principal = match offered(&config, head.headers()) {
            Offered::Nothing => return Some(self.by_address(&config, peer, head.headers())),
            Offered::Unreadable => None,
            Offered::Credentials(credentials) => {
                self.authenticator.recall(&credentials, address(&config, peer, head.headers()))?
            }
        };
        self.client_of(&config, peer, head.headers(), principal).ok()
    }

    /// The client, after verifying what it offers.
    ///
    /// # Errors
    /// Credentials that are wrong, on a listener with a login; elsewhere they are as if they had not been sent, for a client may send what
    /// it has for another registry. And [`AuthError`].
    pub(crate) async fn identify(&self, peer: &Peer, head: &RequestHead) -> Result<Arc<Client>, LoginError> {
        let offered = offered(&self.limits.config(), head.headers());
        let principal = match offered {
            Offered::Nothing | Offered::Unreadable => None,
            Offered::Credentials(credentials) => {
                let from = address(&self.limits.config(), peer, head.headers());
                self.authenticator.verify(&credentials, from).await.map_err(LoginError::Unverified)?
            }
        };
        self.client_of(&self.limits.config(), peer, head.headers(), principal)
    }

    fn client_of(
        &self,
        config: &LimitsConfig,
        peer: &Peer,
        headers: &HeaderMap,
        principal: Option<Principal>,
    ) -> Result<Arc<Client>, LoginError> {
        match principal {
            Some(principal) => Ok(self.by_name(config, peer, headers, principal.name)),
            None if peer.login => Err(LoginError::Wrong),
            None => Ok(self.by_address(config, peer, headers)),
        }
    }

    /// Permission to be answered, with a line in the log for what is out of the ordinary.
    ///
    /// # Errors
    /// The words to refuse it with.
    pub(crate) fn admit(
        &self,
        client: Arc<Client>,
        peer: &Peer,
        head: &RequestHead,
        kind: RequestKind,
        about: RequestInfo<'_>,
    ) -> Result<Permit, Box<Denied>> {
        let config = self.limits.config();
        let name = &config.bypass_header;
        let bypass = match name.is_empty() {
            true => None,
            false => {
                let value = head.headers().get(name.as_str()).map(|value| value.as_bytes());
                bypasses(value, address::is_trusted(&config.trusted_proxies, peer.ip()))
            }
        };
        let request = AdmissionRequest { client, kind, about, bypass };
        let admitted = self.limits.admit(&request, SystemTime::now());
        let (notes, status) = match &admitted {
            Ok(permit) if permit.notes.is_empty() => return admitted,
            Ok(permit) => (permit.notes.as_slice(), 0),
            Err(denied) => (std::slice::from_ref(&denied.note), denied.status()),
        };
        notes.iter().for_each(|note| log(note, &request, head, status));
        admitted
    }

    fn by_name(&self, config: &LimitsConfig, peer: &Peer, headers: &HeaderMap, name: Arc<str>) -> Arc<Client> {
        let address = address(config, peer, headers);
        Arc::new(self.limits.describe_client(ClientKey::Principal(name), address, user_agent(headers)))
    }

    fn by_address(&self, config: &LimitsConfig, peer: &Peer, headers: &HeaderMap) -> Arc<Client> {
        let forwarded = !config.trusted_proxies.is_empty()
            && (headers.contains_key(X_FORWARDED_FOR) || headers.contains_key(FORWARDED));
        // With classes, what a client is may change with its User-Agent and with a reload; else it is what it was.
        if forwarded || !config.classes.0.is_empty() {
            let address = address(config, peer, headers);
            return Arc::new(self.limits.describe_client(
                ClientKey::Address(address::key_address(address)),
                address,
                user_agent(headers),
            ));
        }
        let anonymous = || {
            let peer = peer.ip();
            Arc::new(Client::anonymous(address::key_address(peer), peer))
        };
        peer.client.borrow_mut().get_or_insert_with(anonymous).clone()
    }
}

/// One decision in the log, with GitLab's field names as far as it has them.
fn log(note: &LogFields, request: &AdmissionRequest<'_>, head: &RequestHead, status: u16) {
    let Some(left_out) = DENIALS.judge((&request.client.key, &*note.matched, status), Instant::now()) else { return };
    tracing::info!(
        target: "weir::throttle",
        env = note.env,
        matched = %note.matched,
        throttle_safelist = note.throttle_safelist,
        remote_ip = %request.client.address,
        request_method = %head.method,
        path = printable(head.uri.path()),
        discriminator = %request.client.key,
        class = request.client.class.word(),
        status = (status > 0).then_some(status),
        limit = note.limit,
        period = note.period,
        observed = note.observed,
        remaining = note.remaining,
        ban = note.ban.as_deref(),
        left_out = (left_out > 0).then_some(left_out),
    );
}

fn address(config: &LimitsConfig, peer: &Peer, headers: &HeaderMap) -> IpAddr {
    let (peer, trusted) = (peer.ip(), &config.trusted_proxies);
    if trusted.is_empty() {
        return peer.to_canonical();
    }
    address::client_address(peer, trusted, texts(headers, X_FORWARDED_FOR), texts(headers, FORWARDED))
}

fn user_agent(headers: &HeaderMap) -> &str {
    headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Basic credentials, or those in the header that `server.token_header` names, as `name:password`.
fn offered(config: &LimitsConfig, headers: &HeaderMap) -> Offered {
    if config.accounts.is_empty() {
        return Offered::Nothing;
    }
    let token = (!config.token_header.is_empty()).then(|| headers.get(config.token_header.as_str())).flatten();
    let credentials = match (token.filter(|value| value.len() <= MAX_LENGTH), headers.get(AUTHORIZATION)) {
        (Some(token), _) => Credentials::pair(token.as_bytes().trim_ascii()),
        (None, Some(header)) => Credentials::basic(header.as_bytes()),
        (None, None) => return Offered::Nothing,
    };
    credentials.map_or(Offered::Unreadable, Offered::Credentials)
}

/// The values of a header as text; one that is none reads as an address that no client has, and so ends the chain.
fn texts(headers: &HeaderMap, name: HeaderName) -> std::vec::IntoIter<&str> {
    headers.get_all(name).map(|value| value.to_str().unwrap_or("?")).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use actix_http::header::HeaderValue;
    use argon2::{Argon2, Params, PasswordHasher as _, password_hash::SaltString};
    use base64::{Engine as _, prelude::BASE64_STANDARD};

    use super::*;
    use crate::limits::{Account, Role};

    fn gate(trusted_proxies: &[&str], accounts: Vec<Account>) -> Gate {
        let trusted_proxies = trusted_proxies.iter().map(|network| network.parse().unwrap()).collect();
        let config = LimitsConfig { trusted_proxies, accounts: accounts.into(), ..LimitsConfig::default() };
        let limits = Limits::in_memory(config);
        Gate::new(limits.clone(), Authenticator::new(limits))
    }

    fn account(name: &str, password: &str) -> Account {
        let salt = SaltString::from_b64("c29tZXNhbHQ").unwrap();
        let cheap =
            Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, Params::new(16, 1, 1, None).unwrap());
        let hash = cheap.hash_password(password.as_bytes(), &salt).unwrap().to_string();
        let none: Arc<[String]> = Arc::from([]);
        Account {
            name: name.into(),
            password_hash: hash.into(),
            role: Role::User,
            budget_override: false,
            networks: Vec::new(),
            namespaces: Vec::new(),
            pull: Arc::from(["corp/*".to_owned()]),
            push: none.clone(),
            delete: none,
        }
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
        let gate = gate(&[], vec![account("ci", "secret:with:colons"), account("ann", "b")]);
        let peer = Peer::new(Some("192.0.2.1:5000".parse().unwrap()), false);
        let key = async |authorization: &str| {
            gate.identify(&peer, &head(&[(AUTHORIZATION, authorization)])).await.unwrap().key.to_string()
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
        assert!(gate.at_once(&peer, &head(&[(AUTHORIZATION, &basic("ci:secret:with:colons"))])).is_some());
        assert!(gate.at_once(&peer, &head(&[(AUTHORIZATION, &basic("ci:never seen"))])).is_none());
    }

    #[test]
    fn without_accounts_no_password_is_looked_at() {
        let gate = gate(&[], Vec::new());
        let peer = Peer::new(Some("[2001:db8::1]:5000".parse().unwrap()), false);
        let client = gate.at_once(&peer, &head(&[(AUTHORIZATION, &basic("hubuser:hubpassword"))])).unwrap();
        assert_eq!(client.key.to_string(), "2001:db8::/64");
    }

    #[test]
    fn forwarding_headers_count_only_from_trusted_proxies() {
        let gate = gate(&["10.0.0.0/8"], Vec::new());
        let key = |peer: &str, headers: &[(HeaderName, &str)]| {
            let peer = Peer::new(Some(peer.parse().unwrap()), false);
            gate.at_once(&peer, &head(headers)).unwrap().key.to_string()
        };
        assert_eq!(key("192.0.2.1:1", &[(X_FORWARDED_FOR, "1.1.1.1")]), "192.0.2.1");
        assert_eq!(
            key("10.0.0.1:1", &[(X_FORWARDED_FOR, "1.1.1.1"), (X_FORWARDED_FOR, "2001:db8::9")]),
            "2001:db8::/64"
        );
        assert_eq!(key("10.0.0.1:1", &[(FORWARDED, "for=192.0.2.9")]), "192.0.2.9");
        assert_eq!(key("10.0.0.1:1", &[]), "10.0.0.1");
        // One connection of a proxy carries many clients.
        let peer = Peer::new(Some("10.0.0.1:1".parse().unwrap()), false);
        for client in ["192.0.2.1", "192.0.2.2"] {
            assert_eq!(gate.at_once(&peer, &head(&[(X_FORWARDED_FOR, client)])).unwrap().key.to_string(), client);
        }
    }
}
