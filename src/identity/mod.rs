//! Who a client is by what it offers: the one place where a credential is verified, for registry clients, the admin API and the pages.
//!
//! # What it guarantees
//!
//! - Passwords are hashed one at a time, in memory that is used again, at a lower priority than requests are served.
//! - An address is verified one login at a time, so that many logins of one address do not delay another. After ten wrong passwords
//!   in a row it waits; no other address does, and what has verified from this address before still does.
//! - Credentials that verified are remembered for [`REMEMBER_SUCCESS`], and wrong ones for [`REMEMBER_FAILURE`], by a keyed hash of them,
//!   of the address and of the password hash of the account: a reload with another password hash forgets them, and no address learns
//!   from what another has verified.
//! - An unknown name costs what a known one costs.
//! - A failed login is an entry of the audit, and counts for the throttle and the ban rule of failed logins.

mod credentials;
mod failures;
pub(crate) mod password;
mod queue;
pub(crate) mod session;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use moka::sync::Cache;
use sha2::{Digest as _, Sha256};

pub(crate) use self::credentials::{Credentials, MAX_LENGTH, MAX_PASSWORD};
use self::{failures::Failures, password::PasswordVerifier, queue::LoginQueue};
use crate::{
    client::Client,
    limits::{Account, Limits, address, audit::Actor},
    random,
};

/// For how long credentials that verified are not verified again.
const REMEMBER_SUCCESS: Duration = Duration::from_secs(12 * 3600);
/// For how long wrong ones are not.
const REMEMBER_FAILURE: Duration = Duration::from_secs(60);
/// Credentials that are remembered, of either kind.
const REMEMBERED: u64 = 10_000;
/// The longest name in an entry of the audit, in characters.
const MAX_NOTED_NAME: usize = 255;

/// Verifies credentials. Cloning shares it.
#[derive(Clone)]
pub struct Authenticator(Arc<Inner>);

struct Inner {
    limits: Limits,
    key: [u8; 32],
    verified: Cache<[u8; 32], ()>,
    refused: Cache<[u8; 32], ()>,
    /// Credentials that were not verified because their address must wait.
    unverified: Cache<[u8; 32], ()>,
    queue: LoginQueue,
    passwords: PasswordVerifier,
    failures: Failures,
}

/// An account whose password was verified, as it was then: with another password hash it is no longer that account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Principal {
    pub(crate) name: Arc<str>,
    password_hash: Arc<str>,
}

/// Why credentials were not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthError {
    /// Too many logins wait, of this address or of all.
    #[error("too many passwords are being verified; try again in a second")]
    Busy,
    /// Too many logins of this address failed. It may try again after so long.
    #[error("too many logins from this address failed; try again in {} s", seconds(*.0))]
    TooManyFailures(Duration),
}

impl AuthError {
    /// Whole seconds until another try makes sense, rounded up.
    pub(crate) fn retry_after(self) -> u64 {
        match self {
            AuthError::Busy => 1,
            AuthError::TooManyFailures(wait) => seconds(wait),
        }
    }
}

fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

impl Authenticator {
    /// Knows the accounts of the config that is in force.
    pub fn new(limits: Limits) -> Authenticator {
        let cache = |lifetime| Cache::builder().max_capacity(REMEMBERED).time_to_live(lifetime).build();
        Authenticator(Arc::new(Inner {
            limits,
            key: random::bytes(),
            verified: cache(REMEMBER_SUCCESS),
            refused: cache(REMEMBER_FAILURE),
            unverified: cache(REMEMBER_FAILURE),
            queue: LoginQueue::default(),
            passwords: PasswordVerifier::default(),
            failures: Failures::new(),
        }))
    }

    /// What is remembered of these credentials: that they are a principal's (`Some(Some)`), or wrong (`Some(None)`). Only memory is read.
    pub(crate) fn recall(&self, credentials: &Credentials, from: IpAddr) -> Option<Option<Principal>> {
        let config = self.0.limits.config();
        let account = config.account(&credentials.name);
        let key = self.key(credentials, from, account);
        if let Some(account) = account.filter(|_| self.0.verified.contains_key(&key)) {
            let is_guess = self.0.failures.is_guessing(from, SystemTime::now());
            return (!is_guess).then(|| Some(Principal::of(account)));
        }
        self.0.refused.contains_key(&key).then_some(None)
    }

