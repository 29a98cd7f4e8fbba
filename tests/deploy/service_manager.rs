//! What systemd passes to a service and hears from it: readiness, reloads, the watchdog, and sockets that outlive a restart.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr as UnixAddress, UnixDatagram},
    },
    process::Command,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use weir_conformance::hub::{self, Fault, Hub, Kind, Spec, What};

use super::{PATIENCE, Running, Starting, WEIR, ask, printed, serving, weir};

/// The next datagram of the service.
fn next(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 1024];
    let length = socket.recv(&mut buffer).expect("the service says nothing");
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

/// The next one that is no sign of life.
fn next_state(socket: &UnixDatagram) -> String {
    std::iter::repeat_with(|| next(socket)).find(|state| state != "WATCHDOG=1").unwrap()
}

#[test]
fn the_service_manager_hears_when_clients_are_served_of_each_reload_of_the_end_and_of_life_in_between() {
    let directory = tempfile::tempdir().unwrap();
    let (config, path) = (directory.path().join("weir.toml"), directory.path().join("notify"));
    std::fs::write(&config, "").unwrap();
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let environment = [
        ("WEIR_CONFIG", config.to_str().unwrap()),
        ("NOTIFY_SOCKET", path.to_str().unwrap()),
        ("WATCHDOG_USEC", "100000"),
    ];
    let Starting { child, log, directory } = Starting::spawn(weir(&[]), &environment);
    let mut running =
        Running { child, registry: ([127, 0, 0, 1], 0).into(), admin: ([127, 0, 0, 1], 0).into(), directory };
    assert_eq!(next(&socket), "READY=1\nSTATUS=serving");
    assert!(running.log().contains(r#""message":"serving""#), "it is ready before it serves: {}", running.log());
    (running.registry, running.admin) = serving(&mut running.child, &log, 0);
    assert_eq!(ask(running.registry, "GET", "/v2/", "").0, 200);
    assert_eq!([next(&socket), next(&socket)], ["WATCHDOG=1"; 2]);

    running.signal(Signal::HUP);
    assert!(next_state(&socket).starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(next_state(&socket), "READY=1\nSTATUS=serving");
    std::fs::write(&config, "nonsense").unwrap();
    running.signal(Signal::HUP);
    assert!(next_state(&socket).starts_with("RELOADING=1\n"));
    assert!(next_state(&socket).starts_with("READY=1\nSTATUS=serving; the new configuration is not used"));

    running.signal(Signal::TERM);
    // The file that changed may have been looked at once more.
    while !next_state(&socket).starts_with("STOPPING=1\n") {}
    assert!(running.child.wait().unwrap().success());
}

#[test]
fn the_socket_of_a_service_manager_may_have_no_file() {
    let name = format!("weir-test-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&UnixAddress::from_abstract_name(&name).unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let running =
        Running::start(&[("NOTIFY_SOCKET", &format!("@{name}")), ("WATCHDOG_USEC", "1"), ("WATCHDOG_PID", "1")]);
    assert_eq!(next(&socket), "READY=1\nSTATUS=serving");
    running.signal(Signal::TERM);
    assert!(next(&socket).starts_with("STOPPING=1\n"), "signs of life are for another process");
}

/// A weir that is given this socket as systemd gives it.
fn activated(socket: &TcpListener) -> Command {
    let mut command = Command::new("sh");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WEIR_")) {
        command.env_remove(name);
    }
    // The first of the sockets that are passed is descriptor 3.
    command.args(["-c", &format!("exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec {WEIR}")]);
    command.stdin(OwnedFd::from(socket.try_clone().unwrap()));
    command
}

fn listener() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[test]
fn a_restart_with_a_passed_socket_refuses_no_connection_and_finishes_what_is_under_way() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (hub, image) = runtime.block_on(async {
        let hub = Hub::start(hub::Settings::default()).await.unwrap();
        let image = hub.push(Spec::new("library/busybox")).unwrap();
        (hub, image)
    });
    let data = tempfile::tempdir().unwrap();
    let (socket, address) = listener();
    let (url, listen) = (format!("http://{}", hub.registry_address()), address.to_string());
    let environment = [
        ("WEIR_UPSTREAM__0__URL", &*url),
        ("WEIR_SERVER__LISTEN", &*listen),
        ("WEIR_STORAGE__ROOT", data.path().to_str().unwrap()),
        ("WEIR_SERVER__DRAIN", "1m"),
    ];
    let mut old = Running::run(activated(&socket), &environment);
    assert_eq!(old.registry, address);
    let manifest = "/v2/library/busybox/manifests/latest";
    assert_eq!(ask(address, "GET", manifest, "Accept: */*\r\n").0, 200);

    // A body under way, held by upstream.
    let mut stall = Fault::always(What::Stall(0.5));
    stall.on.kind = Some(Kind::BlobGet);
    hub.fault(stall);
    let layer = image.platforms[0].blobs().nth(1).unwrap().clone();
    let mut body = TcpStream::connect(address).unwrap();
    body.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(body, "GET /v2/library/busybox/blobs/{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", layer.digest)
        .unwrap();
    body.read_exact(&mut [0]).unwrap();

    old.signal(Signal::TERM);
    let mut new = Starting::spawn(activated(&socket), &environment);
    let log = || std::fs::read_to_string(&new.log).unwrap();
    while !log().contains("waiting for the process that has the data directory") {
        assert!(!log().contains("in use"), "it does not wait: {}", log());
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut client = TcpStream::connect(address).expect("a client is refused during a restart");
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(client, "GET {manifest} HTTP/1.1\r\nHost: x\r\nAccept: */*\r\nConnection: close\r\n\r\n").unwrap();
    assert!(old.child.try_wait().unwrap().is_none(), "it waits for the body");

    hub.clear_faults();
    hub.release();
    let mut rest = Vec::new();
    body.read_to_end(&mut rest).unwrap();
    let begins = rest.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(rest.len() - begins, usize::try_from(layer.size).unwrap(), "the body under way is finished");
    assert!(old.child.wait().unwrap().success(), "{}", old.log());
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(serving(&mut new.child, &new.log, 0).0, address);
    kill_process(Pid::from_child(&new.child), Signal::TERM).unwrap();
    assert!(new.child.wait().unwrap().success());
    drop(runtime);
}

#[test]
fn a_passed_socket_that_no_listener_has_is_refused_with_what_to_write() {
    let (socket, address) = listener();
    let directory = tempfile::tempdir().unwrap();
    let mut command = activated(&socket);
    command
        .current_dir(directory.path())
        .env("WEIR_SERVER__LISTEN", "127.0.0.1:0")
        .env("WEIR_ADMIN__LISTEN", "127.0.0.1:0");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = format!(
        "the service manager passes a socket on {address}, and no listener of the configuration has this address"
    );
    assert!(printed(&output).contains(&said), "{}", printed(&output));
}
