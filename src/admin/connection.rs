//! A connection of the admin listener: plain, in TLS, or of the local socket.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::connections::ConnectionSlot;

/// How long a TLS handshake may take: two round trips and some arithmetic.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(4);

/// What is read and written, and the share of its client that it takes while it is open.
pub(super) struct Connection {
    stream: Stream,
    _slot: Option<ConnectionSlot>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Local(UnixStream),
}

impl Connection {
    /// Of a client in the network, which speaks TLS when there is a configuration of it.
    ///
    /// # Errors
    /// The handshake failed or took too long.
    pub(super) async fn accept(
        socket: TcpStream,
        slot: Option<ConnectionSlot>,
        tls: Option<Arc<ServerConfig>>,
    ) -> io::Result<Connection> {
        // A socket that cannot be tuned is closed already, and says so when it is read.
        let _ = socket.set_nodelay(true);
        let stream = match tls {
            None => Stream::Plain(socket),
            Some(tls) => {
                let handshake = TlsAcceptor::from(tls).accept(socket);
                Stream::Tls(Box::new(tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await??))
            }
        };
        Ok(Connection { stream, _slot: slot })
    }

    /// Of a user of this machine.
    pub(super) fn local(socket: UnixStream) -> Connection {
        Connection { stream: Stream::Local(socket), _slot: None }
    }

    /// Whether it came by the local socket.
    pub(super) fn is_local(&self) -> bool {
        matches!(self.stream, Stream::Local(_))
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Stream::Tls(socket) => Pin::new(socket.as_mut()).poll_read(cx, buf),
            Stream::Local(socket) => Pin::new(socket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Stream::Tls(socket) => Pin::new(socket.as_mut()).poll_write(cx, bytes),
            Stream::Local(socket) => Pin::new(socket).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Stream::Tls(socket) => Pin::new(socket.as_mut()).poll_flush(cx),
            Stream::Local(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Stream::Tls(socket) => Pin::new(socket.as_mut()).poll_shutdown(cx),
            Stream::Local(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}
