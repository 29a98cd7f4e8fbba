//! A mirror as a process of ours: started on ports of its own with its data in a directory of its own, and measured from `/proc`.
//!
//! Nothing here knows the inside of a mirror. Weir gets the file a newcomer would write, the peer gets its own, and both are then
//! judged by what they answer, what they ask of the hub, and what the kernel says they use.

use std::{
    net::{SocketAddr, TcpListener},
    os::{linux::net::SocketAddrExt as _, unix::net},
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::client::{Client, Request};

/// A mirror must answer `/v2/` within this of its start.
const START: Duration = Duration::from_secs(30);

/// Which program.
#[derive(Clone, Debug)]
pub enum Program {
    /// `weir serve --config`.
    Weir(PathBuf),
    /// Debian's `docker-registry` as a pull-through cache.
    DockerRegistry(PathBuf),
}

impl Program {
    /// As reports name it.
    pub fn name(&self) -> &'static str {
        match self {
            Program::Weir(_) => "weir",
            Program::DockerRegistry(_) => "docker-registry",
        }
    }
}

/// A running mirror. Dropping it kills the process and removes its data.
#[derive(Debug)]
pub struct Process {
    program: Program,
    config: PathBuf,
    child: Child,
    /// Where registry clients go.
    pub address: SocketAddr,
    /// Where the admin API listens; the peer has none.
    pub admin: Option<SocketAddr>,
    root: PathBuf,
    directory: TempDir,
}

impl Process {
    /// Starts `program` with `upstream` as its Docker Hub and waits until it answers `/v2/`. `extra` is appended to Weir's file.
    pub async fn start(program: Program, upstream: SocketAddr, extra: &str) -> Result<Process, String> {
        let extra = match program {
            Program::Weir(_) => {
                format!("[[upstream]]\nname = \"docker.io\"\nurl = \"http://{upstream}\"\ndefault = true\n\n{extra}")
            }
            Program::DockerRegistry(_) => format!("proxy:\n  remoteurl: http://{upstream}\n"),
        };
        Process::launch(program, None, "20GiB", &extra).await
    }

    /// Starts `program` as a registry to push to: Weir hosts `local/*` for every client. Its data is in `root`, which stays.
    pub(crate) async fn hosting(program: Program, root: &Path, capacity: &str) -> Result<Process, String> {
        let extra = match program {
            Program::Weir(_) => {
                "[hosted]\nnamespaces = [\"local/*\"]\nanonymous_push = true\nupload_ttl = \"2s\"\n[log]\nfilter = \"warn\"\n"
            }
            Program::DockerRegistry(_) => "  cache:\n    blobdescriptor: inmemory\n",
        };
        Process::launch(program, Some(root), capacity, extra).await
    }

    async fn launch(program: Program, root: Option<&Path>, capacity: &str, extra: &str) -> Result<Process, String> {
        let directory = tempfile::tempdir().map_err(|e| format!("no temporary directory: {e}"))?;
        let root = root.map_or_else(|| directory.path().join("data"), Path::to_owned);
        let (address, at) = (free_address()?, root.display());
        let (text, admin) = match &program {
            Program::Weir(_) => {
                let admin = free_address()?;
                let listen = format!("[server]\nlisten = \"{address}\"\n\n[admin]\nlisten = \"{admin}\"\n\n");
                (format!("{listen}[storage]\nroot = \"{at}\"\ncapacity = \"{capacity}\"\n\n{extra}"), Some(admin))
            }
            Program::DockerRegistry(_) => {
                let log = "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n";
                let storage = format!("storage:\n  filesystem:\n    rootdirectory: {at}\n{extra}");
                (format!("{log}http:\n  addr: {address}\n{storage}"), None)
            }
        };
        let config = directory.path().join("config");
        std::fs::write(&config, text).map_err(|e| format!("cannot write {}: {e}", config.display()))?;
        let child = spawn(&program, &config, directory.path())?;
        let mut process = Process { program, config, child, address, admin, root, directory };
        process.answers().await?;
        Ok(process)
    }

    /// What was started.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Where its data is.
    pub fn data(&self) -> &Path {
        &self.root
    }

    /// What it was given and what it wrote: `config`, `log`, and below `data` the rest.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Process id; `None` once it has ended.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// SIGKILL, and waits until the kernel has let go of it.
    pub async fn kill(&mut self) -> Result<(), String> {
        self.child.kill().await.map_err(|e| format!("cannot kill: {e}"))
    }

    /// SIGTERM; returns at once.
    pub fn terminate(&self) -> Result<(), String> {
        self.signal(Signal::TERM)
    }

    /// SIGSTOP: it does nothing from here on.
    pub(crate) fn stop(&self) -> Result<(), String> {
        self.signal(Signal::STOP)
    }

    fn signal(&self, signal: Signal) -> Result<(), String> {
        let pid = self.pid().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.ok_or("it has already ended")?;
        rustix::process::kill_process(pid, signal).map_err(|e| e.to_string())
    }

