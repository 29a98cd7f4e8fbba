//! An S3 bucket on loopback, in memory, which fails on demand: what no real store does when a test wants it to.
//!
//! It answers what a client of ours asks: PUT with and without a condition, GET with ranges, HEAD, DELETE, copies, and uploads in
//! parts. It checks no signature.

mod objects;
mod wire;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use self::{
    objects::{Objects, Refusal},
    wire::{Answer, Connection, Request},
};

/// What is wrong with the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// It closes each connection, those that are open too.
    Down,
    /// It takes requests and answers none.
    Silent,
    /// It answers each request, but late.
    Late(Duration),
    /// It answers reads at once, and writes late.
    LateWrites(Duration),
    /// It answers each request with this status.
    Status(u16),
    /// It looks whether a key exists, waits, and then writes: of several at once several win.
    SeveralWin,
    /// It takes an update of any version.
    TakesOldVersions,
    /// It gives the whole object whatever range is asked for.
    NoRanges,
    /// It ends each body after so many bytes.
    CutsAfter(usize),
}

/// A bucket on a port of its own. Dropping it closes the port.
#[derive(Debug)]
pub struct Bucket {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    objects: Mutex<Objects>,
    trouble: watch::Sender<Trouble>,
    requests: AtomicU64,
}

impl Bucket {
    /// The name under which it answers; any other is one that it does not have.
    pub const NAME: &'static str = "weir";

    /// Starts an empty bucket.
    ///
    /// # Errors
    /// No port.
    pub async fn start() -> io::Result<Bucket> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            objects: Mutex::default(),
            trouble: watch::Sender::new(Trouble::None),
            requests: AtomicU64::new(0),
        });
        let served = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(served.clone(), stream));
            }
        });
        Ok(Bucket { address, shared, task })
    }

    /// From now on this is wrong with it.
    pub fn trouble(&self, trouble: Trouble) {
        self.shared.trouble.send_replace(trouble);
    }

    /// Requests so far, answered or not.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// The keys that are there, in order.
    pub fn keys(&self) -> Vec<String> {
        self.lock().keys()
    }

    /// Whether the keys come to be so within 20 s.
    pub async fn wait_for(&self, mut ready: impl FnMut(&[String]) -> bool) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if ready(&self.keys()) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    /// An object.
    pub fn get(&self, key: &str) -> Option<Bytes> {
        self.lock().get(key).map(|(bytes, _)| bytes)
    }

    /// Changes one bit of an object; whether it is there.
    pub fn flip(&self, key: &str, at: usize) -> bool {
        let Some(bytes) = self.get(key) else { return false };
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        self.lock().put(key, bytes.into());
        true
    }

    /// Puts an object there.
    pub fn put(&self, key: &str, bytes: impl Into<Bytes>) {
        self.lock().put(key, bytes.into());
    }

    /// Removes an object.
    pub fn remove(&self, key: &str) {
        self.lock().remove(key);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Objects> {
        self.shared.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.trouble(Trouble::Down);
        self.task.abort();
    }
}

async fn converse(shared: Arc<Shared>, stream: TcpStream) {
    let mut trouble = shared.trouble.subscribe();
    let mut connection = Connection::new(stream);
    let talk = async {
        // What goes wrong here is the client leaving.
        while let Ok(Some(request)) = connection.next().await {
            shared.requests.fetch_add(1, Ordering::Relaxed);
            let now = *shared.trouble.borrow();
            if now == Trouble::Silent {
                std::future::pending::<()>().await;
            }
            let is_read = matches!(&*request.method, "GET" | "HEAD");
            match now {
                Trouble::Late(wait) => tokio::time::sleep(wait).await,
                Trouble::LateWrites(wait) if !is_read => tokio::time::sleep(wait).await,
                _ => {}
            }
            let answer = match now {
                Trouble::Status(status) => Answer::refused(status, "InternalError"),
                now => answer(&shared, now, &request).await,
            };
            let cut = if let Trouble::CutsAfter(most) = now { most } else { usize::MAX };
            if connection.send(&request, answer, cut).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = talk => {}
        _ = trouble.wait_for(|trouble| *trouble == Trouble::Down) => {}
    }
}

async fn answer(shared: &Shared, trouble: Trouble, request: &Request) -> Answer {
    let objects = || shared.objects.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(key) = request.path.strip_prefix('/').and_then(|path| path.strip_prefix(Bucket::NAME)) else {
        return Answer::refused(404, "NoSuchBucket");
    };
    let key = key.trim_start_matches('/');
    let refused = |refusal| match refusal {
        Refusal::Precondition => Answer::refused(412, "PreconditionFailed"),
        Refusal::Absent => Answer::refused(404, "NoSuchKey"),
    };
    match &*request.method {
        "GET" | "HEAD" => match objects().get(key) {
            Some((bytes, version)) if trouble == Trouble::NoRanges => Answer::object(bytes, version, None),
            Some((bytes, version)) => Answer::object(bytes, version, request.header("range")),
            None => refused(Refusal::Absent),
        },
        "DELETE" => {
            match request.asks("uploadId") {
                Some(upload) => objects().abort(&upload),
                None => objects().remove(key),
            }
            Answer::empty(204)
        }
        "POST" if request.asks("uploads").is_some() => {
            let upload = objects().begin();
            Answer::xml(format!(
                "<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            ))
        }
        "POST" => match objects().complete(key, &request.asks("uploadId").unwrap_or_default()) {
            Some(version) => Answer::xml(format!(
                "<CompleteMultipartUploadResult><ETag>&quot;{version}&quot;</ETag></CompleteMultipartUploadResult>"
            )),
            None => Answer::refused(404, "NoSuchUpload"),
        },
        "PUT" => {
            if let Some(upload) = request.asks("uploadId") {
                let number = request.asks("partNumber").and_then(|number| number.parse().ok()).unwrap_or(0);
                let version = objects().part(&upload, number, request.body.clone());
                return version.map_or_else(|| Answer::refused(404, "NoSuchUpload"), Answer::written);
            }
            if let Some(from) = request.header("x-amz-copy-source") {
                let from = from.trim_start_matches('/').split_once('/').map_or("", |(_, key)| key);
                let copied = objects().copy(from, key);
                return copied.map_or_else(
                    || refused(Refusal::Absent),
                    |version| {
                        Answer::xml(format!("<CopyObjectResult><ETag>&quot;{version}&quot;</ETag></CopyObjectResult>"))
                    },
                );
            }
            let create = request.header("if-none-match") == Some("*");
            let update = request.header("if-match").filter(|_| trouble != Trouble::TakesOldVersions);
            if create && trouble == Trouble::SeveralWin {
                let exists = objects().get(key).is_some();
                tokio::time::sleep(Duration::from_millis(5)).await;
                return match exists {
                    true => refused(Refusal::Precondition),
                    false => Answer::written(objects().put(key, request.body.clone())),
                };
            }
            let written = objects().put_if(key, request.body.clone(), create, update);
            written.map_or_else(refused, Answer::written)
        }
        _ => Answer::refused(501, "NotImplemented"),
    }
}
