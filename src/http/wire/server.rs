//! Listeners, socket options, time-outs and the drain: from bound sockets to a running service, and back.
//!
//! This is `actix_server::Server` running actix-http's HTTP/1.1 service over [`Connection`]. Workers are single-threaded; whatever
//! must outlive a request runs on the runtime that called [`serve`].

use std::{
    io::{self, Read as _},
    net::{Shutdown, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix_http::{HttpService, KeepAlive, Request, Response, body::MessageBody};
use actix_server::{Server, ServerHandle};
use actix_service::{IntoServiceFactory as _, ServiceFactory, ServiceFactoryExt as _, fn_service};
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

use super::{
    connection::{Connection, Patience},
    connection_limit::{ConnectionLimit, Exempt},
    protocol_error::{OPENING, ProtocolError, ProtocolErrorResponse, Refuse},
    state::ConnectionState,
    stream::Stream,
};
use crate::http::{metrics::Metrics, peer::Peer, settings::Settings};

/// How long a client may take to see that its connection is being closed.
const DISCONNECT: Duration = Duration::from_secs(2);

/// Bytes that may wait in the kernel without having been sent, beyond what is on its way to the client.
const UNSENT: u32 = 256 << 10;

/// A bound socket and how it is served.
#[derive(Debug)]
pub struct Listener {
    /// Bound and listening.
    pub socket: std::net::TcpListener,
    /// Whether `GET /v2/` asks for a password, so that `docker login` works.
    pub login: bool,
    /// With this, TLS is spoken. ALPN must offer `http/1.1` alone, or nothing.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

/// Running listeners. Dropping it leaves them running; they end with [`Serving::stop`] or the runtime.
#[derive(Debug)]
pub struct Serving {
    /// Where each listener listens, in the order they were given.
    pub addresses: Vec<SocketAddr>,
    handle: ServerHandle,
    running: JoinHandle<io::Result<()>>,
}

impl Serving {
    /// Stops accepting, closes idle connections at once, and returns when the bodies in flight are finished or
    /// [`Settings::drain`](crate::http::Settings::drain) has passed. What is not finished by then is cut.
    ///
    /// # Errors
    /// When the server had failed before.
    pub async fn stop(self) -> io::Result<()> {
        self.handle.stop(true).await;
        self.running.await.map_err(io::Error::other)?
    }
}

/// Runs a service on these listeners until [`Serving::stop`]; `refuse` answers what never reaches it.
///
/// Must be called within a tokio runtime, which keeps running for as long as the listeners shall serve.
///
/// # Errors
/// When a listener cannot be used.
pub(crate) fn start<F, S, B>(
    settings: &Settings,
    listeners: Vec<Listener>,
    metrics: &Metrics,
    exempt: Exempt,
    refuse: &Refuse,
    service: F,
) -> io::Result<Serving>
where
    F: Fn() -> S + Clone + Send + 'static,
    S: ServiceFactory<Request, Config = (), Response = Response<B>, Error = std::convert::Infallible> + 'static,
    S::InitError: std::fmt::Debug,
    B: MessageBody + 'static,
{
    let workers = settings.workers.clamp(1, 512);
    let mut server = Server::build()
        .workers(workers)
        .max_concurrent_connections(settings.connections.div_ceil(workers).max(1))
        .shutdown_timeout(whole_seconds(settings.drain))
        .disable_signals();
    let draining = server.graceful_shutdown_signal();
    let limit = ConnectionLimit::new(
        settings.connections - settings.connections / 16,
        settings.connections_per_client,
        exempt,
        metrics.clone(),
    );
    let patience = Patience { head: settings.head_timeout, write_stall: settings.write_stall, disconnect: DISCONNECT };
    let Settings { head_timeout, keep_alive, write_stall, .. } = *settings;
    let handshake_timeout = head_timeout * 2;
    let mut addresses = Vec::with_capacity(listeners.len());
    for listener in listeners {
        let address = listener.socket.local_addr()?;
        addresses.push(address);
        let (service, draining, metrics, limit) = (service.clone(), draining.clone(), metrics.clone(), limit.clone());
        let refuse = refuse.clone();
        let acceptor = listener.tls.map(TlsAcceptor::from);
        let login = listener.login;
        server = server.listen(address.to_string(), listener.socket, move || {
            let draining = draining.clone();
            let http = HttpService::<Connection, _, _>::build()
                .graceful_shutdown_signal(move || {
                    let draining = draining.clone();
                    async move { draining.notified().await }
                })
                .keep_alive(KeepAlive::Timeout(keep_alive))
                .client_request_timeout(head_timeout)
                .client_disconnect_timeout(DISCONNECT)
                .on_connect_ext(|connection: &Connection, data| {
                    data.insert(connection.state());
                })
                .h1(service());
            let (acceptor, metrics, limit, refuse) = (acceptor.clone(), metrics.clone(), limit.clone(), refuse.clone());
            fn_service(move |socket: TcpStream| {
                let (acceptor, metrics, limit, refuse) =
                    (acceptor.clone(), metrics.clone(), limit.clone(), refuse.clone());
                async move {
                    let address = socket.peer_addr().ok();
                    let Some(slot) = address.and_then(|address| limit.enter(address.ip())) else {
                        turn_away(&socket);
                        return Err(io::Error::from(io::ErrorKind::QuotaExceeded).into());
                    };
                    // A socket that cannot be tuned is a socket that is already closed, and will say so when it is read.
                    let _ = socket.set_nodelay(true);
                    let _ = socket2::SockRef::from(&socket).set_tcp_user_timeout(Some(write_stall));
                    // Without it "writable" comes only when a third of a send buffer of megabytes has drained, which takes a
                    // slow reader longer than a stalled one is given.
                    let _ = socket2::SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT);
                    let state = Rc::new(ConnectionState::new(Peer::new(address, login)));
                    let stream = match acceptor {
                        None => Stream::Plain(socket),
                        Some(acceptor) => {
                            let stream = tokio::time::timeout(handshake_timeout, handshake(acceptor, socket)).await;
                            match stream.map_err(io::Error::from).flatten()? {
                                Stream::Plain(socket) => {
                                    refuse_plain(socket, &refuse, &state).await?;
                                    return Err(io::Error::from(io::ErrorKind::InvalidData).into());
                                }
                                stream => stream,
                            }
                        }
                    };
                    Ok::<_, actix_http::error::DispatchError>((
                        Connection::new(stream, state, patience, refuse, &metrics, slot),
                        address,
                    ))
                }
            })
            .into_factory()
            .and_then(http)
        })?;
    }
    let server = server.run();
    let handle = server.handle();
    let running = tokio::spawn(server);
    Ok(Serving { addresses, handle, running })
}

/// Rounded up: half a second that becomes none cuts what it should have let finish.
fn whole_seconds(span: Duration) -> u64 {
    span.as_secs().saturating_add(u64::from(span.subsec_nanos() > 0))
}

/// Speaks TLS with a client, unless it begins with a letter as HTTP does and no TLS record: then the stream stays plain.
async fn handshake(acceptor: TlsAcceptor, socket: TcpStream) -> io::Result<Stream> {
    let mut first = [0];
    socket.peek(&mut first).await?;
    if first[0].is_ascii_alphabetic() {
        return Ok(Stream::Plain(socket));
    }
    Ok(Stream::Tls(Box::new(acceptor.accept(socket).await?)))
}

/// Tells a client in plain HTTP that this listener speaks TLS.
async fn refuse_plain(socket: TcpStream, refuse: &Refuse, state: &Rc<ConnectionState>) -> io::Result<()> {
    let mut opening = [0; OPENING];
    let count = socket.peek(&mut opening).await?;
    let mut response = ProtocolErrorResponse::new(refuse(ProtocolError::NoTls, &opening[..count], state), DISCONNECT);
    let mut stream = Stream::Plain(socket);
    std::future::poll_fn(|cx| response.poll(cx, &mut stream)).await;
    Ok(())
}

/// Tells the client that nothing comes. What it has sent already is read, for closing over it would tell of a reset instead.
fn turn_away(socket: &TcpStream) {
    let socket = socket2::SockRef::from(socket);
    let _ = socket.shutdown(Shutdown::Write);
    let _ = (&*socket).read(&mut [0; 4096]);
}

#[cfg(test)]
mod tests;
