//! Sessions of the pages, and the token against cross-site request forgery. Kept in memory: a restart logs all out.
//!
//! # What it guarantees
//!
//! A session is named by 32 random bytes that only its browser has; here is only their hash. It is made at login, after the
//! password verified, and under a new name each time, so that a name that was planted before never becomes a session. It ends by logout, after
//! an hour without a request, after twelve in any case, and when its account or the account's password is gone.
//!
//! Every form carries a token that is a keyed hash of the cookie it came with. A page elsewhere knows neither. Before
//! login the cookie is a random name without a session: enough for the token of the login form and, where no login is needed, of every other.
//!
//! # The cookie
//!
//! `__Host-weir`: `Secure`, `HttpOnly`, `SameSite=Strict`, and by its prefix from this very host. Browsers keep a `Secure` cookie that came over
//! plain HTTP only for loopback. At another address without TLS it is called `weir`, is not `Secure`, and the pages say so;
//! each name counts only where it is given out, so the weaker one never stands in for the stronger.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use super::Principal;
use crate::random;

/// Sessions at once; the one that was used least lately makes room.
const MOST: usize = 10_000;
/// Sessions of one account: a robot that logs in for every request must not log people out.
const MOST_OF_ONE: usize = 32;
/// Without a request.
const IDLE: Duration = Duration::from_secs(3600);
/// In any case.
const LONGEST: Duration = Duration::from_secs(12 * 3600);

/// What a browser sends to be recognised: 32 random bytes as text.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SessionId(String);

impl SessionId {
    /// A new one.
    pub(crate) fn random() -> SessionId {
        SessionId(random::token())
    }

    /// What a cookie says, when it is of the right form.
    pub(crate) fn parse(text: &str) -> Option<SessionId> {
        let is_one = text.len() == 43 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        is_one.then(|| SessionId(text.to_owned()))
    }

    /// As it is sent.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

// A reader of the log must not be able to take over a session that is named in it.
impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(…)")
    }
}

struct Session {
    principal: Principal,
    begun: Instant,
    used: Instant,
}

impl Session {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.used) >= IDLE || now.duration_since(self.begun) >= LONGEST
    }
}

/// All sessions.
pub(crate) struct Sessions {
    key: [u8; 32],
    live: Mutex<HashMap<[u8; 32], Session>>,
}

impl Sessions {
    pub(crate) fn new() -> Sessions {
        Sessions { key: random::bytes(), live: Mutex::default() }
    }

    /// A session for a principal that has just been verified. Takes time in proportion to the sessions there are; logins are limited.
    pub(crate) fn begin(&self, principal: Principal, now: Instant) -> SessionId {
        let id = SessionId::random();
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|_, session| !session.is_over(now));
        let is_own = |session: &Session| session.principal.name == principal.name;
        let has_share = live.values().filter(|session| is_own(session)).count() >= MOST_OF_ONE;
        if has_share || live.len() >= MOST {
            let candidates = live.iter().filter(|(_, session)| !has_share || is_own(session));
            let oldest = candidates.min_by_key(|(_, session)| session.used).map(|(digest, _)| *digest);
            oldest.and_then(|digest| live.remove(&digest));
        }
        live.insert(self.digest(b"session", &id), Session { principal, begun: now, used: now });
        id
    }

    /// Whose session this is.
    pub(crate) fn principal(&self, id: &SessionId, now: Instant) -> Option<Principal> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let session = live.get_mut(&self.digest(b"session", id)).filter(|session| !session.is_over(now))?;
        session.used = now;
        Some(session.principal.clone())
    }

    /// Whose session this is, for a request that a page makes by itself: one that no person looks at ends all the same.
    pub(crate) fn look(&self, id: &SessionId, now: Instant) -> Option<Principal> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let session = live.get(&self.digest(b"session", id)).filter(|session| !session.is_over(now))?;
        Some(session.principal.clone())
    }

    /// Ends it, if there is one.
    pub(crate) fn end(&self, id: &SessionId) {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.digest(b"session", id));
    }

    /// What a form must send along when its page came with this cookie.
    pub(crate) fn token(&self, id: &SessionId) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.digest(b"token", id))
    }

    /// Whether it did.
    pub(crate) fn is_token(&self, id: &SessionId, offered: &str) -> bool {
        // Digests are compared, so that the time tells nothing of the token.
        Sha256::digest(self.token(id)) == Sha256::digest(offered)
    }

    /// All parts but the name have a fixed length, and the name is 43 bytes: no two inputs are alike.
    fn digest(&self, purpose: &[u8], id: &SessionId) -> [u8; 32] {
        Sha256::new().chain_update(self.key).chain_update(id.text()).chain_update(purpose).finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    fn at(seconds: u64) -> Instant {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        *START + Duration::from_secs(seconds)
    }

    fn begin(sessions: &Sessions, name: &str, now: Instant) -> SessionId {
        sessions.begin(Principal { name: name.into(), password_hash: "$argon2id$".into() }, now)
    }

    #[test]
    fn a_session_ends_by_logout_idleness_and_age() {
        let sessions = Sessions::new();
        let name = begin(&sessions, "ann", at(0));
        assert_eq!(&*sessions.principal(&name, at(3599)).unwrap().name, "ann");
        assert_eq!(sessions.principal(&name, at(3599 + 3600)), None, "an hour without a request");

        let name = begin(&sessions, "ann", at(0));
        assert!((0..24).all(|half| sessions.principal(&name, at(half * 1800)).is_some()));
        assert_eq!(sessions.principal(&name, at(12 * 3600)), None, "twelve hours with requests");

        let name = begin(&sessions, "ann", at(0));
        assert!(sessions.look(&name, at(3599)).is_some());
        assert_eq!(sessions.look(&name, at(3600)), None, "an hour in which a page asked by itself");

        let name = begin(&sessions, "ann", at(0));
        sessions.end(&name);
        assert_eq!(sessions.principal(&name, at(1)), None);
    }

    #[test]
    fn a_name_that_was_not_given_out_at_login_is_no_session() {
        let sessions = Sessions::new();
        let planted = SessionId::random();
        assert_eq!(sessions.principal(&planted, at(0)), None);
        assert_ne!(begin(&sessions, "ann", at(0)), planted);
        assert_eq!(sessions.principal(&planted, at(0)), None);
        for bad in ["", "short", &"a".repeat(44), &"é".repeat(43), &format!("{};", "a".repeat(42))] {
            assert!(SessionId::parse(bad).is_none(), "{bad}");
        }
        assert_eq!(SessionId::parse(planted.text()), Some(planted));
    }

    #[test]
    fn a_token_is_of_one_cookie_and_one_start() {
        let (sessions, later) = (Sessions::new(), Sessions::new());
        let (mine, other) = (SessionId::random(), SessionId::random());
        assert!(sessions.is_token(&mine, &sessions.token(&mine)));
        for wrong in [sessions.token(&other), later.token(&mine), String::new(), mine.text().to_owned()] {
            assert!(!sessions.is_token(&mine, &wrong), "{wrong}");
        }
    }

    #[test]
    fn sessions_are_bounded_and_one_account_cannot_end_another_s() {
        let sessions = Sessions::new();
        let ann = begin(&sessions, "ann", at(0));
        let robots: Vec<_> = (1..=200).map(|second| begin(&sessions, "robot", at(second))).collect();
        assert!(sessions.principal(&ann, at(201)).is_some());
        assert!(sessions.principal(&robots[0], at(201)).is_none());
        assert!(sessions.principal(&robots[199], at(201)).is_some());
        assert_eq!(sessions.live.lock().unwrap().len(), 1 + MOST_OF_ONE);
    }
}
