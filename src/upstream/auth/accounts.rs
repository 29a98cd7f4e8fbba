//! The accounts of one upstream: what they log in with now, and which of them a registry refused.
//!
//! A credential is read again when its time is over, and at once after a refusal: what rotates passwords (ECR's live for 12 h)
//! only has to write the file. An account whose credential was refused is parked for ten minutes, because Docker Hub locks
//! accounts for as long after failed logins and every further attempt prolongs that. A changed credential ends it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use url::Url;

use super::{cloud::Cloud, helper, login::Login};
use crate::upstream::{
    error::Error,
    settings::{Account, CredentialState, Settings},
};

/// How long an account is left alone that was refused.
const PARKED: Duration = Duration::from_secs(600);
/// A password file is looked at again after this; a command or a cloud is asked again for a refusal once in this time.
const REREAD: Duration = Duration::from_secs(10);
/// A refusal so soon after a success is about the repository and not about the account.
const PROVEN: Duration = Duration::from_secs(60);
/// Refusals of one account are logged once in this time.
const LOG_AGAIN: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Accounts {
    upstream: Arc<str>,
    registry: Url,
    accounts: Vec<Account>,
    cloud: Cloud,
    // Held for a few lines, never across an await.
    records: Mutex<HashMap<Arc<str>, Record>>,
}

/// What is known of one account.
#[derive(Debug, Default)]
struct Record {
    /// With the time until which it is used without another look.
    login: Option<(Arc<Login>, Instant)>,
    /// Held while the credential is read, so that many who need it read it once.
    reading: Arc<tokio::sync::Mutex<()>>,
    /// When it was last read because of a refusal.
    reread: Option<Instant>,
    state: CredentialState,
    parked_until: Option<Instant>,
    proven: Option<Instant>,
    logged: Option<Instant>,
}

impl Record {
    /// Whether a line about this account is due.
    fn may_log(&mut self) -> bool {
        let due = self.logged.is_none_or(|at| at.elapsed() >= LOG_AGAIN);
        if due {
            self.logged = Some(Instant::now());
        }
        due
    }
}

impl Accounts {
    pub(super) fn new(settings: &Settings, cloud: Cloud) -> Accounts {
        let (upstream, registry) = (settings.name.clone(), settings.url.clone());
        Accounts { upstream, registry, accounts: settings.accounts.clone(), cloud, records: Mutex::default() }
    }

    /// What an account logs in with.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it cannot be read or the account is parked.
    pub(super) async fn login(&self, name: &Arc<str>) -> Result<Arc<Login>, Error> {
        let login = match self.current(name) {
            Some(login) => login,
            None => self.read(name, None).await?,
        };
        if let Some(wait) = self.parked(name) {
            let reason = format!(
                "it refused account {name}, which is left alone for {} s; {}",
                wait.as_secs() + 1,
                self.account(name)?.remedy()
            );
            return Err(Error::Unavailable { reason: reason.into(), retry_after: Some(wait) });
        }
        Ok(login)
    }

    /// What was read lately.
    fn current(&self, name: &str) -> Option<Arc<Login>> {
        let records = self.records();
        let (login, until) = records.get(name)?.login.as_ref()?;
        (Instant::now() < *until).then(|| login.clone())
    }

    /// Reads the credential of an account now. A new one ends the time for which the account was left alone.
    async fn read(&self, name: &Arc<str>, refused: Option<&Login>) -> Result<Arc<Login>, Error> {
        let account = self.account(name)?;
        let reading = self.records().entry(name.clone()).or_default().reading.clone();
        let _turn = reading.lock().await;
        // Another reader may have had the turn before.
        if let Some(login) = self.current(name).filter(|login| refused.is_none_or(|refused| **login != *refused)) {
            return Ok(login);
        }
        if refused.is_some() && account.password_file.is_none() {
            let mut records = self.records();
            let record = records.entry(name.clone()).or_default();
            if record.reread.is_some_and(|at| at.elapsed() < REREAD) {
                return Err(Error::Denied);
            }
            record.reread = Some(Instant::now());
        }
        let read = self.read_now(account).await;
        let mut records = self.records();
        let record = records.entry(name.clone()).or_default();
        match (read, &record.login) {
            (Ok((login, lifetime)), old) => {
                let login = Arc::new(login);
                if old.as_ref().is_some_and(|(old, _)| *old != login) {
                    tracing::info!(upstream = %self.upstream, account = %name, "the credential of an account changed");
                    (record.parked_until, record.proven, record.state) = (None, None, CredentialState::Unused);
                }
                if record.state == CredentialState::Unreadable {
                    record.state = CredentialState::Unused;
                }
                record.login = Some((login.clone(), Instant::now() + lifetime));
                Ok(login)
            }
            (Err(error), old) => {
                let old = old.as_ref().map(|(login, _)| login.clone());
                record.state = CredentialState::Unreadable;
                if record.may_log() {
                    tracing::warn!(upstream = %self.upstream, account = %name, %error, "the credential of an account cannot be read");
                }
                // A file that is being replaced may be away for a moment.
                if let Some(login) = old {
                    record.login = Some((login.clone(), Instant::now() + REREAD));
                    return Ok(login);
                }
                let reason = format!("the credential of account {name}: {error}");
                Err(Error::Unavailable { reason: reason.into(), retry_after: None })
            }
        }
    }

