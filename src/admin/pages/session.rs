//! Who is logged in, and the token that says a form is ours. Kept in memory: a restart logs everybody out.
//!
//! # What it guarantees
//!
//! A session is named by 32 random bytes that only its browser has; here is only their hash. It is made at login, after the
//! password verified, and under a new name each time, so that a name somebody planted before never becomes a session. It ends by logout, after
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
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use argon2::password_hash::rand_core::{OsRng, RngCore as _};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

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
pub(super) struct SessionId(String);

impl SessionId {
    /// A new one.
    pub(super) fn random() -> SessionId {
        SessionId(random())
    }

    /// What a cookie says, when it is of the right form.
    pub(super) fn parse(text: &str) -> Option<SessionId> {
        let is_one = text.len() == 43 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        is_one.then(|| SessionId(text.to_owned()))
    }

    /// As it is sent.
    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

// Whoever reads a log must not become whoever is in it.
impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(…)")
    }
}

/// 256 bits that nobody can guess, for names, nonces and keys.
pub(super) fn random() -> String {
    let mut bytes = [0; 32];
    OsRng.fill_bytes(&mut bytes);
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// A human test that was set and not yet handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    /// For lifting which ban.
    pub(super) ban: String,
    /// What names the test.
    pub(super) nonce: String,
}

/// Whose session it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SessionOwner {
    /// The name.
    pub(super) account: Arc<str>,
    /// As it was at login: a new password ends the sessions of the old one.
    pub(super) password_hash: Arc<str>,
}

struct Session {
    owner: SessionOwner,
    begun: SystemTime,
    used: SystemTime,
    challenge: Option<Challenge>,
}

impl Session {
    fn is_over(&self, now: SystemTime) -> bool {
        let since = |then| now.duration_since(then).unwrap_or_default();
        since(self.used) >= IDLE || since(self.begun) >= LONGEST
    }
}

/// All sessions.
pub(super) struct Sessions {
    key: [u8; 32],
    live: Mutex<HashMap<[u8; 32], Session>>,
}

impl Sessions {
    pub(super) fn new() -> Sessions {
        let mut key = [0; 32];
        OsRng.fill_bytes(&mut key);
        Sessions { key, live: Mutex::default() }
    }

    /// A session for an account whose password has just verified. Takes time in proportion to the sessions there are; logins are throttled.
    pub(super) fn begin(&self, account: Arc<str>, password_hash: Arc<str>, now: SystemTime) -> SessionId {
        let name = SessionId::random();
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|_, session| !session.is_over(now));
        let own = live.values().filter(|session| session.owner.account == account).count();
        let oldest = |only: Option<&str>| {
            let some = live.iter().filter(|(_, session)| only.is_none_or(|account| *session.owner.account == *account));
            some.min_by_key(|(_, session)| session.used).map(|(digest, _)| *digest)
        };
        let leaves =
            if own >= MOST_OF_ONE { oldest(Some(&account)) } else { oldest(None).filter(|_| live.len() >= MOST) };
        if let Some(leaves) = leaves {
            live.remove(&leaves);
        }
        let session =
            Session { owner: SessionOwner { account, password_hash }, begun: now, used: now, challenge: None };
        live.insert(self.digest(b"session", &name), session);
        name
    }

    /// Whose session this is.
    pub(super) fn whose(&self, name: &SessionId, now: SystemTime) -> Option<SessionOwner> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let session = live.get_mut(&self.digest(b"session", name)).filter(|session| !session.is_over(now))?;
        session.used = now;
        Some(session.owner.clone())
    }

    /// Ends one, if there is one.
    pub(super) fn end(&self, name: &SessionId) {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.digest(b"session", name));
    }

    /// Remembers the test that this session was set; an earlier one is void.
    pub(super) fn set_challenge(&self, name: &SessionId, challenge: Challenge) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = live.get_mut(&self.digest(b"session", name)) {
            session.challenge = Some(challenge);
        }
    }

    /// The test that this session was set. It can be handed in once, whatever comes of it.
    pub(super) fn take_challenge(&self, name: &SessionId) -> Option<Challenge> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.get_mut(&self.digest(b"session", name))?.challenge.take()
    }

    /// What a form must send along when its page came with this cookie.
    pub(super) fn token(&self, name: &SessionId) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.digest(b"token", name))
    }

    /// Whether it did.
    pub(super) fn is_token(&self, name: &SessionId, offered: &str) -> bool {
        // Digests are compared, so that the time tells nothing of the token.
        Sha256::digest(self.token(name)) == Sha256::digest(offered)
    }

    /// All parts but the name have a fixed length, and the name is 43 bytes: no two inputs are alike.
    fn digest(&self, purpose: &[u8], name: &SessionId) -> [u8; 32] {
        Sha256::new().chain_update(self.key).chain_update(name.text()).chain_update(purpose).finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn begin(sessions: &Sessions, account: &str, now: SystemTime) -> SessionId {
        sessions.begin(account.into(), "$argon2id$".into(), now)
    }

    #[test]
    fn a_session_ends_by_logout_idleness_and_age() {
        let sessions = Sessions::new();
        let name = begin(&sessions, "ann", at(0));
        assert_eq!(sessions.whose(&name, at(3599)).unwrap().account, "ann".into());
        assert_eq!(sessions.whose(&name, at(3599 + 3600)), None, "an hour without a request");

        let name = begin(&sessions, "ann", at(0));
        assert!((0..24).all(|half| sessions.whose(&name, at(half * 1800)).is_some()));
        assert_eq!(sessions.whose(&name, at(12 * 3600)), None, "twelve hours with requests");

        let name = begin(&sessions, "ann", at(0));
        sessions.end(&name);
        assert_eq!(sessions.whose(&name, at(1)), None);
    }

    #[test]
    fn a_name_that_was_not_given_out_at_login_is_no_session() {
        let sessions = Sessions::new();
        let planted = SessionId::random();
        assert_eq!(sessions.whose(&planted, at(0)), None);
        assert_ne!(begin(&sessions, "ann", at(0)), planted);
        assert_eq!(sessions.whose(&planted, at(0)), None);
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
    fn a_test_is_handed_in_once_and_by_its_session() {
        let sessions = Sessions::new();
        let (mine, other) = (begin(&sessions, "ann", at(0)), begin(&sessions, "ann", at(0)));
        let challenge = |nonce: &str| Challenge { ban: "3f2a".into(), nonce: nonce.into() };
        sessions.set_challenge(&mine, challenge("first"));
        sessions.set_challenge(&mine, challenge("second"));
        assert_eq!(sessions.take_challenge(&other), None);
        assert_eq!(sessions.take_challenge(&mine), Some(challenge("second")));
        assert_eq!(sessions.take_challenge(&mine), None);
    }

    #[test]
    fn sessions_are_bounded_and_one_account_cannot_end_another_s() {
        let sessions = Sessions::new();
        let ann = begin(&sessions, "ann", at(0));
        let robots: Vec<_> = (1..=200).map(|second| begin(&sessions, "robot", at(second))).collect();
        assert!(sessions.whose(&ann, at(201)).is_some());
        assert!(sessions.whose(&robots[0], at(201)).is_none());
        assert!(sessions.whose(&robots[199], at(201)).is_some());
        assert_eq!(sessions.live.lock().unwrap().len(), 1 + MOST_OF_ONE);
    }
}
