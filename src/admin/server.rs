//! The listener itself: one worker, short timeouts, nothing cached.

use std::{
    io,
    net::TcpListener,
    os::unix::net::UnixListener,
    time::{Duration, Instant},
};

use actix_web::{
    App, HttpServer,
    dev::ServerHandle,
    http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY},
    middleware::DefaultHeaders,
    web,
};
use prometheus_client::registry::Registry;
use tokio::{
    net::{TcpStream, UnixStream},
    task::JoinHandle,
};

use super::{
    api,
    authorize::Local,
    connections::{CAPACITY, Connections},
    history::{History, ReadTotals},
    metrics::MetricsCollector,
    pages,
    proof_of_work::ProofOfWork,
    sampling,
    state::{Draining, Reloads, Settings, Settle, State},
};
use crate::{
    identity::{Authenticator, session::Sessions},
    limits::{Limits, address::is_trusted},
    mirror::Mirror,
};

/// How long the head of a request may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection may idle between requests.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A running listener. Dropping it leaves it running; it ends with [`Serving::stop`] or the runtime.
#[derive(Debug)]
pub struct Serving {
    handle: ServerHandle,
    running: JoinHandle<io::Result<()>>,
    sampling: JoinHandle<()>,
}

impl Serving {
    /// Stops at once: nothing here is worth waiting for.
    pub async fn stop(self) {
        self.handle.stop(false).await;
        self.running.abort();
        self.sampling.abort();
    }
}

/// What is shown and changed here.
pub struct Dependencies {
    /// What is cached, and what is left upstream.
    pub mirror: Mirror,
    /// Throttles, bans, the audit.
    pub limits: Limits,
    /// Verifies the passwords of those who log in.
    pub authenticator: Authenticator,
    /// Resolves when what was decided so far is on disk.
    pub settle: Settle,
    /// What the other rooms count.
    pub metrics: Registry,
    /// Whether the process wants to be asked.
    pub draining: Draining,
    /// Reads the counters of all parts.
    pub totals: ReadTotals,
    /// How often they are read for the history: each [`MINUTE`](super::MINUTE).
    pub sample_every: Duration,
    /// How the configuration was last read again.
    pub reloads: Reloads,
}

impl std::fmt::Debug for Dependencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dependencies").finish_non_exhaustive()
    }
}

/// Answers on `socket`, and without login and throttle on `local`; both are bound and listening.
///
/// # Errors
/// When the socket cannot be used.
pub fn serve(
    settings: Settings,
    socket: TcpListener,
    local: Option<UnixListener>,
    dependencies: Dependencies,
) -> io::Result<Serving> {
    let Dependencies { mirror, limits, authenticator, settle, mut metrics, draining, totals, sample_every, reloads } =
        dependencies;
    metrics.register_collector(Box::new(MetricsCollector(mirror.clone(), limits.clone(), reloads.clone())));
    let (connections, proxies) = (Connections::default(), limits.clone());
    let state = web::Data::new(State {
        settings,
        mirror,
        limits,
        metrics,
        draining,
        authenticator,
        sessions: Sessions::new(),
        proof_of_work: ProofOfWork::new(),
        settle,
        totals,
        history: History::default(),
        reloads,
        started: Instant::now(),
    });
    let sampling = sampling::start(state.clone().into_inner(), sample_every);
    let mut server = HttpServer::new(move || {
        App::new()
            .app_data(state.clone())
            .wrap(
                DefaultHeaders::new()
                    .add((CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'; base-uri 'none'"))
                    .add((REFERRER_POLICY, "no-referrer")),
            )
            .configure(api::register)
            .configure(pages::register)
    })
    .workers(1)
    // Those that are being closed still count here.
    .max_connections(4 * CAPACITY)
    .client_request_timeout(HEAD_TIMEOUT)
    .keep_alive(KEEP_ALIVE)
    .shutdown_timeout(1)
    .on_connect(move |connection, data| {
        if connection.is::<UnixStream>() {
            data.insert(Local);
        }
        if let Some(socket) = connection.downcast_ref::<TcpStream>() {
            let is_proxy =
                socket.peer_addr().is_ok_and(|peer| is_trusted(&proxies.config().trusted_proxies, peer.ip()));
            data.insert(connections.enter(socket, is_proxy));
        }
    })
    .disable_signals()
    .listen(socket)?;
    if let Some(local) = local {
        server = server.listen_uds(local)?;
    }
    let server = server.run();
    let handle = server.handle();
    Ok(Serving { handle, running: tokio::spawn(server), sampling })
}
