//! A client that measures: HTTP/1.1 over one TCP connection, timed to the first byte, with bodies that are checked and not believed.
//!
//! An ordinary HTTP library hides what this suite is about. It retries, it follows redirects, it forgets when the headers came, and it
//! reports a body that ends early as one more error among many. Here each of these is a value: [`Response`] keeps the status, every
//! header, three instants, how many bytes came, what they hash to, and whether the framing said that they were all. A check that
//! must show "never a complete wrong body" needs that last one and nothing else will do.
//!
//! It refuses to be clever: one connection carries one request at a time, nothing is retried, nothing is decoded but `chunked`.

mod connection;
mod pull;
mod response;
#[cfg(test)]
mod tests;
mod trust;

use std::{net::SocketAddr, time::Duration};

use url::Url;

pub use connection::{Connection, Incoming};
pub use pull::{Pull, Shape, manifest_children};
pub use response::{Head, Response, Timing};
pub use trust::{Authorities, Trust};

/// How long a client of this suite waits for headers, and between two pieces of a body, before it calls the mirror hung.
/// containerd gives up after 30 s without headers, so a mirror that takes longer has lost the client.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of a body kept for reading; the rest is hashed and counted only.
const KEPT: usize = 8 << 20;

/// What went wrong before there was an answer to look at, or in the middle of one.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The connection broke.
    #[error("connection broke: {0}")]
    Broken(String),
    /// The mirror closed before the framing was complete.
    #[error("closed after {got} bytes of {of}")]
    Short {
        /// Bytes of the body that came.
        got: u64,
        /// Bytes that were announced; `u64::MAX` when none were (chunked).
        of: u64,
    },
    /// Nothing came for [`PATIENCE`].
    #[error("nothing for {0:?}")]
    Hung(Duration),
    /// Not HTTP/1.1.
    #[error("not HTTP: {0}")]
    Malformed(String),
}

/// One request. Nothing is added to it but `Host` and what frames its body.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `HEAD`, …
    pub method: &'static str,
    /// Path and query, sent as they stand: a check may send what no library would.
    pub target: String,
    /// Further headers, in order.
    pub headers: Vec<(String, String)>,
    /// What follows them.
    pub body: Body,
}

/// The body of a request, and how it says where it ends.
#[derive(Clone, Debug, Default)]
pub enum Body {
    /// No body, and not a word about it.
    #[default]
    None,
    /// `Content-Length` and so many bytes.
    Bytes(Vec<u8>),
    /// `Transfer-Encoding: chunked`, a chunk for each.
    Chunked(Vec<Vec<u8>>),
}

impl Request {
    /// A request without headers.
    pub fn new(method: &'static str, target: impl Into<String>) -> Request {
        Request { method, target: target.into(), headers: Vec::new(), body: Body::None }
    }
    /// A GET.
    pub fn get(target: impl Into<String>) -> Request {
        Request::new("GET", target)
    }
    /// A HEAD.
    pub fn head(target: impl Into<String>) -> Request {
        Request::new("HEAD", target)
    }
    /// The same with one more header.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Request {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
    /// The same with a body of known length.
    pub fn body(mut self, bytes: impl Into<Vec<u8>>) -> Request {
        self.body = Body::Bytes(bytes.into());
        self
    }
    /// The same with every manifest media type in `Accept`, as container clients send them.
    pub fn accepting_manifests(self) -> Request {
        self.with("Accept", MANIFEST_TYPES)
    }
    /// The same for a range of bytes, as in `bytes=0-99`.
    pub fn range(self, range: impl Into<String>) -> Request {
        self.with("Range", range)
    }
}

/// What containerd sends, in its order.
pub const MANIFEST_TYPES: &str = "application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.oci.image.index.v1+json, */*";

/// Where a mirror is, and how a repository is spelt there. Cloning is cheap; a connection is opened for each request.
#[derive(Clone, Debug)]
pub struct Client {
    address: SocketAddr,
    prefix: String,
    /// Name and trust of a server that was found by URL.
    named: Option<(String, Option<Trust>)>,
}

impl Client {
    /// `prefix` goes between `/v2/` and the name; empty for a root mirror.
    pub fn new(address: SocketAddr, prefix: &str) -> Client {
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Client { address, prefix, named: None }
    }
    /// A client of the server that a URL names; its path does not matter. An https URL is verified by `authorities`.
    pub async fn of(url: &Url, authorities: &Authorities) -> Result<Client, Error> {
        let connect = |what: &str| Error::Connect(format!("{url}: {what}"));
        let host = url.host_str().ok_or_else(|| connect("no host"))?;
        let port = url.port_or_known_default().ok_or_else(|| connect("no port"))?;
        let bare = host.trim_matches(['[', ']']);
        let mut found = tokio::net::lookup_host((bare, port)).await.map_err(|e| connect(&e.to_string()))?;
        let address = found.next().ok_or_else(|| connect("no address"))?;
        let trust = match url.scheme() {
            "http" => None,
            "https" => Some(authorities.of(bare)?),
            _ => return Err(connect("neither http nor https")),
        };
        let authority = url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"));
        Ok(Client { named: Some((authority, trust)), ..Client::new(address, "") })
    }
    /// Where the mirror listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
    /// `/v2/<prefix><repository>/<rest>`.
    pub fn path(&self, repository: &str, rest: &str) -> String {
        format!("/v2/{}{repository}/{rest}", self.prefix)
    }
    /// The path of a manifest.
    pub fn manifest(&self, repository: &str, reference: &str) -> String {
        self.path(repository, &format!("manifests/{reference}"))
    }
    /// The path of a blob.
    pub fn blob(&self, repository: &str, digest: &str) -> String {
        self.path(repository, &format!("blobs/{digest}"))
    }
    /// A connection of one's own.
    pub async fn connect(&self) -> Result<Connection, Error> {
        let connection = Connection::open(self.address).await?;
        match &self.named {
            Some((host, trust)) => connection.to(host, trust.as_ref()).await,
            None => Ok(connection),
        }
    }
    /// One request on a fresh connection, read to its end. An `Err` means that no answer came at all; a body that broke is in the answer.
    pub async fn send(&self, request: &Request) -> Result<Response, Error> {
        self.connect().await?.exchange(request).await
    }
    /// GET a manifest as container clients do.
    pub async fn get_manifest(&self, repository: &str, reference: &str) -> Result<Response, Error> {
        self.send(&Request::get(self.manifest(repository, reference)).accepting_manifests()).await
    }
    /// HEAD a manifest as container clients do.
    pub async fn head_manifest(&self, repository: &str, reference: &str) -> Result<Response, Error> {
        self.send(&Request::head(self.manifest(repository, reference)).accepting_manifests()).await
    }
    /// GET a blob, hashed as it comes.
    pub async fn get_blob(&self, repository: &str, digest: &str) -> Result<Response, Error> {
        self.send(&Request::get(self.blob(repository, digest))).await
    }
}

/// Lower-case hex of a sha256.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}