    /// The principal of these credentials, which come from this address; `None` when they are wrong. Takes tens of milliseconds of a core,
    /// after waiting for others, unless they are remembered.
    ///
    /// # Errors
    /// Nothing was verified.
    pub(crate) async fn verify(&self, credentials: &Credentials, from: IpAddr) -> Result<Option<Principal>, AuthError> {
        if let Some(known) = self.recall(credentials, from) {
            return Ok(known);
        }
        self.check_failures(credentials, from)?;
        let slot = self.0.queue.enter(address::key_address(from)).ok_or(AuthError::Busy)?;
        let _turn = slot.turn().await.ok_or(AuthError::Busy)?;
        // While this waited, the same credentials may have been verified, and other ones may have failed.
        if let Some(known) = self.recall(credentials, from) {
            return Ok(known);
        }
        self.check_failures(credentials, from)?;
        let config = self.0.limits.config();
        let account = config.account(&credentials.name).cloned();
        let hash = account.as_ref().or(config.accounts.first()).map(|account| account.password_hash.clone());
        drop(config);
        let is_right = match hash {
            Some(hash) => self.0.passwords.matches(credentials.password.clone(), hash).await.map_err(|error| {
                tracing::warn!(%error, "no thread for a password check");
                AuthError::Busy
            })?,
            None => false,
        };
        let (key, now) = (self.key(credentials, from, account.as_ref()), SystemTime::now());
        let account = account.filter(|_| is_right);
        match account {
            Some(_) => self.0.verified.insert(key, ()),
            None => {
                self.0.refused.insert(key, ());
                self.0.failures.add(from, now);
                let name: String = credentials.name.chars().take(MAX_NOTED_NAME).collect();
                let by = Actor::new("anonymous", Some(from));
                self.note_refusal(&by, &format!("log in as {name}"), "wrong name or password", now);
            }
        }
        let anonymous = Client::anonymous(address::key_address(from), from);
        self.0.limits.record_login(&anonymous, account.is_some(), now);
        Ok(account.as_ref().map(Principal::of))
    }

    /// Logins that wait for their password to be verified, with the one that is.
    pub(crate) fn waiting(&self) -> usize {
        self.0.queue.count()
    }

    /// The account that this principal still is; `None` when it is gone or has another password.
    pub(crate) fn account(&self, principal: &Principal) -> Option<Account> {
        let config = self.0.limits.config();
        config.account(&principal.name).filter(|account| account.password_hash == principal.password_hash).cloned()
    }

    /// Logs a refused attempt and puts it into the audit, unless this client, or failed logins, have filled their share of that.
    pub(crate) fn note_refusal(&self, by: &Actor, attempt: &str, reason: &str, now: SystemTime) {
        let from = by.from.unwrap_or(IpAddr::from([0, 0, 0, 0]));
        tracing::warn!(target: "weir::admin", by = by.name, %from, attempt, reason, "refused");
        if self.0.failures.may_note(&by.name, from, now) {
            self.0.limits.record_refusal(by, attempt, reason, now);
        }
    }

    fn check_failures(&self, credentials: &Credentials, from: IpAddr) -> Result<(), AuthError> {
        let now = SystemTime::now();
        self.0.failures.check(from, now).map_err(|wait| {
            let key = self.key(credentials, from, None);
            if !self.0.unverified.contains_key(&key) {
                self.0.unverified.insert(key, ());
                self.0.failures.add_guess(from, now);
            }
            AuthError::TooManyFailures(wait)
        })
    }

    /// Differs with the name, the password, the address and the account's password hash, and tells nothing of them.
    fn key(&self, credentials: &Credentials, from: IpAddr, account: Option<&Account>) -> [u8; 32] {
        let mut hasher = Sha256::new_with_prefix(self.0.key);
        let hash = account.map(|account| &*account.password_hash).unwrap_or_default();
        for part in [&*credentials.name, &*credentials.password, &*address::key_address(from).to_string(), hash] {
            // Lengths, so that no two inputs are alike.
            hasher.update(part.len().to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }
}

impl Principal {
    fn of(account: &Account) -> Principal {
        Principal { name: account.name.clone(), password_hash: account.password_hash.clone() }
    }
}

#[cfg(test)]
mod tests;
