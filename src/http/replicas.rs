//! The listener for the other replicas: blobs as they arrive here and what upstream said, for a request that is signed as the fleet's, and
//! nothing else. It is not for clients.
//!
//! `GET /v1/blobs/<digest>` with `Range: bytes=N-`; 404 when this replica neither has the blob nor gets it.
//!
//! `GET /v1/answers/<token>/<hash of a key>` with `Weir-Nonce`: what the flight with this token was told. It waits for two seconds at most,
//! and `Weir-Seal` is the MAC of the answer and of the request.

use std::{convert::Infallible, io, net::TcpListener, sync::Arc, time::Duration};

use actix_http::{
    HttpMessage as _, HttpService, KeepAlive, Method, Request, Response, StatusCode,
    body::{BoxBody, SizedStream},
    error::DispatchError,
    header::{AUTHORIZATION, CONTENT_RANGE, RANGE},
};
use actix_server::{Server, ServerHandle};
use actix_service::{IntoServiceFactory as _, ServiceFactoryExt as _, fn_service};
use tokio::{net::TcpStream, task::JoinHandle};

use crate::{
    mirror::{Blobs, Peers},
    oci::Digest,
};

/// Connections at once. A fleet of ten that fills 64 blobs each needs fewer.
const CONNECTIONS: usize = 1024;

/// How long the head of a request may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection may idle between requests; longer than the other side keeps it.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How long a replica may take nothing of what is sent.
const STALL: Duration = Duration::from_secs(30);

/// A running listener. It ends with [`PeerServing::stop`] or the runtime.
#[derive(Debug)]
pub struct PeerServing {
    handle: ServerHandle,
    running: JoinHandle<io::Result<()>>,
}

impl PeerServing {
    /// Stops at once: those that follow go on by themselves.
    pub async fn stop(self) {
        self.handle.stop(false).await;
        self.running.abort();
    }
}

/// Answers other replicas on `socket`, which is bound and listening.
///
/// # Errors
/// When the socket cannot be used.
pub fn serve_peers(socket: TcpListener, blobs: Arc<Blobs>, peers: Peers) -> io::Result<PeerServing> {
    let server = Server::build()
        .workers(1)
        .max_concurrent_connections(CONNECTIONS)
        .shutdown_timeout(1)
        .disable_signals()
        .listen("shared.peers", socket, move || {
            let (blobs, peers) = (blobs.clone(), peers.clone());
            let service = fn_service(move |request: Request| {
                let (blobs, peers) = (blobs.clone(), peers.clone());
                async move { Ok::<_, Infallible>(answer(&blobs, &peers, &request).await) }
            });
            let http = HttpService::<TcpStream, _, _>::build()
                .keep_alive(KeepAlive::Timeout(KEEP_ALIVE))
                .client_request_timeout(HEAD_TIMEOUT)
                .h1(service);
            let accept = fn_service(|socket: TcpStream| async move {
                // A socket that cannot be tuned is one that is closed already.
                let _ = socket.set_nodelay(true);
                let _ = socket2::SockRef::from(&socket).set_tcp_user_timeout(Some(STALL));
                let peer = socket.peer_addr().ok();
                Ok::<_, DispatchError>((socket, peer))
            });
            accept.into_factory().and_then(http)
        })?
        .run();
    Ok(PeerServing { handle: server.handle(), running: tokio::spawn(server) })
}

async fn answer(blobs: &Blobs, peers: &Peers, request: &Request) -> Response<BoxBody> {
    let status = |status| Response::new(status);
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    if let Some((token, key)) = request.path().strip_prefix("/v1/answers/").and_then(|words| words.split_once('/'))
        && request.method() == Method::GET
    {
        let authorization = header(AUTHORIZATION).unwrap_or_default();
        let nonce = request.headers().get("weir-nonce").and_then(|value| value.to_str().ok()).unwrap_or_default();
        return match peers.answer(authorization, [token, key, nonce]).await {
            Some((body, seal)) => {
                Response::build(StatusCode::OK).insert_header(("weir-seal", seal)).body(body).map_into_boxed_body()
            }
            None => status(StatusCode::UNAUTHORIZED),
        };
    }
    let digest = request.path().strip_prefix("/v1/blobs/").and_then(|text| text.parse::<Digest>().ok());
    let Some(digest) = digest.filter(|_| request.method() == Method::GET) else {
        return status(StatusCode::NOT_FOUND);
    };
    if !header(AUTHORIZATION).is_some_and(|authorization| peers.admits(authorization, &digest)) {
        return status(StatusCode::UNAUTHORIZED);
    }
    let range = header(RANGE).and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<u64>().ok());
    let from = range.unwrap_or(0);
    let Some(blob) = blobs.for_peer(&digest, from).await else { return status(StatusCode::NOT_FOUND) };
    let size = blob.size();
    if from > size {
        return status(StatusCode::RANGE_NOT_SATISFIABLE);
    }
    let mut response = Response::build(if from == 0 { StatusCode::OK } else { StatusCode::PARTIAL_CONTENT });
    if from > 0 {
        response.insert_header((CONTENT_RANGE, format!("bytes {from}-{}/{size}", size.saturating_sub(1))));
    }
    let pieces = futures_util::stream::unfold(blob, |mut blob| async move {
        let piece = blob.next().await?;
        Some((piece.map_err(|why| io::Error::other(why.to_string())), blob))
    });
    response
        .message_body(SizedStream::new(size - from, Box::pin(pieces)))
        .map_or_else(|_| status(StatusCode::INTERNAL_SERVER_ERROR), |response| response.map_into_boxed_body())
}
