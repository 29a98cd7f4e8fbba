//! The hostile listener: another loopback address, where no credential must ever arrive. It records all it is sent.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::listener;
use super::log::{Entry, HostileRequest, Log};
use super::response::Response;
use super::send::{Delivery, send};
use super::shared::Shared;
use super::wire::Connection;

/// Listens on 127.0.0.2, or on 127.0.0.1 where there is no such address.
pub(super) fn listen() -> io::Result<TcpListener> {
    let other = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0));
    listener::listen(other).or_else(|_| listener::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))
}

/// Gives a token to each request at `/token`, and asks all others for a password.
pub(super) async fn converse(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    let mut connection = Connection::new(stream, peer);
    let nothing = Log::default();
    let released: watch::Receiver<u64> = shared.released.subscribe();
    while let Ok(Some(request)) = connection.next().await {
        let answer = if request.path() == "/token" {
            Response::json(200, &json!({"token": "evil", "access_token": "evil", "expires_in": 300}))
        } else {
            Response::error(401, "UNAUTHORIZED", "who are you?").with("WWW-Authenticate", "Basic realm=\"evil\"")
        };
        let delivery = Delivery {
            head: request.method == "HEAD",
            keep_alive: request.keep_alive,
            bandwidth: None,
            fault: None,
            released: released.clone(),
        };
        shared.hostile.lock().unwrap().push(HostileRequest {
            request: format!("{} {}", request.method, request.target),
            headers: request.headers,
        });
        let mut entry = Entry { log: &nothing, id: 0 };
        if !send(&mut connection, answer, delivery, &mut entry).await.unwrap_or(false) {
            break;
        }
    }
}
