//! The accounts of one upstream: their passwords as they stand in their files, and which of them a registry refused.
//!
//! A password file is read again when it is used after [`REREAD`], and at once after a refusal: what rotates passwords
//! (ECR's live for 12 h) only has to write the file. An account whose password was refused is parked for ten minutes, because
//! Docker Hub locks accounts for as long after failed logins and every further attempt prolongs that. A changed password ends it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use base64::Engine as _;
use reqwest::header::HeaderValue;

use crate::upstream::{
    error::Error,
    settings::{Account, Secret},
};

/// How long an account is left alone that was refused.
const PARKED: Duration = Duration::from_secs(600);
/// A password is read again from its file when it was read longer ago than this.
const REREAD: Duration = Duration::from_secs(10);
/// A refusal so soon after a success is about the repository and not about the account.
const PROVEN: Duration = Duration::from_secs(60);
/// Refusals of one account are logged once in this time.
const LOG_AGAIN: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Accounts {
    upstream: Arc<str>,
    accounts: Vec<Account>,
    // Held for a few lines, never across an await.
    states: Mutex<HashMap<Arc<str>, State>>,
}

#[derive(Debug, Default)]
struct State {
    password: Option<(Secret, Instant)>,
    parked_until: Option<Instant>,
    proven: Option<Instant>,
    logged: Option<Instant>,
}

impl Accounts {
    pub(super) fn new(upstream: Arc<str>, accounts: Vec<Account>) -> Accounts {
        Accounts { upstream, accounts, states: Mutex::default() }
    }

    /// The `Authorization: Basic` of an account and the password in it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the password cannot be read or the account is parked.
    pub(super) async fn basic(&self, name: &Arc<str>) -> Result<(HeaderValue, Secret), Error> {
        let known = {
            let states = self.lock();
            let known = states.get(name).and_then(|state| state.password.clone());
            known.filter(|(_, read)| read.elapsed() < REREAD)
        };
        let password = match known {
            Some((password, _)) => password,
            None => self.read(name).await?,
        };
        if let Some(wait) = self.parked(name) {
            let reason = format!(
                "it refused account {name}, which is left alone for {} s; a new password in its password_file is tried at once",
                wait.as_secs() + 1
            );
            return Err(Error::Unavailable { reason: reason.into(), retry_after: Some(wait) });
        }
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{}", password.0));
        let mut header = HeaderValue::from_str(&format!("Basic {pair}")).map_err(|_| Error::Unavailable {
            reason: format!("the password of {name} is not text").into(),
            retry_after: None,
        })?;
        header.set_sensitive(true);
        Ok((header, password))
    }

    /// Reads the password of an account now. A new one ends the time for which the account was left alone.
    async fn read(&self, name: &Arc<str>) -> Result<Secret, Error> {
        let account = self.accounts.iter().find(|account| account.username == *name).cloned().ok_or(Error::Denied)?;
        let read = tokio::task::spawn_blocking(move || account.read_password()).await;
        let read = read.unwrap_or_else(|_| Err("reading it failed".to_owned()));
        let mut states = self.lock();
        let state = states.entry(name.clone()).or_default();
        match (read, &state.password) {
            (Ok(password), old) => {
                if old.as_ref().is_some_and(|(old, _)| *old != password) {
                    tracing::info!(upstream = %self.upstream, account = %name, "the password of an account changed");
                    (state.parked_until, state.proven) = (None, None);
                }
                state.password = Some((password.clone(), Instant::now()));
                Ok(password)
            }
            // A file that is being replaced may be away for a moment.
            (Err(_), Some((password, _))) => Ok(password.clone()),
            (Err(error), None) => {
                let reason = format!("the password of account {name}: {error}");
                Err(Error::Unavailable { reason: reason.into(), retry_after: None })
            }
        }
    }

    /// Whether the password file holds another password than the one that was refused.
    pub(super) async fn changed(&self, name: &Arc<str>, refused: &Secret) -> bool {
        self.read(name).await.is_ok_and(|password| password != *refused)
    }

    /// How much longer an account is left alone.
    pub(super) fn parked(&self, name: &str) -> Option<Duration> {
        let until = self.lock().get(name)?.parked_until?;
        until.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero())
    }

    /// The registry or its token service accepted the account's password.
    pub(super) fn accepted(&self, name: &Arc<str>) {
        self.lock().entry(name.clone()).or_default().proven = Some(Instant::now());
    }

    /// Whether the password was accepted before, and whether that was a moment ago.
    pub(super) fn proven(&self, name: &str) -> (bool, bool) {
        let proven = self.lock().get(name).and_then(|state| state.proven);
        (proven.is_some(), proven.is_some_and(|at| at.elapsed() < PROVEN))
    }

    /// The account's password was refused.
    pub(super) fn park(&self, name: &Arc<str>) -> Error {
        let mut states = self.lock();
        let state = states.entry(name.clone()).or_default();
        state.parked_until = Some(Instant::now() + PARKED);
        state.proven = None;
        drop(states);
        let fix = "put the right password into its password_file; it is tried at once";
        tracing::warn!(upstream = %self.upstream, account = %name, "an account was refused and is left alone for 10 min; {fix}");
        Error::Unavailable { reason: format!("it refused account {name}").into(), retry_after: Some(PARKED) }
    }

    /// The account is fine and may not read a repository. Logged once in a while.
    pub(super) fn refused_repository(&self, name: &Arc<str>, repository: &str) {
        let mut states = self.lock();
        let state = states.entry(name.clone()).or_default();
        if state.logged.is_none_or(|at| at.elapsed() >= LOG_AGAIN) {
            state.logged = Some(Instant::now());
            drop(states);
            tracing::warn!(upstream = %self.upstream, account = %name, repository, "an account may not read a repository");
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
