//! A weir as a user starts it, in front of a Docker Hub on loopback, and clients that say from where they come.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use weir_conformance::hub::{self, Hub, Limit, Spec};

use crate::deploy::serving;

pub(super) const WEIR: &str = env!("CARGO_BIN_EXE_weir");

/// Nothing here takes longer, but on a machine that is very busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A hub, and a weir in front of it.
pub(super) struct World {
    pub(super) hub: Hub,
    pub(super) weir: Running,
}

impl World {
    /// `pulls` per six hours; `config` is what weir.toml has beyond the addresses, with tables as they come.
    pub(super) async fn start(pulls: Option<u32>, config: &str) -> World {
        World::with(hub::Settings { limit: pulls.map(Limit::hub), ..hub::Settings::default() }, config).await
    }

    pub(super) async fn with(settings: hub::Settings, config: &str) -> World {
        let hub = Hub::start(settings).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let upstream = format!("[[upstream]]\nname = \"docker.io\"\nurl = \"{}\"\ndefault = true\n", hub.registry());
        let weir = Running::start(directory, &upstream, config);
        World { hub, weir }
    }

    /// Another process over the same directory.
    pub(super) fn restart(&mut self, signal: Signal) {
        self.weir.stop(signal);
        self.weir.spawn();
    }

    /// Images with one small layer each: `name0`, `name1`, …
    pub(super) fn images(&self, name: &str, count: u64) {
        for number in 0..count {
            let seed = name.bytes().fold(number, |seed, byte| seed.wrapping_mul(251).wrapping_add(byte.into()));
            let spec = Spec::new(format!("library/{name}{number}")).seed(seed).single().layers([100]);
            self.hub.push(spec).unwrap();
        }
    }

    /// A connection of a client at this address, said by a proxy that is trusted.
    pub(super) fn client(&self, address: &str) -> Client {
        Client::new(self.weir.registry, &format!("X-Forwarded-For: {address}\r\n"))
    }

    /// What the admin API says, after it said 2xx.
    pub(super) fn admin(&self, method: &str, path: &str, body: &str) -> Value {
        let response = self.weir.admin(method, path, body);
        assert!((200..300).contains(&response.status), "{method} {path}: {response:?}");
        response.json()
    }
}

/// One process after the other over one directory.
pub(super) struct Running {
    child: Child,
    pub(super) registry: SocketAddr,
    pub(super) admin: SocketAddr,
    directory: tempfile::TempDir,
    upstream: String,
}

impl Running {
    fn start(directory: tempfile::TempDir, upstream: &str, config: &str) -> Running {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let idle = Command::new("true").spawn().unwrap();
        let mut running =
            Running { child: idle, registry: nowhere, admin: nowhere, directory, upstream: upstream.to_owned() };
        running.configure(config);
        running.spawn();
        running
    }

    /// Writes weir.toml.
    pub(super) fn configure(&self, config: &str) {
        self.write(&format!("{config}\n{}", self.upstream));
    }

    /// Writes weir.toml, with these lines in the table of the upstream and nothing else.
    pub(super) fn configure_upstream(&self, lines: &str) {
        self.write(&format!("{}{lines}", self.upstream));
    }

