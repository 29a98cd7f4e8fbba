//! `weir` as it is started: its configuration, what it prints, its admin listener, and how it stops.

mod check;
mod config_show;
mod json;
mod service_manager;
mod shell;
mod top;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use weir_conformance::hub::{self, Fault, Hub, Kind, Spec, What};

const WEIR: &str = env!("CARGO_BIN_EXE_weir");

/// Nothing here takes longer, but on a machine that is very busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program with nothing of the tester's environment in its configuration.
pub(crate) fn weir(arguments: &[&str]) -> Command {
    let mut command = Command::new(WEIR);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WEIR_")) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

pub(crate) fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// A weir that may not serve yet.
struct Starting {
    child: Child,
    log: std::path::PathBuf,
    directory: tempfile::TempDir,
}

impl Starting {
    fn spawn(mut command: Command, environment: &[(&str, &str)]) -> Starting {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        command
            .current_dir(directory.path())
            .env("WEIR_SERVER__LISTEN", "127.0.0.1:0")
            .env("WEIR_ADMIN__LISTEN", "127.0.0.1:0")
            .envs(environment.iter().copied())
            .stdout(std::fs::File::create(directory.path().join("out")).unwrap())
            .stderr(std::fs::File::create(&log).unwrap());
        Starting { child: command.spawn().unwrap(), log, directory }
    }
}

/// A running weir on ports of the kernel's choice. Dropping it kills it.
pub(crate) struct Running {
    child: Child,
    pub(crate) registry: SocketAddr,
    pub(crate) admin: SocketAddr,
    directory: tempfile::TempDir,
}

impl Running {
    pub(crate) fn start(environment: &[(&str, &str)]) -> Running {
        Running::run(weir(&[]), environment)
    }

    fn run(command: Command, environment: &[(&str, &str)]) -> Running {
        let mut starting = Starting::spawn(command, environment);
        let (registry, admin) = serving(&mut starting.child, &starting.log, 0);
        Running { child: starting.child, registry, admin, directory: starting.directory }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Where it runs, with its data below.
    pub(crate) fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The addresses of the registry and of the admin listener, when the log says them after its first `from` bytes.
pub(crate) fn serving(child: &mut Child, log: &std::path::Path, from: usize) -> (SocketAddr, SocketAddr) {
    let serving = loop {
        let text = std::fs::read_to_string(log).unwrap();
        if let Some(line) = text[from..].lines().find(|line| line.contains(r#""message":"serving""#)) {
            break serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
        if let Some(status) = child.try_wait().unwrap() {
            panic!("weir did not start: {status}\n{text}");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let address = |key: &str| {
        let text = serving[key].as_str().unwrap();
        // Of the list `addresses` the first. One of IPv6 has brackets of its own.
        let list = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let address = list.split(", ").next().unwrap_or_default();
        let address: SocketAddr = address.parse().unwrap();
        if address.ip().is_unspecified() { SocketAddr::from(([127, 0, 0, 1], address.port())) } else { address }
    };
    (address("addresses"), address("admin"))
}

/// Status, head and body of one exchange. `extra` are header lines.
pub(crate) fn ask(address: SocketAddr, method: &str, path: &str, extra: &str) -> (u16, String, String) {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let host = if extra.contains("Host:") { String::new() } else { format!("Host: {address}\r\n") };
    write!(socket, "{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{extra}\r\n").unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{path}: {answer:?}"));
    (head[9..12].parse().unwrap(), head.to_ascii_lowercase(), body.to_owned())
}

#[test]
fn deploy_toml_is_a_configuration_and_a_mistake_in_it_is_named() {
    let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy.toml");
    let output = weir(&["check", "--config", deploy]).output().unwrap();
    assert!(output.status.success(), "{}", printed(&output));
    assert!(printed(&output).contains("mirrors docker.io from https://registry-1.docker.io"), "{}", printed(&output));
    assert!(printed(&output).contains("_unauthenticated_pulls: 36000 in 3600 s, enforce"), "{}", printed(&output));

    let output = weir(&["serve", "--config", deploy]).env("WEIR_STORAGE__CAPACITY", "50GB!").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let begins = r#"weir: WEIR_STORAGE__CAPACITY: storage.capacity = "50GB!": not a size; write "#;
    assert!(printed(&output).starts_with(begins), "{}", printed(&output));

    let output = weir(&["check", "--config", "/nonexistent/weir.toml"]).output().unwrap();
    assert!(printed(&output).contains("/nonexistent/weir.toml: No such file"), "{}", printed(&output));
}

#[test]
fn weir_without_arguments_serves_and_holds_its_directory() {
    let running = Running::start(&[]);
    assert_eq!(ask(running.registry, "GET", "/v2/", "").0, 200);
    assert!(running.directory.path().join("weir-data").is_dir());

    let second = weir(&[])
        .current_dir(running.directory.path())
        .env("WEIR_SERVER__LISTEN", "127.0.0.1:0")
        .env("WEIR_ADMIN__LISTEN", "127.0.0.1:0")
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1), "two processes never share a directory: {}", printed(&second));
}

#[test]
fn a_terminal_shows_how_to_set_clients_up_and_a_log_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("script");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WEIR_")) {
        command.env_remove(name);
    }
    command.args(["-qefc", &format!("echo $$; exec {WEIR}"), "/dev/null"]);
    let addresses = [("WEIR_SERVER__LISTEN", "127.0.0.1:0"), ("WEIR_ADMIN__LISTEN", "127.0.0.1:0")];
    command.envs(addresses).current_dir(directory.path()).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut shown = lines.map_while(Result::ok).map(|line| line.trim_end().to_owned());
    let weir = Pid::from_raw(shown.next().unwrap().parse().unwrap()).unwrap();
    let shown: Vec<String> = shown.take_while(|line| !line.contains("In full")).collect();
    kill_process(weir, Signal::TERM).unwrap();
    child.wait().unwrap();
    assert!(shown.iter().any(|line| line.contains(r#""registry-mirrors": ["http://127.0.0.1:"#)), "{shown:?}");

    // It would have been shown before the line that says that Weir serves.
    let running = Running::start(&[]);
    assert_eq!(std::fs::read_to_string(running.directory().join("out")).unwrap(), "");
    for line in running.log().lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }
}

#[test]
fn with_few_open_files_one_client_that_holds_connections_shuts_no_other_out() {
    let mut command = Command::new("sh");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WEIR_")) {
        command.env_remove(name);
    }
    command.args(["-c", &format!("ulimit -n 400 && exec {WEIR}")]).stdin(Stdio::null());
    let running = Running::run(command, &[]);
    assert!(running.log().contains("fewer connections than server.connections"), "{}", running.log());
    // As many as the process may have files, and more than its listener takes.
    let held: Vec<_> = (0..400).filter_map(|_| TcpStream::connect_timeout(&running.registry, PATIENCE).ok()).collect();
    assert!(held.len() > 300, "{}", held.len());
    let other = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    other.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
    other.connect(&running.registry.into()).unwrap();
    let mut other = TcpStream::from(other);
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(other, "GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    other.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(ask(running.admin, "GET", "/healthz", "").0, 200);
    assert!(!running.log().contains("Too many open files"), "{}", running.log());
}

#[test]
fn the_admin_listener_answers_whom_it_should() {
    let running = Running::start(&[]);
    let get = |path: &str, extra: &str| ask(running.admin, "GET", path, extra);
    for path in [
        "/healthz",
        "/readyz",
        "/metrics",
        "/api/v1/budget",
        "/api/v1/spends",
        "/api/v1/explain?repository=busybox",
        "/",
    ] {
        let (status, head, body) = get(path, "");
        assert_eq!(status, 200, "{path}: {body}");
        assert!(head.contains("content-security-policy: default-src 'none'"), "{path}: {head}");
    }
    let (_, head, metrics) = get("/metrics", "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n");
    assert!(head.contains("content-type: application/openmetrics-text"), "{head}");
    assert!(metrics.ends_with("# EOF\n") && metrics.contains("# TYPE weir_saved_pulls counter"), "{metrics}");
    let (_, head, metrics) = get("/metrics", "");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(!metrics.contains("# EOF") && metrics.contains("# TYPE weir_saved_pulls_total counter"), "{metrics}");
    for name in [
        "weir_build_info{",
        "weir_storage_capacity_bytes 53687091200",
        "process_resident_memory_bytes ",
        "weir_http_requests_total{",
    ] {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
    assert!(
        metrics.lines().all(|line| ["weir_", "process_", "#"].iter().any(|begin| line.starts_with(begin))),
        "{metrics}"
    );

    let budget: serde_json::Value = serde_json::from_str(&get("/api/v1/budget", "").2).unwrap();
    let identity = &budget["identities"][0];
    assert_eq!((identity["upstream"].as_str(), identity["identity"].as_str()), (Some("docker.io"), Some("anonymous")));
    assert!(identity["limit"].is_null() && identity["remaining"].is_null() && identity["metered"] == false);
    assert_eq!(identity["floors"]["bulk"], 0.4);

    // A page on another site can send these; a name rebound to our address can send the first.
    assert_eq!(get("/api/v1/budget", "Host: evil.example\r\n").0, 421);
    assert_eq!(get("/api/v1/budget", "Origin: http://evil.example\r\n").0, 403);
    let form = "Content-Type: text/plain\r\nContent-Length: 2\r\n";
    assert_eq!(ask(running.admin, "DELETE", "/api/v1/cache?repository=busybox", form).0, 415);
    // Probes know neither names nor passwords.
    assert_eq!(get("/healthz", "Host: 10-0-0-7.pod\r\n").0, 200);

    assert_eq!(get("/api/v1/nothing", "").0, 404);
    let (status, head, body) = ask(running.admin, "POST", "/api/v1/budget", "Content-Length: 0\r\n");
    assert_eq!((status, head.contains("allow: get")), (405, true), "{head}");
    assert!(serde_json::from_str::<serde_json::Value>(&body).unwrap()["errors"][0]["message"].is_string());
    let (status, _, body) = ask(running.admin, "DELETE", "/api/v1/cache?repository=evil.example/x", "");
    assert_eq!(status, 400, "{body}");
}

#[test]
fn the_admin_listener_answers_by_the_names_in_admin_hosts() {
    let running = Running::start(&[("WEIR_ADMIN__HOSTS", "weir-admin.weir.svc,weir.example.org")]);
    let status = |host: &str| ask(running.admin, "GET", "/api/v1/budget", &format!("Host: {host}\r\n")).0;
    assert_eq!(status("weir-admin:5001"), 421);
    for name in ["weir-admin.weir.svc:5001", "Weir.example.org"] {
        assert_eq!(status(name), 401, "{name} may be asked from anywhere, so it needs a login");
    }
    assert_eq!(status(&running.admin.to_string()), 200);
}

#[test]
fn an_unreadable_request_is_in_the_log_and_the_metrics() {
    let running = Running::start(&[]);
    let (status, head, body) = ask(running.registry, "GET", "/v2/x?token=canary", "Host: a\r\nHost: b\r\n");
    assert_eq!((status, head.contains("connection: close")), (400, true), "{head}");
    assert!(body.contains(r#""code":"UNSUPPORTED""#), "{body}");
    // The line is written by a thread of its own.
    while !running.log().contains("weir::access") {
        std::thread::yield_now();
    }
    let log = running.log();
    let line = log.lines().find(|line| line.contains("weir::access")).unwrap_or_else(|| panic!("{log}"));
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["method"], &line["path"]), (&"GET".into(), &"/v2/x".into()));
    assert_eq!((&line["status"], &line["client"]), (&400.into(), &"127.0.0.1".into()));
    assert!(!log.contains("canary"), "{log}");
    let metrics = ask(running.admin, "GET", "/metrics", "").2;
    assert!(metrics.contains(r#"weir_http_requests_total{kind="other",method="GET",status="4xx"} 1"#), "{metrics}");
}

#[test]
fn off_loopback_the_admin_listener_wants_an_admin() {
    let output = weir(&["serve"]).env("WEIR_ADMIN__LISTEN", "0.0.0.0:0").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        printed(&output).contains(r#"admin.listen = "0.0.0.0:0": any client that reaches this address"#),
        "{}",
        printed(&output)
    );

    let mut hashing = weir(&["hash-password"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    hashing.stdin.take().unwrap().write_all(b"hunter2\n").unwrap();
    let hash = hashing.wait_with_output().unwrap();
    let hash = String::from_utf8(hash.stdout).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("weir.toml");
    std::fs::write(
        &config,
        format!("[[account]]\nname = \"ops\"\nrole = \"admin\"\npassword_hash = \"{}\"\n", hash.trim()),
    )
    .unwrap();
    let running = Running::start(&[("WEIR_ADMIN__LISTEN", "0.0.0.0:0"), ("WEIR_CONFIG", config.to_str().unwrap())]);
    let admin = SocketAddr::from(([127, 0, 0, 1], running.admin.port()));
    let status = |path: &str, credentials: &str| ask(admin, "GET", path, credentials).0;
    assert_eq!(status("/readyz", ""), 200);
    assert_eq!(status("/api/v1/budget", ""), 401);
    // ops:hunter2, then ops:hunter3
    assert_eq!(status("/api/v1/budget", "Authorization: Basic b3BzOmh1bnRlcjI=\r\n"), 200);
    assert_eq!(status("/metrics", "Authorization: Basic b3BzOmh1bnRlcjM=\r\n"), 401);
    assert!(!running.log().contains("hunter"), "a password is in the log");
}

#[test]
fn all_of_ipv6_is_all_of_ipv4_too_whatever_the_host_says() {
    // A host without IPv6 has nothing to show here.
    if std::net::TcpListener::bind("[::]:0").is_err() {
        return;
    }
    let running = Running::start(&[("WEIR_SERVER__LISTEN", "[::]:0")]);
    assert!(running.registry.is_ipv4());
    assert_eq!(ask(running.registry, "GET", "/v2/", "").0, 200);
}

#[test]
fn an_edit_while_the_configuration_is_read_is_not_missed() {
    let directory = tempfile::tempdir().unwrap();
    let (config, edited) = (directory.path().join("weir.toml"), directory.path().join("edited.toml"));
    std::fs::write(&edited, THROTTLE).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &config, rustix::fs::Mode::RWXU).unwrap();
    // Weir has opened its configuration, and waits for what is in it, when this thread can write. The edit comes before that.
    let path = config.clone();
    let edit = std::thread::spawn(move || {
        let mut before = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        std::fs::rename(edited, path).unwrap();
        before.write_all(b"# nothing\n").unwrap();
    });
    let running = Running::start(&[("WEIR_CONFIG", config.to_str().unwrap())]);
    edit.join().unwrap();
    let begun = std::time::Instant::now();
    while !ask(running.admin, "GET", "/api/v1/throttles", "").2.contains("throttle_unauthenticated_not_found") {
        assert!(begun.elapsed() < PATIENCE, "the edit was missed: {}", running.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

const THROTTLE: &str = "[[throttle]]\nname = \"throttle_unauthenticated_not_found\"\nrequests_per_period = 120\n\
                        period_in_seconds = 60\n";

#[test]
fn what_is_hosted_is_in_the_metrics() {
    let running = Running::start(&[
        ("WEIR_HOSTED__NAMESPACES", "local/*,team/*"),
        ("WEIR_HOSTED__ANONYMOUS_PUSH", "true"),
        ("WEIR_HOSTED__CAPACITY", "1MiB"),
    ]);
    let uploads = "/v2/local/a/blobs/uploads/";
    let digest = weir::oci::Algorithm::Sha256.digest(b"hello\r\n");
    // The line end behind the extra lines belongs to the body.
    let body = "Content-Length: 7\r\n\r\nhello";
    let push = |method: &str, path: &str, extra: &str| ask(running.registry, method, path, extra).0;
    assert_eq!(push("POST", &format!("{uploads}?digest={digest}"), body), 201);
    assert_eq!(push("POST", &format!("{uploads}?mount={digest}&from=local/a"), ""), 201);
    assert_eq!(push("POST", uploads, ""), 202);
    assert_eq!(push("POST", &format!("{uploads}?digest=sha256:{}", "0".repeat(64)), body), 400);
    assert_eq!(push("PUT", "/v2/local/a/manifests/x", body), 400);
    assert_eq!(push("PUT", "/v2/library/a/manifests/x", body), 405);
    let (_, _, metrics) = ask(running.admin, "GET", "/metrics", "");
    let lines: Vec<&str> = metrics.lines().filter(|line| line.starts_with("weir_hosted")).collect();
    for line in [
        "weir_hosted_bytes{namespace=\"local/*\"} 7",
        "weir_hosted_bytes{namespace=\"team/*\"} 0",
        "weir_hosted_capacity_bytes{namespace=\"local/*\"} 1048576",
        "weir_hosted_uploads 1",
        "weir_hosted_pushes_total{kind=\"upload\",outcome=\"created\"} 2",
        "weir_hosted_pushes_total{kind=\"upload\",outcome=\"DIGEST_INVALID\"} 1",
        "weir_hosted_pushes_total{kind=\"manifest\",outcome=\"created\"} 0",
        "weir_hosted_pushes_total{kind=\"manifest\",outcome=\"MANIFEST_INVALID\"} 1",
        "weir_hosted_collected_total 0",
        "weir_hosted_collected_bytes_total 0",
    ] {
        assert!(lines.contains(&line), "{line} is not in\n{}", lines.join("\n"));
    }
    let outcomes = lines.iter().filter(|line| line.starts_with("weir_hosted_pushes_total")).count();
    assert_eq!(outcomes, 4, "what is mirrored is no push");
}

#[test]
fn a_command_asks_the_running_weir() {
    let running = Running::start(&[]);
    let admin = format!("http://{}", running.admin);
    let output = weir(&["budget", "--admin", &admin]).output().unwrap();
    assert!(printed(&output).contains("docker.io as anonymous: no limit was ever named"), "{}", printed(&output));
    let output = weir(&["budget", "--json", "--explain", "busybox:latest", "--admin", &admin]).output().unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["repository"], "library/busybox");
    for (count, said) in [("0", "0 is not in 1..=10000"), ("ten", "invalid digit")] {
        let output = weir(&["budget", "--spends", count, "--admin", &admin]).output().unwrap();
        assert!(output.status.code() == Some(2) && printed(&output).contains(said), "{}", printed(&output));
    }
    for query in ["limit=x", "n=x", "n=1&limit=1"] {
        let (status, _, body) = ask(running.admin, "GET", &format!("/api/v1/spends?{query}"), "");
        assert!(status == 400 && body.contains("write n=20"), "{query}: {status} {body}");
    }
    let output = weir(&["purge", "busybox", "--admin", &admin]).output().unwrap();
    assert_eq!(printed(&output), "nothing was cached of busybox\n");
    let output = weir(&["purge", "evil.example/x", "--admin", &admin]).output().unwrap();
    assert_eq!(
        (output.status.code(), printed(&output).as_str()),
        (Some(1), "weir: weir answered 400: no configured upstream has this repository; add an [[upstream]]\n")
    );
    let output = weir(&["budget", "--admin", "http://127.0.0.1:9"]).output().unwrap();
    assert!(printed(&output).starts_with("weir: no weir answers on http://127.0.0.1:9"), "{}", printed(&output));
}

#[test]
fn the_examples_are_what_client_config_prints() {
    for (client, file) in [
        ("docker", "docker/daemon.json"),
        ("containerd", "containerd/hosts.toml"),
        ("podman", "podman/weir.conf"),
        ("crio", "crio/weir.conf"),
        ("buildkit", "buildkit/buildkitd.toml"),
        ("k3s", "k3s/registries.yaml"),
        ("jib", "jib/config.json"),
        ("stargz", "stargz/config.toml"),
        ("soci", "soci/config.toml"),
    ] {
        let output =
            weir(&["client-config", client, "--raw", "--url", "http://weir.example.com:5000"]).output().unwrap();
        let path = format!("{}/examples/clients/{file}", env!("CARGO_MANIFEST_DIR"));
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            printed(&output),
            written,
            "weir client-config {client} --raw --url http://weir.example.com:5000 > {path}"
        );
    }
}

#[test]
fn the_configurations_in_the_examples_are_understood() {
    let kubernetes =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kubernetes/weir.yaml")).unwrap();
    let (_, rest) = kubernetes.split_once("weir.toml: |\n").unwrap();
    let embedded: String =
        rest.lines().take_while(|line| line.starts_with("    ")).map(|line| format!("{}\n", line.trim())).collect();
    let hash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$1hDPFpFtKWtvzCYWjxAeyDpHpXwYpFkAB2XV0nqqqqM";
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("weir.toml");
    std::fs::write(&config, embedded.replace("REPLACE", hash)).unwrap();
    let container = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/container/weir.toml");
    for config in [config.to_str().unwrap(), container] {
        let output = weir(&["check", "--config", config]).output().unwrap();
        assert!(output.status.success(), "{config}: {}", printed(&output));
    }
}

#[test]
fn the_systemd_unit_allows_what_is_asked_of_the_kernel() {
    let unit = include_str!("../examples/systemd/weir.service");
    let allows = |key: &str, name: &str| {
        let values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        values.flat_map(|value| value.split(' ')).any(|value| value == name)
    };
    // The local socket of the admin API; the limits on open files and core dumps; the priority of password checks.
    assert!(allows("RestrictAddressFamilies", "AF_UNIX"));
    for call in ["setrlimit", "prlimit64", "sched_setscheduler", "setpriority"] {
        assert!(allows("SystemCallFilter", call), "{call} is among @resources, which the unit forbids");
    }
}

#[test]
fn a_reader_that_leaves_is_no_panic() {
    let mut child =
        weir(&["client-config", "containerd", "--raw"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", printed(&output));
}

#[test]
fn sigterm_drains() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (hub, image) = runtime.block_on(async {
        let hub = Hub::start(hub::Settings::default()).await.unwrap();
        let image = hub.push(Spec::new("library/busybox")).unwrap();
        (hub, image)
    });
    let url = format!("http://{}", hub.registry_address());
    let mut running = Running::start(&[("WEIR_UPSTREAM__0__URL", &url)]);
    assert_eq!(ask(running.registry, "GET", "/v2/library/busybox/manifests/latest", "Accept: */*\r\n").0, 200);

    // A body under way, held by upstream.
    let mut stall = Fault::always(What::Stall(0.5));
    stall.on.kind = Some(Kind::BlobGet);
    hub.fault(stall);
    let layer = image.platforms[0].blobs().nth(1).unwrap().clone();
    let registry = running.registry;
    let path = format!("/v2/library/busybox/blobs/{}", layer.digest);
    let mut socket = TcpStream::connect(registry).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {registry}\r\n\r\n").unwrap();
    let mut reader = BufReader::new(socket);
    let mut length = None;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse::<usize>().ok();
        }
    }

    assert_eq!(ask(running.admin, "GET", "/readyz", "").0, 200);
    running.signal(Signal::TERM);
    let (status, body) = loop {
        let (status, _, body) = ask(running.admin, "GET", "/readyz", "");
        if status != 200 {
            break (status, body);
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!((status, body.as_str()), (503, r#"{"ready":false,"reasons":["draining"]}"#));
    assert!(running.child.try_wait().unwrap().is_none(), "it waits for the body");

    hub.clear_faults();
    hub.release();
    let mut bytes = vec![0; length.expect("the body has a length")];
    reader.read_exact(&mut bytes).expect("the body under way is finished");
    assert!(running.child.wait().unwrap().success(), "{}", running.log());
    assert!(running.log().contains("stopped"), "{}", running.log());
    drop(runtime);
}

#[test]
fn a_second_signal_ends_at_once() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (hub, image) = runtime.block_on(async {
        let hub = Hub::start(hub::Settings::default()).await.unwrap();
        let image = hub.push(Spec::new("library/busybox")).unwrap();
        (hub, image)
    });
    let url = format!("http://{}", hub.registry_address());
    let mut running = Running::start(&[("WEIR_UPSTREAM__0__URL", &url), ("WEIR_SERVER__DRAIN", "10m")]);
    assert_eq!(ask(running.registry, "GET", "/v2/library/busybox/manifests/latest", "Accept: */*\r\n").0, 200);
    let mut stall = Fault::always(What::Stall(0.5));
    stall.on.kind = Some(Kind::BlobGet);
    hub.fault(stall);
    let layer = image.platforms[0].blobs().nth(1).unwrap().clone();
    let mut socket = TcpStream::connect(running.registry).unwrap();
    write!(socket, "GET /v2/library/busybox/blobs/{} HTTP/1.1\r\nHost: x\r\n\r\n", layer.digest).unwrap();
    // The first byte says that the body is under way.
    socket.read_exact(&mut [0]).unwrap();
    running.signal(Signal::INT);
    while ask(running.admin, "GET", "/readyz", "").0 == 200 {
        std::thread::sleep(Duration::from_millis(10));
    }
    running.signal(Signal::TERM);
    assert!(running.child.wait().unwrap().success(), "{}", running.log());
    drop((hub, runtime));
}
