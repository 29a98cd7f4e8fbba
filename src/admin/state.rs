//! What every request to the admin listener may need.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Instant, SystemTime},
};

use actix_web::{HttpResponse, web::Bytes};

use super::{
    history::{History, ReadTotals},
    json::refuse,
    origin::AllowedHosts,
    proof_of_work::ProofOfWork,
    shared_answer::SharedAnswers,
};
use crate::{
    identity::{Authenticator, session::Sessions},
    limits::Limits,
    mirror::{Mirror, Space},
    route::SharedRoutes,
    setting::EffectiveSetting,
    telemetry::Tail,
};

/// How the admin listener behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Host names under which it is asked.
    pub hosts: AllowedHosts,
    /// With this, TLS is spoken. ALPN must offer `http/1.1` alone, or nothing.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Whether an account is required in any case: unless the listener is on loopback.
    pub login: bool,
    /// For names without a registry, or with one.
    pub routes: SharedRoutes,
}

/// Whether this process wants to be asked: false from the first moment of a drain. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Draining(Arc<AtomicBool>);

impl Draining {
    /// From now on `/readyz` says 503.
    pub fn begin(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(super) fn has_begun(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// How the configuration was last read again, and what is in force since. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Reloads(Arc<Mutex<Reloaded>>);

#[derive(Debug, Default)]
struct Reloaded {
    last: Option<Reload>,
    settings: Arc<[EffectiveSetting]>,
}

/// One time that the configuration was read again.
#[derive(Clone, Debug)]
pub struct Reload {
    /// When.
    pub at: SystemTime,
    /// Why what is written is not used.
    pub problem: Option<String>,
    /// Whether some of what changed waits for a restart.
    pub waits_for_restart: bool,
}

impl Reloads {
    /// The configuration was read again.
    pub fn record(&self, reload: Reload) {
        self.lock().last = Some(reload);
    }

    /// From now on these settings are shown.
    pub fn show_settings(&self, settings: Vec<EffectiveSetting>) {
        self.lock().settings = settings.into();
    }

    /// The last time; `None` since the start.
    pub(super) fn last(&self) -> Option<Reload> {
        self.lock().last.clone()
    }

    /// Every setting as it is in force.
    pub(super) fn settings(&self) -> Arc<[EffectiveSetting]> {
        self.lock().settings.clone()
    }

    /// Held for a few lines, never across an await.
    fn lock(&self) -> MutexGuard<'_, Reloaded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the file system of the store said last. Cloning shares it.
pub(super) type LastSpace = Arc<Mutex<Option<Space>>>;

/// What every request may need.
pub(super) struct State {
    pub(super) settings: Settings,
    pub(super) mirror: Mirror,
    pub(super) limits: Limits,
    pub(super) metrics: prometheus_client::registry::Registry,
    pub(super) space: LastSpace,
    pub(super) draining: Draining,
    pub(super) authenticator: Authenticator,
    pub(super) sessions: Sessions,
    pub(super) proof_of_work: ProofOfWork,
    pub(super) settle: Settle,
    pub(super) totals: ReadTotals,
    pub(super) history: History,
    /// What all who watch the overview get, by language.
    pub(super) live: SharedAnswers<Bytes>,
    pub(super) reloads: Reloads,
    pub(super) log: Tail,
    pub(super) started: Instant,
}

/// Resolves when what was decided so far is on disk, or with the reason why it is not. `main` gives it.
pub type Settle = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>>>> + Send + Sync>;

impl State {
    /// The answer to a change, once the change is on disk: a client that got it finds the change after a crash.
    pub(super) async fn settled(&self, answer: HttpResponse) -> HttpResponse {
        match (self.settle)().await {
            Err(error) if answer.status().is_success() || answer.status().is_redirection() => {
                let message = format!("this is in force, but cannot be written, so a restart forgets it: {error}");
                refuse(507, "UNKNOWN", &message)
            }
            _ => answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_is_seen_through_every_clone() {
        let draining = Draining::default();
        let other = draining.clone();
        assert!(!other.has_begun());
        draining.begin();
        assert!(other.has_begun());
    }
}
