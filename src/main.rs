//! Settings to values to servers, until a signal. Wiring only.

use std::{
    net::{SocketAddr, TcpListener},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    runtime::{Handle, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};
use weir::{
    admin::{self, Draining},
    cli::{self, Cli, Command},
    config::{Config, Settings, unserved},
    hosted::Hosted,
    http,
    mirror::Mirror,
    telemetry,
    upstream::{
        self, Ledger, Upstream,
        ledger::{Keep, Kept},
    },
};
use weir_storage::{Journal, Store};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = match cli.load() {
        Ok(config) => config,
        Err(mistakes) => return fail(&mistakes.to_string()),
    };
    let done = match &cli.command {
        None | Some(Command::Serve) => serve(config),
        Some(command) => cli::run(command, &config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => fail(&reason),
    }
}

fn serve(config: Config) -> Result<(), String> {
    let settings = config.settings().map_err(|mistakes| mistakes.to_string())?;
    telemetry::start_logs(&settings.log);
    for note in unserved::notes(&config) {
        tracing::warn!("{note}");
    }
    upstream::install_provider();
    raise_file_limit();
    let runtime = Runtime::new().map_err(|error| format!("cannot start threads: {error}"))?;
    let done = runtime.block_on(run(config, settings));
    // What still runs is abandoned work whose results nobody waits for; files on disk are whole at any moment.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

async fn run(mut config: Config, settings: Settings) -> Result<(), String> {
    // Before anything listens, so that no signal meets the default action.
    let mut signals = Signals::new().map_err(|error| format!("cannot watch for signals: {error}"))?;
    let mut listeners = Vec::new();
    for listen in settings.listeners {
        let socket = bind(&listen.key, listen.address)?;
        listeners.push(http::Listener { socket, login: listen.login, tls: listen.tls });
    }
    let admin_socket = bind("admin.listen", config.admin.listen)?;

    let store = Store::open(settings.storage).map_err(|error| error.to_string())?;
    let journal = store.journal("ledger").map_err(|error| error.to_string())?;
    let records = journal.replay().map_err(|error| error.to_string())?;
    let ledger = Ledger::new(records, Arc::new(LedgerJournal(journal)));

    let mut metrics = telemetry::registry();
    let upstream_metrics = upstream::Metrics::default();
    upstream_metrics.register(&mut metrics);
    let upstreams = settings.upstreams.into_iter();
    let upstreams =
        upstreams.map(|upstream| Upstream::with_metrics(upstream, ledger.clone(), upstream_metrics.clone()));
    let upstreams = upstreams.collect::<Result<Vec<_>, _>>()?;

    let hosted = Hosted::new(settings.hosted, store.clone());
    let keeping_house = hosted.clone();
    tokio::spawn(async move { keeping_house.keep_house().await });
    let mirror = Mirror::new(settings.mirror, store, upstreams, ledger, Handle::current());
    mirror.metrics().register(&mut metrics);
    let http_metrics = http::Metrics::new();
    http_metrics.register(&mut metrics);

    let draining = Draining::default();
    let failed = |error: std::io::Error| format!("cannot serve: {error}");
    let registry = http::serve(settings.http, listeners, mirror.clone(), hosted, http_metrics).await.map_err(failed)?;
    // Port 0 was a wish for any; from here on the addresses are those that clients can use.
    config.server.listen.0 = registry.addresses.clone();
    config.admin.listen = admin_socket.local_addr().map_err(failed)?;
    let admin =
        admin::serve(settings.admin, admin_socket, mirror.clone(), metrics, draining.clone()).map_err(failed)?;
    cli::say(&cli::greeting(&config))?;
    tracing::info!(addresses = ?registry.addresses, admin = %config.admin.listen, "serving");

    signals.stop().await;
    draining.begin();
    tracing::info!("draining; a second signal ends at once");
    tokio::select! {
        stopped = registry.stop() => stopped.map_err(failed)?,
        () = signals.stop() => tracing::warn!("answers under way are cut"),
    }
    mirror.close().await;
    admin.stop().await;
    tracing::info!("stopped");
    Ok(())
}

fn bind(key: &str, address: SocketAddr) -> Result<TcpListener, String> {
    let listen = || {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
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

/// Two files for each connection soon exceed the 1,024 that a process is given unless it asks for more.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).is_err() {
        tracing::warn!(limit = ?limit.current, "the limit of open files cannot be raised");
    }
}

/// Keeps the ledger in a journal of the store: `upstream` knows no storage.
struct LedgerJournal(Journal);

impl Keep for LedgerJournal {
    fn append(&self, record: Vec<u8>) -> Kept {
        let journal = self.0.clone();
        Box::pin(async move { journal.append(&record).await.map_err(|error| error.to_string()) })
    }

    fn compact(&self, records: Vec<Vec<u8>>) -> Kept {
        let journal = self.0.clone();
        let records = records.into_iter().map(Into::into).collect();
        Box::pin(async move { journal.compact(records).await.map_err(|error| error.to_string()) })
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Until SIGTERM or SIGINT.
    async fn stop(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => tracing::warn!("this version reads its configuration at start only; restart it"),
            }
        }
    }
}

/// Says why on standard error, line by line.
fn fail(reason: &str) -> ExitCode {
    use std::io::Write;
    let mut err = std::io::stderr().lock();
    for line in reason.lines() {
        // Nobody is left to tell when this fails.
        let _ = writeln!(err, "weir: {line}");
    }
    ExitCode::FAILURE
}
