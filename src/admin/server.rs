//! The listener itself: one worker, short timeouts, nothing cached.

use std::{
    io,
    net::TcpListener,
    os::unix::net::UnixListener,
    time::{Duration, Instant},
};

use actix_http::{HttpService, KeepAlive, error::DispatchError};
use actix_server::Server;
use actix_service::{IntoServiceFactory as _, ServiceFactoryExt as _, fn_service, map_config};
use actix_web::{
    App,
    dev::{AppConfig, ServerHandle},
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
    connection::Connection,
    connections::{CAPACITY, Connections},
    history::{History, ReadTotals},
    metrics::MetricsCollector,
    pages,
    proof_of_work::ProofOfWork,
    sampling,
    shared_answer::SharedAnswers,
    state::{Draining, LastSpace, Reloads, Settings, Settle, State},
};
use crate::{
    identity::{Authenticator, session::Sessions},
    limits::{Limits, address::is_trusted},
    mirror::Mirror,
    telemetry::Tail,
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
    /// What was logged last.
    pub log: Tail,
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
    let Dependencies {
        mirror,
        limits,
        authenticator,
        settle,
        mut metrics,
        draining,
        totals,
        sample_every,
        reloads,
        log,
    } = dependencies;
    let space = LastSpace::default();
    metrics.register_collector(Box::new(MetricsCollector {
        mirror: mirror.clone(),
        limits: limits.clone(),
        reloads: reloads.clone(),
        authenticator: authenticator.clone(),
        space: space.clone(),
    }));
    let (connections, proxies, tls) = (Connections::default(), limits.clone(), settings.tls.clone());
    let state = web::Data::new(State {
        settings,
        mirror,
        limits,
        metrics,
        space,
        draining,
        authenticator,
        sessions: Sessions::new(),
        proof_of_work: ProofOfWork::new(),
        settle,
        totals,
        history: History::default(),
        live: SharedAnswers::default(),
        reloads,
        log,
        started: Instant::now(),
    });
    let sampling = sampling::start(state.clone().into_inner(), sample_every);
    let app = move || {
        let app = App::new()
            .app_data(state.clone())
            .wrap(
                DefaultHeaders::new()
                    .add((CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'; base-uri 'none'"))
                    .add((REFERRER_POLICY, "no-referrer")),
            )
            .configure(api::register)
            .configure(pages::register);
        // Nothing here asks the application under which address it serves.
        let app = map_config(app.into_factory(), |()| AppConfig::default());
        HttpService::<Connection, _, _>::build()
            .keep_alive(KeepAlive::Timeout(KEEP_ALIVE))
            .client_request_timeout(HEAD_TIMEOUT)
            .on_connect_ext(|connection: &Connection, data| {
                if connection.is_local() {
                    data.insert(Local);
                }
            })
            .h1(app)
    };
    let local_app = app.clone();
    let mut server = Server::build()
        .workers(1)
        // Those that are being closed still count here.
        .max_concurrent_connections(4 * CAPACITY)
        .shutdown_timeout(1)
        .disable_signals()
        .listen("admin", socket, move || {
            let (connections, proxies, tls) = (connections.clone(), proxies.clone(), tls.clone());
            let accept = fn_service(move |socket: TcpStream| {
                let peer = socket.peer_addr().ok();
                let is_proxy = peer.is_some_and(|peer| is_trusted(&proxies.config().trusted_proxies, peer.ip()));
                // Before the handshake, so that a client without one holds no more than its share either.
                let slot = connections.enter(&socket, is_proxy);
                let tls = tls.clone();
                async move { Ok::<_, DispatchError>((Connection::accept(socket, slot, tls).await?, peer)) }
            });
            accept.into_factory().and_then(app())
        })?;
    if let Some(local) = local {
        server = server.listen_uds("admin.socket", local, move || {
            let accept =
                fn_service(
                    |socket: UnixStream| async move { Ok::<_, DispatchError>((Connection::local(socket), None)) },
                );
            accept.into_factory().and_then(local_app())
        })?;
    }
    let server = server.run();
    let handle = server.handle();
    Ok(Serving { handle, running: tokio::spawn(server), sampling })
}
