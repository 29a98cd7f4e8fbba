//! Settings to values to servers, until a signal. Wiring only.

// What a client, an upstream or a disk sends never ends the process.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable))]

mod core_dumps;
mod file_limit;
mod persistence;
mod reload;
mod service_manager;
mod shared;

use std::{
    io::IsTerminal,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixListener,
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::Parser;
use tokio::{
    runtime::{Handle, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};
use weir::{
    admin::{self, Draining, ReadTotals, Reloads, Totals},
    cli::{self, Cli, Command, Failure},
    config::{self, Config, Settings, Watch},
    hosted::Hosted,
    http,
    identity::Authenticator,
    mirror::Mirror,
    record_journal::RecordJournal,
    telemetry::{self, Logs},
    upstream::{self, Ledger, Upstream},
};
use weir_storage::Store;

use self::{
    persistence::Persistence,
    service_manager::{ServiceManager, Sockets, wait_for_old_process},
};

/// What an old process may take after its drain to close its files.
const CLOSING: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(done) = cli::run_without_configuration(&cli) {
        return end(done);
    }
    let (config, watch) = match cli.load() {
        Ok(loaded) => loaded,
        Err(errors) => return fail(&errors.to_string().into()),
    };
    let done = match cli.command {
        None | Some(Command::Serve) => serve(cli, config, watch).map_err(Failure::from),
        Some(ref command) => cli::run(command, &config),
    };
    end(done)
}

fn end(done: Result<(), Failure>) -> ExitCode {
    done.map_or_else(|failure| fail(&failure), |()| ExitCode::SUCCESS)
}

fn serve(cli: Cli, config: Config, watch: Watch) -> Result<(), String> {
    let passed = Sockets::take()?;
    let mut settings = Settings::new(&config).map_err(|errors| errors.to_string())?;
    let logs = telemetry::start_logs(&settings.log)?;
    for warning in config::warnings(&config, SystemTime::now()) {
        tracing::warn!("configuration: {warning}");
    }
    upstream::install_provider();
    core_dumps::forbid();
    file_limit::raise(&mut settings.http);
    let runtime = Runtime::new().map_err(|error| format!("cannot start threads: {error}"))?;
    let done = runtime.block_on(run(cli, config, watch, settings, passed, logs.clone()));
    // What still runs is abandoned work whose results no task waits for; files on disk are whole at any moment.
    runtime.shutdown_timeout(Duration::from_secs(1));
    logs.flush();
    done
}

async fn run(
    cli: Cli,
    mut config: Config,
    watch: Watch,
    settings: Settings,
    mut passed: Sockets,
    logs: Logs,
) -> Result<(), String> {
    // Before anything listens, so that no signal meets the default action.
    let mut signals = Signals::new().map_err(|error| format!("cannot watch for signals: {error}"))?;
    let manager = ServiceManager::new();
    if !passed.is_empty() {
        let patience = settings.http.drain.saturating_add(CLOSING);
        tokio::select! {
            () = wait_for_old_process(&settings.storage, patience) => {}
            () = signals.stop() => return Ok(()),
        }
    }
    let (mut listeners, mut certificates) = (Vec::new(), Vec::new());
    for listen in settings.listeners {
        let socket = passed.find(listen.address).map_or_else(|| bind(&listen.key, listen.address), Ok)?;
        let tls = listen.certificate.as_ref().map(|certificate| certificate.server_config()).transpose()?;
        certificates.extend(listen.certificate);
        listeners.push(http::Listener { socket, login: listen.login, tls });
    }
    let admin_address = config.admin.listen;
    let admin_socket = passed.find(admin_address).map_or_else(|| bind("admin.listen", admin_address), Ok)?;
    let peer_address = config.shared.peers.as_ref().map(|peers| peers.listen);
    let bind_peers = |address| passed.find(address).map_or_else(|| bind("shared.peers.listen", address), Ok);
    let peer_socket = peer_address.map(bind_peers).transpose()?;
    passed.must_be_used()?;
    certificates.extend(settings.admin_certificate);

    let store = Store::open(settings.storage).map_err(|error| error.to_string())?;
    let journal = store.journals.open("ledger").map_err(|error| error.to_string())?;
    let records = journal.replay().map_err(|error| error.to_string())?;
    let ledger = Ledger::new(records, Arc::new(RecordJournal(journal)));
    for allowed in &settings.limits.allowlist.0 {
        let expires = allowed.expires.map(|expires| humantime::format_rfc3339_seconds(expires).to_string());
        tracing::info!(client = %allowed.client, comment = allowed.comment, expires, "on the allowlist: never throttled");
    }
    let (limits, persistence) = Persistence::start(&store, settings.limits, &ledger)?;
    let local = bind_local(&config.admin_socket());

    let mut metrics = telemetry::registry();
    logs.register(&mut metrics);
    let log = logs.tail();
    let upstream_metrics = upstream::Metrics::default();
    upstream_metrics.register(&mut metrics);
    let upstreams = settings.upstreams.into_iter();
    let upstreams =
        upstreams.map(|upstream| Upstream::with_metrics(upstream, ledger.clone(), upstream_metrics.clone()));
    let upstreams = upstreams.collect::<Result<Vec<_>, _>>()?;
    let hosted = Hosted::new(settings.hosted, store.clone());
    let (reloaded_hosted, reloaded_ledger) = (hosted.clone(), ledger.clone());
    let collector = hosted.clone();
    tokio::spawn(async move { collector.collect_garbage().await });
    let (tier, peers) = shared::start(&settings.shared, &store, &mut metrics).await?;
    let shared = (store, tier, peers.clone());
    let mirror = Mirror::sharing(settings.mirror, shared, upstreams, ledger, limits.clone(), Handle::current());
    mirror.metrics().register(&mut metrics);
    mirror.warm.register(&mut metrics);
    let (schedules, routes) = settings.warm;
    mirror.warm.schedule(schedules, routes);
    mirror.enforcement.set(settings.policy);
    mirror.warm.start().map_err(|error| error.to_string())?;
    mirror.scans.start().map_err(|error| error.to_string())?;
    mirror.history.start().map_err(|error| error.to_string())?;
    mirror.layers.register(&mut metrics);
    mirror.layers.start().map_err(|error| error.to_string())?;
    let http_metrics = http::Metrics::new();
    http_metrics.register(&mut metrics);
    http_metrics.count_upstreams(mirror.upstreams());
    metrics.register_collector(Box::new(http::Expiry::of(&certificates)));
    hosted.register(&mut metrics);

    let authenticator = Authenticator::new(limits.clone());
    let draining = Draining::default();
    let failed = |error: std::io::Error| format!("cannot serve: {error}");
    let registry = http::serve(
        settings.http,
        listeners,
        mirror.clone(),
        limits.clone(),
        authenticator.clone(),
        hosted,
        http_metrics.clone(),
    )
    .await;
    let registry = registry.map_err(failed)?;
    let peers = peer_socket.zip(peers).map(|(socket, peers)| http::serve_peers(socket, mirror.blobs.clone(), peers));
    let peers = peers.transpose().map_err(failed)?;
    let reloads = Reloads::default();
    reloads.show_settings(config::effective(&config, &config));
    let parts = reload::Parts {
        certificates,
        mirror: mirror.clone(),
        hosted: reloaded_hosted,
        routes: settings.routes,
        ledger: reloaded_ledger,
        upstream_metrics: upstream_metrics.clone(),
        http_metrics: http_metrics.clone(),
        limits: limits.clone(),
        reloads: reloads.clone(),
        manager: manager.clone(),
        logs,
    };
    let reloading = reload::start(cli, config.clone(), watch, parts, signals.hangup()?);
    // Port 0 was a wish for any; from here on the addresses are those that clients can use.
    config.server.listen.0 = registry.addresses.clone();
    config.admin.listen = admin_socket.local_addr().map_err(failed)?;
    let dependencies = admin::Dependencies {
        mirror: mirror.clone(),
        limits,
        authenticator,
        settle: persistence.settle(),
        metrics,
        draining: draining.clone(),
        sample_every: admin::MINUTE,
        totals: read_totals(http_metrics, mirror.clone(), upstream_metrics),
        reloads,
        log,
    };
    let admin = admin::serve(settings.admin, admin_socket, local, dependencies);
    let admin = admin.map_err(failed)?;
    // Where lines are collected, they are log lines alone.
    if std::io::stdout().is_terminal() {
        cli::say(&cli::greeting(&config))?;
    }
    tracing::info!(addresses = ?registry.addresses, admin = %config.admin.listen, "serving");
    manager.ready("serving");
    manager.keep_watchdog_quiet();

    signals.stop().await;
    draining.begin();
    manager.stopping();
    tracing::info!("draining; a second signal ends at once");
    tokio::select! {
        stopped = registry.stop() => stopped.map_err(failed)?,
        () = signals.stop() => tracing::warn!("answers under way are cut"),
    }
    reloading.abort();
    if let Some(peers) = peers {
        peers.stop().await;
    }
    mirror.close().await;
    admin.stop().await;
    persistence.close().await;
    // The next start makes its own.
    cli::remove_socket(&config.admin_socket());
    tracing::info!("stopped");
    Ok(())
}

/// The counters that the admin side shows, read from the parts that count.
fn read_totals(http: http::Metrics, mirror: Mirror, upstream: upstream::Metrics) -> ReadTotals {
    Box::new(move || {
        let (requests, denied, failed) = http.requests();
        let (answers, from_cache) = mirror.metrics().answers();
        let (answer_bytes, from_cache_bytes) = http.answered_bytes();
        let upstreams = mirror.upstreams();
        let received_bytes = upstream.received_bytes(upstreams.iter().map(|name| &**name));
        Totals {
            requests,
            denied,
            refused_by_budget: http.refused_by_budget(),
            failed,
            answers,
            from_cache,
            answer_bytes,
            from_cache_bytes,
            sent_bytes: http.sent_bytes(),
            received_bytes,
        }
    })
}

fn bind(key: &str, address: SocketAddr) -> Result<TcpListener, String> {
    let listen = || {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        if address.is_ipv6() {
            // `[::]` is IPv4 too, whatever the host's default is: the log says so, and so the configuration is checked.
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        // A thousand nodes may start pulling in the same second; the kernel lowers this to its own limit.
        socket.listen(4096)?;
        Ok::<_, std::io::Error>(socket.into())
    };
    listen()
        .map_err(|error| format!("{key} = \"{address}\": {error}; stop what listens there, or choose another address"))
}

/// The local socket, for the users that may enter its directory. Without it a Weir serves all the same.
fn bind_local(path: &Path) -> Option<UnixListener> {
    match cli::local_socket(path) {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "no local socket; `weir ban` and `weir throttle` ask admin.listen");
            None
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: Some(signal(SignalKind::hangup())?),
        })
    }

    /// SIGHUP, for the task that reads the configuration again.
    fn hangup(&mut self) -> Result<Signal, String> {
        self.hangup.take().ok_or_else(|| "SIGHUP is watched already".to_owned())
    }

    /// Until SIGTERM or SIGINT.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Says why on standard error, line by line.
fn fail(failure: &Failure) -> ExitCode {
    use std::io::Write;
    let mut err = std::io::stderr().lock();
    for line in failure.reason.lines() {
        // Nothing is left to report to when this fails.
        let _ = writeln!(err, "weir: {line}");
    }
    ExitCode::from(failure.status)
}