    /// Writes all of weir.toml.
    pub(super) fn write(&self, text: &str) {
        // As a careful editor does, so that no reader gets half of it.
        let fresh = self.directory.path().join("weir.toml.new");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, self.config()).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("weir.toml")
    }

    /// The program with nothing of the tester's environment in its configuration.
    fn command(&self) -> Command {
        let mut command = Command::new(WEIR);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WEIR_")) {
            command.env_remove(name);
        }
        command
            .current_dir(self.directory.path())
            .env("WEIR_CONFIG", self.config())
            .env("WEIR_SERVER__LISTEN", "127.0.0.1:0")
            .env("WEIR_ADMIN__LISTEN", "127.0.0.1:0")
            .env("WEIR_LOG__FORMAT", "json")
            .stdin(Stdio::null());
        command
    }

    /// A command of weir's on this machine; asks the local socket.
    pub(super) fn cli(&self, arguments: &[&str]) -> (bool, String) {
        let Output { status, stdout, stderr } = self.command().args(arguments).output().unwrap();
        (status.success(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
    }

    fn spawn(&mut self) {
        let (before, path) = (self.log().len(), self.directory.path().join("log"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
        let mut command = self.command();
        self.child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        (self.registry, self.admin) = serving(&mut self.child, &path, before);
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Kilobytes of anonymous memory that the process has.
    pub(super) fn anonymous_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    fn stop(&mut self, signal: Signal) {
        self.signal(signal);
        self.child.wait().unwrap();
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Waits until the log says this after what it said before.
    pub(super) fn until_log(&self, said: usize, what: &str) {
        let start = Instant::now();
        while !self.log()[said..].contains(what) {
            assert!(start.elapsed() < PATIENCE, "the log never said {what:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(super) fn admin(&self, method: &str, path: &str, body: &str) -> RawResponse {
        self.admin_as(method, path, "", body)
    }

    pub(super) fn admin_as(&self, method: &str, path: &str, extra: &str, body: &str) -> RawResponse {
        let json = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        Client::new(self.admin, &format!("{json}{extra}")).send(method, path, "", body)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What was answered.
#[derive(Debug)]
pub(super) struct RawResponse {
    pub(super) status: u16,
    pub(super) reason: String,
    pub(super) head: String,
    pub(super) body: String,
}

impl RawResponse {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The sentence that a client prints, of a well-formed error with this code.
    pub(super) fn message(&self, code: &str) -> String {
        let json = self.json();
        let error = &json["errors"][0];
        assert_eq!((error["code"].as_str(), error["detail"] != ""), (Some(code), true), "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"));
        error["message"].as_str().unwrap().to_owned()
    }
}

/// One connection that is kept.
pub(super) struct Client {
    address: SocketAddr,
    headers: String,
    socket: Option<BufReader<TcpStream>>,
}

impl Client {
    pub(super) fn new(address: SocketAddr, headers: &str) -> Client {
        Client { address, headers: headers.to_owned(), socket: None }
    }

    pub(super) fn pull(&mut self, image: &str) -> RawResponse {
        self.send("GET", &format!("/v2/library/{image}/manifests/latest"), "", "")
    }

    pub(super) fn head(&mut self, image: &str) -> RawResponse {
        self.send("HEAD", &format!("/v2/library/{image}/manifests/latest"), "", "")
    }

    pub(super) fn get(&mut self, path: &str) -> RawResponse {
        self.send("GET", path, "", "")
    }

    pub(super) fn send(&mut self, method: &str, path: &str, extra: &str, body: &str) -> RawResponse {
        let address = self.address;
        let socket = self.socket.get_or_insert_with(|| {
            let socket = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.set_nodelay(true).unwrap();
            BufReader::new(socket)
        });
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{}{extra}{length}\r\n{body}", self.headers);
        socket.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut head, mut line) = (String::new(), String::new());
        loop {
            line.clear();
            assert!(socket.read_line(&mut line).unwrap() > 0, "{method} {path}: closed after {head:?}");
            if line == "\r\n" {
                break;
            }
            head += &line;
        }
        let mut words = head.lines().next().unwrap().splitn(3, ' ').skip(1);
        let (status, reason) = (words.next().unwrap().parse().unwrap(), words.next().unwrap_or_default().to_owned());
        let response = RawResponse { status, reason, head: head.clone(), body: String::new() };
        let length: usize = response.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut bytes = vec![0; if method == "HEAD" || status == 304 { 0 } else { length }];
        socket.read_exact(&mut bytes).unwrap();
        if response.header("connection") == Some("close") {
            self.socket = None;
        }
        RawResponse { body: String::from_utf8_lossy(&bytes).into_owned(), ..response }
    }
}
