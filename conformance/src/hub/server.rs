//! Listeners: accept, serve, and go down so that the port stays ours.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::exchange::{Port, exchange};
use super::shared::Shared;
use super::wire::Connection;

/// How many connections wait to be accepted.
const BACKLOG: i32 = 4_096;

/// Binds and listens. With port 0 the system chooses.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = bind(address)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// Binds and does not listen: whoever connects is refused, and nobody else gets the port.
pub(super) fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

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

/// Accepts, `connections` at once at most, and has each connection served by a task of its own.
pub(super) async fn accept<F>(
    listener: TcpListener,
    connections: Arc<Semaphore>,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let served = serve(stream, peer);
                tokio::spawn(async move {
                    served.await;
                    drop(permit);
                });
            }
            // No descriptor left, most likely: one comes free when a connection ends.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Serves one connection until either side ends it or the hub goes down.
async fn converse(shared: &Shared, port: Port, stream: TcpStream, peer: SocketAddr, mut fallen: watch::Receiver<u64>) {
    let mut connection = Connection::new(stream, peer);
    let talk = async {
        // What goes wrong here is the client leaving, or a client that does not speak HTTP: both end the connection.
        while let Ok(Some(request)) = connection.next().await {
            if !exchange(shared, port, &mut connection, request).await.unwrap_or(false) {
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
