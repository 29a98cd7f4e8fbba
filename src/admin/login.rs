//! Who asks, when the listener is not on loopback: Basic credentials of an account with role admin.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, http::header};
use argon2::{Argon2, PasswordHash, PasswordVerifier};
use base64::{Engine, prelude::BASE64_STANDARD};
use tokio::sync::Semaphore;

use super::refuse;
use crate::limits::Limits;

/// Passwords verified at once: each takes tens of milliseconds of a core and 19 MiB. This is what slows down guessing, too.
const AT_ONCE: usize = 2;
/// Requests that may wait to be verified.
const WAITING: usize = 32;

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

    /// The name of the admin, or the answer that a stranger gets.
    pub(super) async fn admit(&self, request: &HttpRequest) -> Result<Arc<str>, HttpResponse> {
        let offered = request.headers().get(header::AUTHORIZATION).and_then(|value| credentials(value.as_bytes()));
        let Some((name, password)) = offered else { return Err(challenge()) };
        let busy = || refuse(503, "UNAVAILABLE", "too many passwords are being verified; try again in a second");
        let _place = self.waiting.try_acquire().map_err(|_| busy())?;
        let permit = self.verifying.clone().acquire_owned().await.map_err(|_| busy())?;
        let rulebook = self.limits.rulebook();
        let known = rulebook.account(&name).filter(|account| account.is_admin);
        // A name that nobody has pays as much as one that somebody has, so that the time tells nothing.
        let hash = known.or(rulebook.accounts.first()).map(|account| account.password_hash.clone());
        let known = known.map(|account| account.name.clone());
        let verified = actix_web::web::block(move || {
            let verified = hash.is_some_and(|hash| verifies(&password, &hash));
            drop(permit);
            verified
        });
        let is_correct = verified.await.unwrap_or(false);
        known.filter(|_| is_correct).ok_or_else(challenge)
    }
}

fn verifies(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
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

    /// `hunter2`, with parameters that cost nothing.
    fn login() -> Login {
        use argon2::password_hash::{PasswordHasher, SaltString};
        let cheap = Argon2::new(Default::default(), Default::default(), argon2::Params::new(8, 1, 1, None).unwrap());
        let salt = SaltString::from_b64("c29tZXNhbHQ").unwrap();
        let password_hash = cheap.hash_password(b"hunter2", &salt).unwrap().to_string().into();
        let account = crate::limits::Account {
            name: "ops".into(),
            password_hash,
            is_admin: true,
            budget_override: false,
            networks: Vec::new(),
            namespaces: Vec::new(),
            pull: Arc::from([]),
        };
        let accounts = vec![account].into();
        Login::new(Limits::unkept(crate::limits::Rulebook { accounts, ..Default::default() }))
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
}
