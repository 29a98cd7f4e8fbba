//! Listeners, socket options, time-outs and the drain: from bound sockets to a running service, and back.
//!
//! This is `actix_server::Server` running actix-http's HTTP/1.1 service over [`Connection`]. Workers are single-threaded; whatever
//! must outlive a request runs on the runtime that called [`serve`].

use std::{
    io::{self, Read as _},
    net::{Shutdown, SocketAddr},
    sync::Arc,
    time::Duration,
};

use actix_http::{HttpService, KeepAlive, Request, Response};
use actix_server::{Server, ServerHandle};
use actix_service::{IntoServiceFactory as _, ServiceFactory, ServiceFactoryExt as _, fn_factory, fn_service};
use tokio::{net::TcpStream, sync::Semaphore, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

use crate::http::{
    Endpoint, Registry,
    admit::Gate,
    body::Body,
    connection::{Connection, ConnectionState, Patience},
    connection_limit::{ConnectionLimit, Exempt},
    metrics::Metrics,
    stream::Stream,
};
use crate::{
    hosted::Hosted,
    identity::Authenticator,
    limits::{Limits, address},
    mirror::Mirror,
    route::Routes,
};

/// How long a client may take to see that its connection is being closed.
const DISCONNECT: Duration = Duration::from_secs(2);

/// Bytes that may wait in the kernel without having been sent, beyond what is on its way to the client.
const UNSENT: u32 = 256 << 10;

/// Manifests that are pushed at once; each may be 4 MiB in memory. The others wait.
const DOCUMENTS: usize = 16;

/// How the registry side behaves. Every bound stands in deploy.toml.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Worker threads.
    pub workers: usize,
    /// Connections open at once; more wait in the kernel's queue.
    pub connections: usize,
    /// Connections of one client (an IPv4 address, an IPv6 /64) open at once; more are closed when they are accepted. Trusted
    /// proxies are not counted.
    pub connections_per_client: usize,
    /// From the first byte of a request to the end of its head (5 s); a TLS handshake, which is two round trips and some
    /// arithmetic, may take twice as long.
    pub head_timeout: Duration,
    /// An idle connection is kept for so long (75 s: containerd reuses connections between layers).
    pub keep_alive: Duration,
    /// A response that makes no progress for so long is cut (30 s).
    pub write_stall: Duration,
    /// The body of a request brings something within so long, or is cut (30 s).
    pub body_stall: Duration,
    /// Bodies in flight may take so long to finish once [`Serving::stop`] was called; rounded up to whole seconds.
    pub drain: Duration,
    /// Which names go where.
    pub routes: Routes,
}

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
    /// [`Settings::drain`] has passed. What is not finished by then is cut.
    ///
    /// # Errors
    /// When the server had failed before.
    pub async fn stop(self) -> io::Result<()> {
        self.handle.stop(true).await;
        self.running.await.map_err(io::Error::other)?
    }
}

/// Serves the registry API on these listeners until [`Serving::stop`].
///
/// Must be called within a tokio runtime, which keeps running for as long as the listeners shall serve.
///
/// # Errors
/// When a listener cannot be used.
pub async fn serve(
    settings: Settings,
    listeners: Vec<Listener>,
    mirror: Mirror,
    limits: Limits,
    authenticator: Authenticator,
    hosted: Hosted,
    metrics: Metrics,
) -> io::Result<Serving> {
    let trusting = limits.clone();
    let exempt: Exempt = Box::new(move |peer| address::is_trusted(&trusting.config().trusted_proxies, peer));
    let registry = Arc::new(Registry {
        mirror,
        hosted,
        body_stall: settings.body_stall,
        documents: Arc::new(Semaphore::new(DOCUMENTS)),
        routes: settings.routes.clone(),
        gate: Gate::new(limits, authenticator),
        metrics: metrics.clone(),
    });
    start(&settings, listeners, &metrics, exempt, move || {
        let endpoint = Endpoint(registry.clone());
        fn_factory(move || {
            let endpoint = endpoint.clone();
            async move { Ok::<_, ()>(endpoint) }
        })
    })
}

/// Runs any service over our connections; the tests of this file run their own.
fn start<F, S>(
    settings: &Settings,
    listeners: Vec<Listener>,
    metrics: &Metrics,
    exempt: Exempt,
    service: F,
) -> io::Result<Serving>
where
    F: Fn() -> S + Clone + Send + 'static,
    S: ServiceFactory<Request, Config = (), Response = Response<Body>, Error = std::convert::Infallible> + 'static,
    S::InitError: std::fmt::Debug,
{
    let workers = settings.workers.clamp(1, 512);
    let mut server = Server::build()
        .workers(workers)
        .max_concurrent_connections(settings.connections.div_ceil(workers).max(1))
        .shutdown_timeout(whole_seconds(settings.drain))
        .disable_signals();
    let draining = server.graceful_shutdown_signal();
    let crowd = ConnectionLimit::new(settings.connections_per_client, exempt, metrics.clone());
    let patience = Patience { head: settings.head_timeout, write_stall: settings.write_stall, disconnect: DISCONNECT };
    let Settings { head_timeout, keep_alive, write_stall, .. } = *settings;
    let handshake_timeout = head_timeout * 2;
    let mut addresses = Vec::with_capacity(listeners.len());
    for listener in listeners {
        let address = listener.socket.local_addr()?;
        addresses.push(address);
        let (service, draining, metrics, crowd) = (service.clone(), draining.clone(), metrics.clone(), crowd.clone());
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
                    data.insert(connection.shared());
                })
                .h1(service());
            let (acceptor, metrics, crowd) = (acceptor.clone(), metrics.clone(), crowd.clone());
            fn_service(move |socket: TcpStream| {
                let (acceptor, metrics, crowd) = (acceptor.clone(), metrics.clone(), crowd.clone());
                async move {
                    let peer = socket.peer_addr().ok();
                    let Some(place) = peer.and_then(|peer| crowd.enter(peer.ip())) else {
                        turn_away(&socket);
                        return Err(io::Error::from(io::ErrorKind::QuotaExceeded).into());
                    };
                    // A socket that cannot be tuned is a socket that is already closed, and will say so when it is read.
                    let _ = socket.set_nodelay(true);
                    let _ = socket2::SockRef::from(&socket).set_tcp_user_timeout(Some(write_stall));
                    // Without it "writable" comes only when a third of a send buffer of megabytes has drained, which takes a
                    // slow reader longer than a stalled one is given.
                    let _ = socket2::SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT);
                    let stream = match acceptor {
                        None => Stream::Plain(socket),
                        Some(acceptor) => {
                            let handshake = tokio::time::timeout(handshake_timeout, acceptor.accept(socket)).await;
                            Stream::Tls(Box::new(handshake.map_err(io::Error::from).flatten()?))
                        }
                    };
                    Ok::<_, actix_http::error::DispatchError>((
                        Connection::new(stream, ConnectionState::new(peer, login), patience, &metrics, place),
                        peer,
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

/// Tells the client that nothing comes. What it has sent already is read, for closing over it would tell of a reset instead.
fn turn_away(socket: &TcpStream) {
    let socket = socket2::SockRef::from(socket);
    let _ = socket.shutdown(Shutdown::Write);
    let _ = (&*socket).read(&mut [0; 4096]);
}

#[cfg(test)]
mod tests;
