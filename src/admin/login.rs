//! Whose password it is, for the pages and, as Basic credentials of an account with role admin, for the JSON API off loopback.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, http::header};
use base64::{Engine, prelude::BASE64_STANDARD};
use tokio::sync::Semaphore;

use super::refuse;
use crate::{
    limits::{Account, Limits},
    password,
};

/// Passwords verified at once: each takes tens of milliseconds of a core and 19 MiB. This is what slows down guessing, too.
const AT_ONCE: usize = 2;
/// Requests that may wait to be verified.
const WAITING: usize = 32;

/// Too many passwords are being verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Busy;

/// Verifies passwords.
pub(super) struct Login {
    limits: Limits,
    verifying: Arc<Semaphore>,
    waiting: Semaphore,
}

impl Login {
    pub(super) fn new(limits: Limits) -> Login {
        Login { limits, verifying: Arc::new(Semaphore::new(AT_ONCE)), waiting: Semaphore::new(WAITING) }
    }

    /// The account, when this is its password.
    ///
    /// # Errors
    /// [`Busy`], and nothing was verified.
    pub(super) async fn verify(&self, name: &str, offered: String) -> Result<Option<Account>, Busy> {
        let _place = self.waiting.try_acquire().map_err(|_| Busy)?;
        let permit = self.verifying.clone().acquire_owned().await.map_err(|_| Busy)?;
        let config = self.limits.config();
        let known = config.account(name).cloned();
        // A name that nobody has pays as much as one that somebody has, so that the time tells nothing.
        let hash = known.as_ref().or(config.accounts.first()).map(|account| account.password_hash.clone());
        let verified = actix_web::web::block(move || {
            let verified = hash.is_some_and(|hash| password::matches(&offered, &hash));
            drop(permit);
            verified
        });
        let verified = verified.await.unwrap_or(false);
        Ok(known.filter(|_| verified))
    }

    /// The name of the admin, or the answer that a stranger gets.
    pub(super) async fn admit(&self, request: &HttpRequest) -> Result<Arc<str>, HttpResponse> {
        let offered = request.headers().get(header::AUTHORIZATION).and_then(|value| credentials(value.as_bytes()));
        let Some((name, password)) = offered else { return Err(challenge()) };
        match self.verify(&name, password).await {
            Ok(Some(account)) if account.is_admin => Ok(account.name),
            Ok(_) => Err(challenge()),
            Err(Busy) => {
                Err(refuse(503, "UNAVAILABLE", "too many passwords are being verified; try again in a second"))
            }
        }
    }
}

fn credentials(header: &[u8]) -> Option<(String, String)> {
    let (scheme, encoded) = std::str::from_utf8(header).ok()?.split_once(' ')?;
    let decoded = scheme.eq_ignore_ascii_case("basic").then(|| BASE64_STANDARD.decode(encoded.trim()).ok())??;
    let text = String::from_utf8(decoded).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

fn challenge() -> HttpResponse {
    let mut response = refuse(401, "UNAUTHORIZED", "an account with role admin is required");
    let realm = header::HeaderValue::from_static(r#"Basic realm="weir admin", charset="UTF-8""#);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, realm);
    response
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;
    use crate::limits::LimitsConfig;

    /// `hunter2` for both, with parameters that cost nothing.
    fn login() -> Login {
        use argon2::{
            Argon2,
            password_hash::{PasswordHasher, SaltString},
        };
        let cheap = Argon2::new(Default::default(), Default::default(), argon2::Params::new(8, 1, 1, None).unwrap());
        let salt = SaltString::from_b64("c29tZXNhbHQ").unwrap();
        let hash: Arc<str> = cheap.hash_password(b"hunter2", &salt).unwrap().to_string().into();
        let account = |name: &str, is_admin| Account {
            name: name.into(),
            password_hash: hash.clone(),
            is_admin,
            budget_override: false,
            networks: Vec::new(),
            namespaces: Vec::new(),
            pull: Arc::from([]),
            push: Arc::from([]),
            delete: Arc::from([]),
        };
        let accounts = Arc::from([account("ops", true), account("ann", false)]);
        Login::new(Limits::in_memory(LimitsConfig { accounts, ..LimitsConfig::default() }))
    }

    async fn status(authorization: Option<&str>) -> u16 {
        let mut request = TestRequest::default();
        if let Some(value) = authorization {
            request = request.insert_header(("Authorization", value));
        }
        match login().admit(&request.to_http_request()).await {
            Ok(_) => 200,
            Err(response) => response.status().as_u16(),
        }
    }

    #[tokio::test]
    async fn only_the_right_password_of_an_admin_is_let_in() {
        let basic = |pair: &str| format!("Basic {}", BASE64_STANDARD.encode(pair));
        assert_eq!(status(Some(&basic("ops:hunter2"))).await, 200);
        for wrong in [
            basic("ops:hunter3"),
            basic("ann:hunter2"),
            basic("other:hunter2"),
            basic("ops"),
            basic(""),
            "Basic !".to_owned(),
            "Bearer x".to_owned(),
            String::new(),
        ] {
            assert_eq!(status(Some(&wrong)).await, 401, "{wrong}");
        }
        assert_eq!(status(None).await, 401);
    }

    #[tokio::test]
    async fn a_user_is_known_by_their_password() {
        let known = login().verify("ann", "hunter2".to_owned()).await.unwrap();
        assert_eq!(known.map(|account| account.name), Some("ann".into()));
        assert_eq!(login().verify("ann", "hunter3".to_owned()).await, Ok(None));
        assert_eq!(login().verify("nobody", "hunter2".to_owned()).await, Ok(None));
    }
}
