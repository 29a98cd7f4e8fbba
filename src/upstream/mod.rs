//! stub: a client of registries; the only user of reqwest.
#![allow(missing_docs, unused_variables, dead_code, clippy::todo, reason = "replaced by the real modules")]

pub mod ledger;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use url::Url;

use crate::oci::{Digest, Manifest, MediaType, Name, Reference};
pub use ledger::{Ledger, Reservation};

/// One `[[upstream]]`. Every duration and bound stands in deploy.toml.
#[derive(Clone, Debug)]
pub struct Settings {
    pub name: Arc<str>,
    pub url: Url,
    pub default: bool,
    pub accounts: Vec<Account>,
    pub token_hosts: Vec<String>,
    pub ipv4_only: bool,
    /// TCP and TLS together (5 s).
    pub connect_timeout: Duration,
    /// Until the response headers (15 s; containerd waits 30 for ours).
    pub first_byte_timeout: Duration,
    /// Between two pieces of a body (15 s). There is no whole-body timeout.
    pub idle_timeout: Duration,
    /// Requests under way at once to one host (32) …
    pub concurrency: usize,
    /// … and waiting for their turn (1024), past which they fail as unavailable.
    pub queue: usize,
    /// More root certificates (PEM) for a private registry; the system's are always trusted.
    pub ca_file: Option<std::path::PathBuf>,
}

#[derive(Clone, Debug)]
pub struct Account {
    pub username: Arc<str>,
    pub password: Secret,
}

/// A secret that does not print.
#[derive(Clone)]
pub struct Secret(pub Arc<str>);
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// As whom upstream is asked: anonymous, or one of the accounts. A budget belongs to an identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    pub upstream: Arc<str>,
    /// `None` is anonymous.
    pub account: Option<Arc<str>>,
}

/// What a HEAD of a manifest told. `digest` is `None` for registries that send none (then only a GET knows).
#[derive(Clone, Debug)]
pub struct Head {
    pub digest: Option<Digest>,
    pub media_type: Option<MediaType>,
    pub size: Option<u64>,
}

/// A blob body under way. Pieces come until `None`; the error of a broken body says whether a resume makes sense.
pub struct Body {
    /// Length of the whole blob (from Content-Length or Content-Range).
    pub size: Option<u64>,
    /// Offset of the first byte that will come; 0 when upstream ignored the range.
    pub start: u64,
}
impl Body {
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        todo!()
    }
}

/// What a caller can act on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// 404: upstream says it does not exist.
    #[error("not found upstream")]
    NotFound,
    /// 401 or 403 to this identity, after a good token or with Basic. Hub answers so for what does not exist, too.
    #[error("refused by upstream")]
    Denied,
    /// 429 of the pull limit (JSON TOOMANYREQUESTS). HEADs go on.
    #[error("upstream's pull limit is reached")]
    PullLimit { retry_after: Duration },
    /// 429 of the abuse limit, or its breaker is open: nothing is asked of this upstream until then.
    #[error("upstream limits this address: {message}")]
    AbuseLimit { retry_after: Duration, message: Arc<str> },
    /// Connect, time-out, 5xx, token service, breaker.
    #[error("upstream is unavailable: {reason}")]
    Unavailable { reason: Arc<str>, retry_after: Option<Duration> },
    /// 405 or 501 to a HEAD, or learned lately for this repository (10 min): the only case in which a GET stands in.
    #[error("upstream refuses HEAD")]
    HeadRefused,
    /// 200 with something that is not what was asked: HTML, wrong length, another digest, a redirect to where we do not go.
    #[error("upstream's answer is malformed: {0}")]
    Malformed(Arc<str>),
}

/// One configured registry. Cloning is cheap. All methods must run on main's runtime, never on an actix worker.
#[derive(Clone, Debug)]
pub struct Upstream;

impl Upstream {
    pub fn new(settings: Settings, ledger: Ledger) -> Result<Upstream, String> {
        todo!()
    }
    pub fn settings(&self) -> &Settings {
        todo!()
    }
    /// Anonymous first, then the accounts that are not parked (one 401 of the token service or of Basic parks an account for 10 min).
    pub fn identities(&self) -> Vec<Identity> {
        todo!()
    }
    pub async fn head_manifest(
        &self,
        identity: &Identity,
        repository: &Name,
        reference: &Reference,
    ) -> Result<Head, Error> {
        todo!()
    }
    /// The counted request. Verifies: bytes against Docker-Content-Digest and against a digest reference; JSON; at most 4 MiB.
    /// Commits the reservation when the request was sent, refunds it when it was not.
    pub async fn get_manifest(
        &self,
        reservation: Reservation,
        repository: &Name,
        reference: &Reference,
    ) -> Result<Manifest, Error> {
        todo!()
    }
    /// Size in bytes.
    pub async fn head_blob(
        &self,
        identity: &Identity,
        repository: &Name,
        digest: &Digest,
    ) -> Result<Option<u64>, Error> {
        todo!()
    }
    /// From `from` on, to `to` (exclusive) when given. Redirects are walked anew each time: signed CDN addresses expire.
    pub async fn get_blob(
        &self,
        identity: &Identity,
        repository: &Name,
        digest: &Digest,
        from: u64,
        to: Option<u64>,
    ) -> Result<Body, Error> {
        todo!()
    }
    /// All pages, at most 100 and 100,000 tags; byte order.
    pub async fn tags(&self, identity: &Identity, repository: &Name) -> Result<Vec<String>, Error> {
        todo!()
    }
    /// The referrers index as upstream has it (all pages merged), or `None` when upstream does not offer the API (404).
    pub async fn referrers(
        &self,
        identity: &Identity,
        repository: &Name,
        digest: &Digest,
    ) -> Result<Option<Vec<serde_json::Value>>, Error> {
        todo!()
    }
    /// Closed, or until when it is open and why; for readiness and the dashboard.
    pub fn breaker(&self) -> Option<(SystemTime, Arc<str>)> {
        todo!()
    }
}
