//! A blob from another replica of the fleet, as it arrives there, and what upstream said to it. What comes is not verified.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, RANGE},
    redirect,
};

use super::{error::Error, tls, transport::cause};
use crate::oci::Digest;

/// A replica of the same fleet is near.
const CONNECT: Duration = Duration::from_secs(1);

/// How long its answer may take: the time for which it waits for the answer of upstream, and a little.
const ANSWER: Duration = Duration::from_secs(12);

/// How long all of what upstream said may take: two seconds for which the other one waits itself, and a little.
const SAID: Duration = Duration::from_secs(5);

/// Bytes of it: an answer of 8 MiB, and a line.
const SAID_BYTES: usize = (8 << 20) + 64;

/// How long it may send nothing.
const IDLE: Duration = Duration::from_secs(10);

/// Shorter than it keeps a connection that no request uses.
const POOL_IDLE: Duration = Duration::from_secs(5);

/// Asks replicas for blobs. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct PeerClient {
    client: Client,
}

/// The body of a blob under way from a replica.
#[derive(Debug)]
pub struct PeerBody {
    /// Bytes of the whole blob.
    pub size: u64,
    /// Offset of the first byte that comes.
    pub start: u64,
    /// The replica that sends it.
    pub owner: String,
    response: Response,
}

impl PeerClient {
    /// A client without redirects and proxies.
    ///
    /// # Errors
    /// The library's.
    pub fn new() -> Result<PeerClient, String> {
        tls::install_provider();
        let client = Client::builder()
            .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .http1_only()
            .tls_certs_only([])
            .connect_timeout(CONNECT)
            .pool_idle_timeout(POOL_IDLE)
            .tcp_nodelay(true)
            .build();
        client.map(|client| PeerClient { client }).map_err(|error| cause(&error))
    }

    /// A blob from this offset on, from the replica with this URL.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it neither has the blob nor gets it, [`Error::Denied`] when it has another secret,
    /// [`Error::Unavailable`] and [`Error::Malformed`].
    pub async fn get(&self, owner: &str, digest: &Digest, authorization: &str, from: u64) -> Result<PeerBody, Error> {
        let malformed = |why: &str| Error::Malformed(why.into());
        let url = Url::parse(&format!("{owner}/v1/blobs/{digest}")).map_err(|_| malformed("its address is no URL"))?;
        let mut request = self.client.get(url).header(AUTHORIZATION, authorization);
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let response = match tokio::time::timeout(ANSWER, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(unavailable(cause(&error))),
            Err(_) => return Err(unavailable("it does not answer in time".to_owned())),
        };
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let (size, start) = match response.status() {
            StatusCode::OK => (header(CONTENT_LENGTH).and_then(|length| length.parse().ok()), 0),
            StatusCode::PARTIAL_CONTENT => {
                let total = header(CONTENT_RANGE).and_then(|range| range.rsplit_once('/'));
                (total.and_then(|(_, size)| size.parse().ok()), from)
            }
            StatusCode::NOT_FOUND => return Err(Error::NotFound),
            StatusCode::UNAUTHORIZED => return Err(Error::Denied),
            status => return Err(Error::Status(status.as_u16())),
        };
        let size = size.ok_or_else(|| malformed("it does not say how large the blob is"))?;
        // Nothing would be read of an empty one before it is whole, and so nothing be verified.
        if size == 0 && *digest != digest.algorithm().digest(b"") {
            return Err(malformed("it sent no byte of the blob"));
        }
        Ok(PeerBody { size, start, owner: owner.to_owned(), response })
    }

    /// What the replica with this URL says of a flight, by its token, the hash of its object's key and a nonce; and the seal of that.
    ///
    /// # Errors
    /// [`Error::Denied`] when it has another secret, [`Error::NotFound`] when it is of a version that does not say such things,
    /// [`Error::Unavailable`], [`Error::Status`] and [`Error::Malformed`].
    pub async fn answer(
        &self,
        owner: &str,
        [token, key, nonce]: [&str; 3],
        authorization: &str,
    ) -> Result<(String, Bytes), Error> {
        let malformed = |why: &str| Error::Malformed(why.into());
        let url =
            Url::parse(&format!("{owner}/v1/answers/{token}/{key}")).map_err(|_| malformed("its address is no URL"))?;
        let request = self.client.get(url).header(AUTHORIZATION, authorization).header("weir-nonce", nonce);
        let answer = async {
            let mut response = request.send().await.map_err(|error| unavailable(cause(&error)))?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Err(Error::NotFound),
                StatusCode::UNAUTHORIZED => return Err(Error::Denied),
                status => return Err(Error::Status(status.as_u16())),
            }
            let seal = response.headers().get("weir-seal").and_then(|value| value.to_str().ok());
            let seal = seal.ok_or_else(|| malformed("its answer is not sealed"))?.to_owned();
            let mut body = BytesMut::new();
            while let Some(piece) = response.chunk().await.map_err(|error| unavailable(cause(&error)))? {
                if body.len() + piece.len() > SAID_BYTES {
                    return Err(malformed("its answer is too large"));
                }
                body.extend_from_slice(&piece);
            }
            Ok((seal, body.freeze()))
        };
        let late = || Err(unavailable("it does not answer in time".to_owned()));
        tokio::time::timeout(SAID, answer).await.unwrap_or_else(|_| late())
    }
}

impl PeerBody {
    /// The next piece, or `None` at the end.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it broke off, or sent nothing for ten seconds.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match tokio::time::timeout(IDLE, self.response.chunk()).await {
            Ok(Ok(piece)) => Ok(piece),
            Ok(Err(error)) => Err(unavailable(cause(&error))),
            Err(_) => Err(unavailable("it sent nothing for ten seconds".to_owned())),
        }
    }
}

fn unavailable(why: String) -> Error {
    Error::Unavailable { reason: format!("another replica: {why}").into(), retry_after: None }
}
