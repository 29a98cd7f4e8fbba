//! A registry to push to, as a process of ours.

use std::{
    fs::OpenOptions,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::connection::Connection;
use crate::mirror::process::free_address;

/// A running registry. Dropping it kills it.
pub(super) struct Server {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Server {
    /// Weir, hosting `local/*` for anybody, with its data in `root`.
    pub(super) fn weir(program: &Path, directory: &Path, root: &Path, capacity: &str) -> Result<Server, String> {
        let (address, admin) = (free_address()?, free_address()?);
        let text = format!(
            "[server]\nlisten = \"{address}\"\n[admin]\nlisten = \"{admin}\"\n[storage]\nroot = \"{}\"\ncapacity = \"{capacity}\"\n\
             [hosted]\nnamespaces = [\"local/*\"]\nanonymous_push = true\nupload_ttl = \"2s\"\n[log]\nfilter = \"warn\"\n",
            root.display()
        );
        let mut command = Command::new(program);
        command.args(["serve", "--config"]);
        Server::start(command, directory, &text, address)
    }

    /// Debian's docker-registry.
    pub(super) fn docker_registry(program: &Path, directory: &Path) -> Result<Server, String> {
        let address = free_address()?;
        let text = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    \
             rootdirectory: {}\n  cache:\n    blobdescriptor: inmemory\nhttp:\n  addr: {address}\n",
            directory.join("registry").display()
        );
        let mut command = Command::new(program);
        command.arg("serve");
        Server::start(command, directory, &text, address)
    }

    fn start(mut command: Command, directory: &Path, text: &str, address: SocketAddr) -> Result<Server, String> {
        let config = directory.join(format!("config-{}", address.port()));
        std::fs::write(&config, text).map_err(|error| error.to_string())?;
        let log = OpenOptions::new().create(true).append(true).open(directory.join("log"));
        let log = log.map_err(|error| error.to_string())?;
        let error = log.try_clone().map_err(|error| error.to_string())?;
        command.arg(config).stdin(Stdio::null()).stdout(log).stderr(error);
        let child = command.spawn().map_err(|error| format!("cannot start {command:?}: {error}"))?;
        let mut server = Server { child, address };
        let begun = Instant::now();
        loop {
            let answered = Connection::to(address).and_then(|mut wire| wire.ask("GET", "/v2/", "", b""));
            if answered.is_ok_and(|answer| answer.status == 200) {
                return Ok(server);
            }
            if let Ok(Some(status)) = server.child.try_wait() {
                let log = std::fs::read_to_string(directory.join("log")).unwrap_or_default();
                return Err(format!("it ended with {status}: {}", log.lines().last().unwrap_or_default()));
            }
            if begun.elapsed() > Duration::from_secs(30) {
                return Err("it does not answer".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL, and waits until the kernel has let go of it.
    pub(super) fn kill(&mut self) {
        // It has ended already, or it ends now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGSTOP: it does nothing from here on.
    pub(super) fn stop(&self) -> Result<(), String> {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).ok_or("no process")?;
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).map_err(|error| error.to_string())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
