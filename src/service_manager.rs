//! What the service manager that started this process passes to it, and what it is told: sockets, readiness, reloads, the watchdog.
//!
//! The protocols are sd_listen_fds(3) and sd_notify(3) of systemd. Without their variables nothing is taken and nothing is sent.

use std::{
    net::{SocketAddr, TcpListener},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr as UnixAddress, UnixDatagram},
    },
    sync::Arc,
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use weir_storage::Store;

/// How often a process that was given sockets looks whether the one before it has ended.
const LOOK: Duration = Duration::from_millis(50);

/// Listening sockets that were passed and have no listener yet.
#[derive(Debug)]
pub(crate) struct Sockets(Vec<TcpListener>);

impl Sockets {
    /// Takes them, with their variables out of the environment. To be called before there are threads.
    ///
    /// # Errors
    /// When one is no listening TCP socket.
    pub(crate) fn take() -> Result<Sockets, String> {
        let mut passed = listenfd::ListenFd::from_env();
        let count = passed.len();
        let socket = |number| {
            let socket = passed.take_tcp_listener(number).map_err(|error| error.to_string())?;
            let socket = socket.ok_or("it is passed twice")?;
            socket.set_nonblocking(true).map_err(|error| error.to_string())?;
            Ok(socket)
        };
        let sockets: Result<_, String> = (0..count).map(socket).collect();
        sockets.map(Sockets).map_err(|error| {
            format!("a socket that the service manager passes: {error}; ListenStream= takes ADDRESS:PORT")
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The socket that listens on this address, once.
    pub(crate) fn find(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let number = self.0.iter().position(|socket| socket.local_addr().is_ok_and(|local| local == address))?;
        Some(self.0.swap_remove(number))
    }

    /// # Errors
    /// When one has no listener: the clients that connect to it would wait for ever.
    pub(crate) fn must_be_used(&self) -> Result<(), String> {
        match self.0.first().map(TcpListener::local_addr) {
            None => Ok(()),
            Some(Err(error)) => Err(format!("a socket that the service manager passes has no address: {error}")),
            Some(Ok(address)) => Err(format!(
                "the service manager passes a socket on {address}, and no listener of the configuration has this address; write \
                 it as server.listen or admin.listen, or take its ListenStream= out of weir.socket"
            )),
        }
    }
}

/// Waits until no other process has the data directory, for `patience` at most. The sockets of this process listen meanwhile, so that
/// a client that connects while the old process drains waits and is not refused.
///
/// What is wrong with the directory is left to the opening of the store.
pub(crate) async fn wait_for_old_process(settings: &weir_storage::Settings, patience: Duration) {
    let wait = async {
        let mut is_said = false;
        while Store::is_in_use(settings) {
            if !is_said {
                tracing::info!("waiting for the process that has the data directory to end");
                is_said = true;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    // When it is still in use afterwards, the store says so.
    let _ = tokio::time::timeout(patience, wait).await;
}

/// Tells the service manager how the service is.
#[derive(Clone, Debug)]
pub(crate) struct ServiceManager(Option<Arc<(UnixDatagram, UnixAddress)>>);

impl ServiceManager {
    /// The one that `NOTIFY_SOCKET` names, if any.
    pub(crate) fn new() -> ServiceManager {
        use std::os::unix::ffi::OsStrExt as _;
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return ServiceManager(None) };
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => UnixAddress::from_abstract_name(name),
            None => UnixAddress::from_pathname(&name),
        };
        let connect = || {
            let socket = UnixDatagram::unbound()?;
            // A service manager that does not read must not hold a thread of the service.
            socket.set_nonblocking(true)?;
            Ok::<_, std::io::Error>((socket, address?))
        };
        match connect() {
            Ok(connected) => ServiceManager(Some(Arc::new(connected))),
            Err(error) => {
                tracing::warn!(%error, "NOTIFY_SOCKET cannot be used");
                ServiceManager(None)
            }
        }
    }

    /// Clients are served.
    pub(crate) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// The configuration is being read again; to be followed by [`ServiceManager::ready`].
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        // In microseconds, as Type=notify-reload wants it.
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1000));
    }

    /// Bodies under way are finished, and no connection is accepted.
    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=draining");
    }

    /// Sends a sign of life twice in each period that the watchdog allows, from the runtime that fetches and reloads: it ceases when
    /// that runtime does. Does nothing when the service manager wants none.
    pub(crate) fn keep_watchdog_quiet(&self) {
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let is_ours = number("WATCHDOG_PID").is_none_or(|process| process == u64::from(std::process::id()));
        let Some(period) = number("WATCHDOG_USEC").filter(|period| is_ours && *period > 1) else { return };
        let manager = self.clone();
        tokio::spawn(async move {
            let mut half = tokio::time::interval(Duration::from_micros(period / 2));
            loop {
                half.tick().await;
                manager.send("WATCHDOG=1");
            }
        });
    }

    fn send(&self, state: &str) {
        if let Some((socket, address)) = self.0.as_deref()
            && let Err(error) = socket.send_to_addr(state.as_bytes(), address)
        {
            tracing::warn!(%error, state, "the service manager was not reached");
        }
    }
}
