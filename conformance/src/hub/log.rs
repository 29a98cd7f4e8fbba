//! The log of every request: what was asked, by whom, and how it was answered.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// What a request is for. The names in the control API are these in snake case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `GET /v2/<name>/manifests/<reference>`, which Docker Hub counts (end-3).
    ManifestGet,
    /// The same with HEAD, which it does not count.
    ManifestHead,
    /// `GET /v2/<name>/blobs/<digest>` at the registry, also when the answer is a redirect (end-2).
    BlobGet,
    /// The same with HEAD.
    BlobHead,
    /// A GET at the CDN, where the bytes of blobs come from.
    CdnGet,
    /// A HEAD at the CDN.
    CdnHead,
    /// GET or POST at the token service.
    Token,
    /// `GET /v2/<name>/tags/list` (end-8).
    Tags,
    /// `GET /v2/<name>/referrers/<digest>` (end-12).
    Referrers,
    /// `GET /v2/` (end-1).
    Ping,
    /// Anything else, writes among it.
    Other,
}

impl Kind {
    /// Every kind, in the order of declaration.
    pub const ALL: [Kind; 11] = [
        Kind::ManifestGet,
        Kind::ManifestHead,
        Kind::BlobGet,
        Kind::BlobHead,
        Kind::CdnGet,
        Kind::CdnHead,
        Kind::Token,
        Kind::Tags,
        Kind::Referrers,
        Kind::Ping,
        Kind::Other,
    ];

    /// The name in the control API and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::ManifestGet => "manifest_get",
            Kind::ManifestHead => "manifest_head",
            Kind::BlobGet => "blob_get",
            Kind::BlobHead => "blob_head",
            Kind::CdnGet => "cdn_get",
            Kind::CdnHead => "cdn_head",
            Kind::Token => "token",
            Kind::Tags => "tags",
            Kind::Referrers => "referrers",
            Kind::Ping => "ping",
            Kind::Other => "other",
        }
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// The credential that came with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// No `Authorization` header.
    None,
    /// Basic, with this user name.
    Basic(String),
    /// A Bearer token, good or bad.
    Bearer,
    /// Any other scheme.
    Other,
}

/// One request and what became of it. It enters the log when it arrives; the last four fields are filled in as the answer goes out.
#[derive(Clone, Debug)]
pub struct Logged {
    /// Counts up from 0 over the life of the hub; [`Hub::clear_log`](super::Hub::clear_log) does not reset it.
    pub id: u64,
    /// When its head had been read.
    pub at: Instant,
    /// The address it came from.
    pub from: SocketAddr,
    /// The method.
    pub method: String,
    /// What it is for.
    pub kind: Kind,
    /// The repository; for a token the repository of its first scope; else empty.
    pub repository: String,
    /// Tag or digest; for the CDN the digest; else empty.
    pub reference: String,
    /// The request target as it was sent, with its query.
    pub target: String,
    /// The credential.
    pub authorization: Authorization,
    /// The `Range` header.
    pub range: Option<String>,
    /// Every header, in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The status, 0 until the answer begins or when it never did.
    pub status: u16,
    /// Whether it was charged to a pull limit.
    pub counted: bool,
    /// Bytes of the body handed to the socket so far.
    pub bytes_sent: u64,
    /// Where the answer is.
    pub progress: Progress,
}

/// A request that reached the hostile listener.
#[derive(Clone, Debug)]
pub struct HostileRequest {
    /// Method and target, as sent.
    pub request: String,
    /// Every header, in order, names in lower case.
    pub headers: Vec<(String, String)>,
}

/// How far an answer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not begun, or held by a gate, or being sent.
    Open,
    /// Stopped by a `stall` until it is released.
    Stalled,
    /// The whole answer was handed to the socket (with a fault: all that the fault lets through).
    Sent,
    /// The client left, or the hub went down, before that.
    Broken,
}

impl Logged {
    /// The first header of that name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

/// A request on its way: whatever happens to it, the log learns of its end.
pub(super) struct Entry<'a> {
    pub(super) log: &'a Log,
    pub(super) id: u64,
}

impl Entry<'_> {
    pub(super) fn update(&mut self, change: impl FnOnce(&mut Logged)) {
        self.log.update(self.id, change);
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.log.update(self.id, |logged| {
            if logged.progress != Progress::Sent {
                logged.progress = Progress::Broken;
            }
        });
    }
}

/// The log. It wakes all waiters at every change.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Held for a few lines, never across an await.
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    entries: VecDeque<Logged>,
    next: u64,
}

impl Log {
    /// Records a request that has just arrived and returns its id. `entry.id` is overwritten.
    pub(super) fn arrive(&self, mut entry: Logged, length: usize) -> u64 {
        let id = {
            let mut inner = self.inner.lock().unwrap();
            let id = inner.next;
            inner.next += 1;
            entry.id = id;
            inner.entries.push_back(entry);
            while inner.entries.len() > length.max(1) {
                inner.entries.pop_front();
            }
            id
        };
        self.changed.notify_waiters();
        id
    }

    /// Changes the entry of that id, if it is still there.
    pub(super) fn update(&self, id: u64, change: impl FnOnce(&mut Logged)) {
        {
            let mut inner = self.inner.lock().unwrap();
            let Some(first) = inner.entries.front().map(|entry| entry.id) else { return };
            let Some(entry) = id.checked_sub(first).and_then(|at| inner.entries.get_mut(at as usize)) else { return };
            change(entry);
        }
        self.changed.notify_waiters();
    }

    pub(super) fn all(&self) -> Vec<Logged> {
        self.inner.lock().unwrap().entries.iter().cloned().collect()
    }

    pub(super) fn clear(&self) {
        self.inner.lock().unwrap().entries.clear();
        self.changed.notify_waiters();
    }

    /// How many requests of each kind, by name; kinds never seen are absent.
    pub(super) fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for entry in &self.inner.lock().unwrap().entries {
            *counts.entry(entry.kind.name()).or_default() += 1;
        }
        counts
    }

    /// Waits until the log is as `ready` wants it, `patience` at most; returns whether it came to that.
    pub(super) async fn wait_for(&self, patience: Duration, mut ready: impl FnMut(&[Logged]) -> bool) -> bool {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Enabled before looking, so that a change between the look and the wait is not lost.
            changed.as_mut().enable();
            if ready(self.inner.lock().unwrap().entries.make_contiguous()) {
                return true;
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return false;
            }
        }
    }
}
