//! The connection by itself, on a socket without the kernel's own time-out.

use std::{future::poll_fn, sync::Arc};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::{
    http::{
        peer::Peer,
        wire::{Transfer, connection_limit::ConnectionLimit},
    },
    mirror::Extent,
};

const STALL: Duration = Duration::from_millis(200);

/// A connection whose client never reads, and the client.
async fn stalled() -> (Connection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (socket, address) = listener.accept().await.unwrap();
    let metrics = Metrics::new();
    let slot = ConnectionLimit::new(1, 1, Box::new(|_| true), metrics.clone()).enter(address.ip()).unwrap();
    let patience = Patience { head: STALL * 100, write_stall: STALL, disconnect: STALL };
    let state = Rc::new(ConnectionState::new(Peer::new(Some(address), false)));
    state.begin(false);
    let refuse: Refuse = Arc::new(|_, _, _| Bytes::new());
    (Connection::new(Stream::Plain(socket), state, patience, refuse, &metrics, slot), client)
}

#[tokio::test]
async fn a_write_that_stalls_ends_without_the_kernel_s_help() {
    let (mut connection, client) = stalled().await;
    let piece = vec![b'x'; 1 << 20];
    let stalls = async {
        loop {
            if let Err(error) = poll_fn(|cx| Pin::new(&mut connection).poll_write(cx, &piece)).await {
                break error;
            }
        }
    };
    let error = tokio::time::timeout(STALL * 100, stalls).await.expect("it waits for ever");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    drop(client);
}

#[tokio::test]
async fn a_transfer_that_stalls_ends_without_the_kernel_s_help() {
    let (mut connection, client) = stalled().await;
    let bytes = Bytes::from(vec![b'x'; 1 << 20]);
    let source = Box::new(move |_: &mut Context<'_>, _, _| Poll::Ready(Ok(Extent::Bytes(bytes.clone()))));
    connection.state().send(Transfer::new(source, 0, 1 << 40));
    let flushed = poll_fn(|cx| Pin::new(&mut connection).poll_flush(cx));
    let flushed = tokio::time::timeout(STALL * 100, flushed).await.expect("it waits for ever");
    assert_eq!(flushed.unwrap_err().kind(), io::ErrorKind::TimedOut);
    drop(client);
}