    /// What the account logs in with, and for how long it need not be read again.
    async fn read_now(&self, account: &Account) -> Result<(Login, Duration), String> {
        if let Some(provider) = account.provider {
            return self.cloud.login(provider, &self.registry).await;
        }
        if let Some(command) = account.command.first() {
            let (mut login, lifetime) =
                helper::run(&account.command, &self.registry).await.map_err(|why| format!("{command} {why}"))?;
            login.identity_token |= account.identity_token;
            return Ok((login, lifetime));
        }
        let (user, identity_token, account) = (account.username.clone(), account.identity_token, account.clone());
        let read = tokio::task::spawn_blocking(move || account.read_password()).await;
        let secret = read.unwrap_or_else(|_| Err("reading it failed".to_owned()))?;
        Ok((Login { user, secret, identity_token }, REREAD))
    }

    /// Whether there is another credential now than the one that was refused.
    pub(super) async fn changed(&self, name: &Arc<str>, refused: &Login) -> bool {
        self.read(name, Some(refused)).await.is_ok_and(|login| *login != *refused)
    }

    /// How much longer an account is left alone.
    pub(super) fn parked(&self, name: &str) -> Option<Duration> {
        let until = self.records().get(name)?.parked_until?;
        until.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero())
    }

    /// What is known of each account's credential.
    pub(super) fn states(&self) -> Vec<(Arc<str>, CredentialState)> {
        let records = self.records();
        let state = |name: &Arc<str>| records.get(name).map(|record| record.state).unwrap_or_default();
        self.accounts.iter().map(|account| (account.username.clone(), state(&account.username))).collect()
    }

    /// The registry or its token service accepted the account's credential.
    pub(super) fn accepted(&self, name: &Arc<str>) {
        let mut records = self.records();
        let record = records.entry(name.clone()).or_default();
        (record.proven, record.state) = (Some(Instant::now()), CredentialState::Accepted);
    }

    /// Whether the credential was accepted before, and whether that was a moment ago.
    pub(super) fn proven(&self, name: &str) -> (bool, bool) {
        let proven = self.records().get(name).and_then(|record| record.proven);
        (proven.is_some(), proven.is_some_and(|at| at.elapsed() < PROVEN))
    }

    /// The account's credential was refused.
    pub(super) fn park(&self, name: &Arc<str>) -> Error {
        let mut records = self.records();
        let record = records.entry(name.clone()).or_default();
        let now = Instant::now();
        (record.parked_until, record.proven, record.state) = (Some(now + PARKED), None, CredentialState::Refused);
        if let Some((_, until)) = &mut record.login {
            *until = (*until).min(now + REREAD);
        }
        drop(records);
        let fix = self.account(name).map(Account::remedy).unwrap_or_default();
        tracing::warn!(upstream = %self.upstream, account = %name, "an account was refused and is left alone for 10 min; {fix}");
        Error::Unavailable { reason: format!("it refused account {name}; {fix}").into(), retry_after: Some(PARKED) }
    }

    /// The account is fine and may not read a repository. Logged once in a while.
    pub(super) fn refused_repository(&self, name: &Arc<str>, repository: &str) {
        if self.records().entry(name.clone()).or_default().may_log() {
            tracing::warn!(upstream = %self.upstream, account = %name, repository, "an account may not read a repository");
        }
    }

    fn account(&self, name: &str) -> Result<&Account, Error> {
        self.accounts.iter().find(|account| *account.username == *name).ok_or(Error::Denied)
    }

    fn records(&self) -> MutexGuard<'_, HashMap<Arc<str>, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
