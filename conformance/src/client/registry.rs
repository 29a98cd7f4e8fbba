//! A registry or mirror at an address, and the requests that container clients send it.

mod pull;

use std::net::SocketAddr;

use url::Url;

use super::{
    connection::Connection,
    error::Error,
    request::Request,
    response::Response,
    trust::{Authorities, Trust},
};
pub use pull::{Pull, Shape, manifest_children};

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
