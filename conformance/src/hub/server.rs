//! The hub's two ports: serve each connection, and go down with all of them at once.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::exchange::Port;
use super::listener::accept;
use super::respond::respond;
use super::shared::Shared;
use super::wire::Connection;

/// Accepts on a port of the hub until the task is aborted.
pub(super) fn serve(
    listener: TcpListener,
    port: Port,
    shared: Arc<Shared>,
    connections: Arc<Semaphore>,
) -> JoinHandle<()> {
    tokio::spawn(accept(listener, connections, move |stream, peer| {
        let shared = Arc::clone(&shared);
        // From here on, not from when the task first runs: a connection accepted before the fall must fall.
        let fallen = shared.fallen.subscribe();
        async move { converse(&shared, port, stream, peer, fallen).await }
    }))
}

/// Serves one connection until either side ends it or the hub goes down.
async fn converse(shared: &Shared, port: Port, stream: TcpStream, peer: SocketAddr, mut fallen: watch::Receiver<u64>) {
    let mut connection = Connection::new(stream, peer);
    let talk = async {
        // What goes wrong here is the client leaving, or a client that does not speak HTTP: both end the connection.
        while let Ok(Some(request)) = connection.next().await {
            if !respond(shared, port, &mut connection, request).await.unwrap_or(false) {
                break;
            }
        }
    };
    tokio::select! {
        () = talk => return,
        _ = fallen.changed() => {}
    }
    connection.reset_on_close();
}
