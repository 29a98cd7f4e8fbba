//! The program as a process, and what the kernel says of it.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};
use url::Url;
use weir_conformance::{
    client::{Client, Request},
    mirror::process::{free_address, resident},
};

/// A number from the environment. Zero is refused: a figure of no runs would pass.
pub(crate) fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| {
        text.parse().ok().filter(|number| *number > 0).unwrap_or_else(|| panic!("{variable} is no positive number"))
    })
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// The program of `WEIR_PROGRAM`, or of this build, without the environment's settings.
pub(crate) fn program() -> Command {
    let program = std::env::var("WEIR_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_weir").into());
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WEIR_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// The program, serving. Dropping it kills it.
pub(crate) struct Weir {
    child: Child,
    pub(crate) client: Client,
    pub(crate) admin: Client,
    directory: tempfile::TempDir,
}

impl Weir {
    /// With `storage` in the table of that name, and `extra` below all.
    pub(crate) async fn start(upstream: Url, storage: &str, extra: &str) -> Weir {
        let directory = tempfile::tempdir().unwrap();
        let (listen, admin) = (free_address().unwrap(), free_address().unwrap());
        let config = directory.path().join("config");
        let text = format!(
            "[server]\nlisten = \"{listen}\"\n[admin]\nlisten = \"{admin}\"\n[storage]\nroot = \"data\"\n{storage}\n\
             [[upstream]]\nname = \"docker.io\"\nurl = \"{upstream}\"\ndefault = true\n{extra}"
        );
        std::fs::write(&config, text).unwrap();
        let child = serve(directory.path());
        let mut weir = Weir { child, client: Client::new(listen, ""), admin: Client::new(admin, ""), directory };
        weir.answers().await;
        weir
    }

    /// Kills it where it stands.
    pub(crate) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Has it end in order, with all written that it knows, and waits for that.
    pub(crate) fn end(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    /// Kills it where it stands, and starts it on what it left.
    pub(crate) async fn restart(&mut self) {
        self.stop();
        self.child = serve(self.directory.path());
        self.answers().await;
    }

    async fn answers(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.client.send(&Request::get("/v2/")).await.is_err() {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended: {ended:?}");
            assert!(Instant::now() < deadline, "it does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A command of the program about this one, and whether it succeeded.
    pub(crate) fn command(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = program();
        command.args(arguments).arg("--config").arg(self.directory.path().join("config"));
        let output = command.current_dir(self.directory.path()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident MiB, and open descriptors.
    pub(crate) fn measure(&self) -> (f64, f64) {
        let pid = self.child.id();
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        (resident(pid).unwrap() as f64 / f64::from(1 << 20), descriptors as f64)
    }
}

fn serve(directory: &Path) -> Child {
    let log = std::fs::File::create(directory.join("log")).unwrap();
    let mut command = program();
    command.args(["serve", "--config"]).arg(directory.join("config")).current_dir(directory);
    command.stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

impl Drop for Weir {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a store keeps what has that digest.
pub(crate) fn object(root: &Path, kind: &str, digest: &str) -> PathBuf {
    let hex = digest.trim_start_matches("sha256:");
    root.join(kind).join("sha256").join(&hex[..2]).join(hex)
}