    /// Waits for the end and tells whether it was a success.
    pub async fn ended(&mut self, within: Duration) -> Result<bool, String> {
        match tokio::time::timeout(within, self.child.wait()).await {
            Ok(Ok(status)) => Ok(status.success()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("still running after {within:?}")),
        }
    }

    /// Starts it again if it has ended.
    pub async fn revive(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            _ => self.restart().await.map(|_| ()),
        }
    }

    /// Starts it again on the same ports and data; the time from start to first answer.
    pub async fn restart(&mut self) -> Result<Duration, String> {
        let start = Instant::now();
        self.child = spawn(&self.program, &self.config, self.directory.path())?;
        self.answers().await?;
        Ok(start.elapsed())
    }

    /// The end of what it logged.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    async fn answers(&mut self) -> Result<(), String> {
        let client = Client::new(self.address, "");
        let deadline = Instant::now() + START;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{} ended with {status}:\n{}", self.program.name(), self.log_tail()));
            }
            if let Ok(answer) = client.send(&Request::get("/v2/")).await
                && matches!(answer.status(), 200 | 401)
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{} does not answer /v2/:\n{}", self.program.name(), self.log_tail()));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Resident memory now, in bytes.
pub fn resident(pid: u32) -> Option<u64> {
    status_field(pid, "VmRSS:")
}

/// The largest resident memory since [`forget_peak`], in bytes.
pub fn peak(pid: u32) -> Option<u64> {
    status_field(pid, "VmHWM:")
}

/// Makes [`peak`] start anew. Needs no privilege for a child of ours.
pub fn forget_peak(pid: u32) {
    let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// CPU time used, user and system, all threads.
pub fn cpu(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat[stat.rfind(')')? + 2..].split(' ').collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    // USER_HZ is 100 on every Linux this can run on.
    Some(Duration::from_millis(ticks * 10))
}

fn status_field(pid: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}

/// A loopback address that this process alone is given, for a server that is to bind it: no other call has it, and it is no port that the
/// kernel gives to a connection or to a listener that asked for any (32768–60999, `ip_local_port_range`).
pub fn free_address() -> Result<SocketAddr, String> {
    const PORTS: std::ops::Range<u16> = 12_000..32_000;
    static CALLS: AtomicU32 = AtomicU32::new(0);
    for _ in PORTS {
        // Processes begin at places of their own, so that they seldom meet a port that is reserved.
        let place = std::process::id().wrapping_mul(997).wrapping_add(CALLS.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + u16::try_from(place % u32::from(PORTS.end - PORTS.start)).unwrap_or(0);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() && reserve(port) {
            return Ok(address);
        }
    }
    Err(format!("no port of {PORTS:?} is free"))
}

/// Whether no other process has reserved the port. It stays reserved until this process ends.
fn reserve(port: u16) -> bool {
    let name = net::SocketAddr::from_abstract_name(format!("weir-conformance port {port}"));
    // The kernel lets one socket have a name of the abstract namespace, and frees it with the process.
    match name.and_then(|name| net::UnixListener::bind_addr(&name)) {
        Ok(socket) => {
            std::mem::forget(socket);
            true
        }
        Err(_) => false,
    }
}

fn spawn(program: &Program, config: &Path, directory: &Path) -> Result<Child, String> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.join("log"));
    let log = log.map_err(|e| format!("cannot open the log: {e}"))?;
    let error = log.try_clone().map_err(|e| e.to_string())?;
    let (Program::Weir(path) | Program::DockerRegistry(path)) = program;
    // It starts in another directory than the one that a relative path is meant from.
    let mut command = Command::new(std::path::absolute(path).map_err(|e| format!("{}: {e}", path.display()))?);
    match program {
        Program::Weir(_) => command.args(["serve", "--config"]).arg(config),
        Program::DockerRegistry(_) => command.arg("serve").arg(config),
    };
    command.current_dir(directory).stdin(Stdio::null()).stdout(log).stderr(error).kill_on_drop(true);
    command.spawn().map_err(|e| format!("cannot start {}: {e}", program.name()))
}

/// Where Weir is: beside this executable, or built for release from the workspace this crate was built from.
pub fn find_weir() -> Result<PathBuf, String> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("weir")));
    if let Some(path) = beside.filter(|path| path.is_file()) {
        return Ok(path);
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("this crate has no workspace")?;
    let built = std::process::Command::new("cargo")
        .args(["build", "--release", "-p", "weir"])
        .current_dir(workspace)
        .status()
        .map_err(|e| format!("weir is not beside this executable and cargo does not run: {e}"))?;
    let path = workspace.join("target/release/weir");
    if built.success() && path.is_file() { Ok(path) } else { Err("cargo build --release -p weir failed".into()) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_calls_are_given_one_address_whether_or_not_its_server_has_begun() {
        let calls: Vec<_> =
            (0..8).map(|_| std::thread::spawn(|| (0..50).map(|_| free_address()).collect::<Vec<_>>())).collect();
        let given: Vec<_> = calls.into_iter().flat_map(|call| call.join().unwrap()).collect::<Result<_, _>>().unwrap();
        assert_eq!(given.iter().collect::<HashSet<_>>().len(), given.len());
        assert!(!reserve(given[0].port()), "another process could be given it");
    }
}
