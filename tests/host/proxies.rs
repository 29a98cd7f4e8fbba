//! Requests that could be read in two ways, through nginx and haproxy that keep their connections to Weir.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use weir_conformance::{client::Request, mirror::process::free_address};

use super::support::World;

/// The user agent of each request that a proxy sends. What a client hides in the body of another request has none.
const THROUGH: &str = "through-a-proxy";

/// A proxy, until it is dropped.
struct Proxy {
    child: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // nginx ends its workers with its master, at SIGTERM.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

fn start(program: &str, configuration: impl FnOnce(SocketAddr, &str) -> String, arguments: &[&str]) -> Proxy {
    let directory = tempfile::tempdir().unwrap();
    let (address, file) = (free_address().unwrap(), directory.path().join("conf"));
    std::fs::write(&file, configuration(address, directory.path().to_str().unwrap())).unwrap();
    let log = std::fs::File::create(directory.path().join("log")).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).arg(&file).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
    while TcpStream::connect(address).is_err() {
        let said = || std::fs::read_to_string(directory.path().join("log")).unwrap_or_default();
        assert!(child.try_wait().unwrap().is_none(), "{program}: {}", said());
        std::thread::sleep(Duration::from_millis(20));
    }
    Proxy { child, address, _directory: directory }
}

fn nginx(weir: SocketAddr) -> Proxy {
    let configuration = |address: SocketAddr, directory: &str| {
        format!(
            "daemon off; pid {directory}/pid; error_log {directory}/error; user root;\nevents {{}}\nhttp {{\n  access_log off;\n  \
             client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/f;\n  \
             uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;\n  upstream weir {{ server {weir}; keepalive 4; }}\n  \
             server {{\n    listen {address};\n    location / {{\n      proxy_pass http://weir; proxy_http_version 1.1;\n      \
             proxy_set_header Connection \"\"; proxy_set_header User-Agent {THROUGH};\n      proxy_request_buffering off; client_max_body_size 0;\n    }}\n  }}\n}}\n"
        )
    };
    start("nginx", configuration, &["-c"])
}

fn haproxy(weir: SocketAddr) -> Proxy {
    let configuration = |address: SocketAddr, _: &str| {
        format!(
            "defaults\n  mode http\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n  http-reuse always\n\
             frontend f\n  bind {address}\n  http-request set-header User-Agent {THROUGH}\n  default_backend b\nbackend b\n  server weir {weir}\n"
        )
    };
    start("haproxy", configuration, &["-db", "-f"])
}

/// What comes until the connection is closed or nothing comes for a while.
fn exchange(address: SocketAddr, bytes: &str, patience: Duration) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.write_all(bytes.as_bytes()).unwrap();
    let (mut answer, mut buffer) = (Vec::new(), [0; 65536]);
    while let Ok(count @ 1..) = socket.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_smuggled_to_weir_through_nginx_or_haproxy() {
    let world = World::start("exec \"$WEIR\" \"$@\"", "").await;
    let image = world.pull("library/busybox").await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let manifest = "/v2/library/busybox/manifests/latest";
    let whole = format!("GET {manifest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let put =
        "PUT /v2/team/a/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/vnd.oci.image.index.v1+json\r\n";
    for proxy in [nginx(world.weir.address), haproxy(world.weir.address)] {
        let attacked = |attack: &str| {
            exchange(proxy.address, attack, Duration::from_millis(150));
            // The next request on this connection to Weir gets the answer to its own request.
            let answer = exchange(proxy.address, &whole, Duration::from_secs(20));
            assert!(answer.starts_with("HTTP/1.1 200"), "{attack:?}: {answer}");
            assert!(answer.ends_with(std::str::from_utf8(&image.root.bytes).unwrap()), "{attack:?}: {answer}");
        };
        // A whole body that looks like a request, where it is read, refused unread, and of no meaning.
        let chunk = format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len());
        for target in [
            "PUT /v2/team/a/manifests/1",
            "PUT /v2/library/busybox/manifests/1",
            "POST /v2/team/a/blobs/uploads/",
            "GET /v2/",
            "DELETE /v2/team/a/manifests/1",
        ] {
            let length = format!("Content-Length: {}\r\n\r\n{smuggled}", smuggled.len());
            for framed in [length, format!("Transfer-Encoding: chunked\r\n\r\n{chunk}")] {
                attacked(&format!("{target} HTTP/1.1\r\nHost: x\r\n{framed}"));
            }
        }
        for fields in [
            "Content-Length: 4\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 4",
            "Content-Length: 4\r\nContent-Length: 5",
            "Content-Length: 0\r\nContent-Length: 60",
            "Content-Length: +5",
            "Content-Length: 5, 5",
            "Content-Length: 0x5",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: identity, chunked",
            "Transfer-Encoding: \x0bchunked",
            "Transfer-Encoding:\tchunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "Transfer-Encoding : chunked",
            "Transfer-Encoding\r\n : chunked",
            "X: a\r\n Transfer-Encoding: chunked",
            "X: a\rTransfer-Encoding: chunked",
            "Connection: Content-Length\r\nContent-Length: 60",
            "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
            "Expect: 100-continue\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        ] {
            for method in [put, &put.replace("PUT", "GET")] {
                for body in [format!("0\r\n\r\n{smuggled}"), smuggled.to_owned()] {
                    attacked(&format!("{method}{fields}\r\n\r\n{body}"));
                }
            }
        }
    }
    // What a proxy takes for a request of its own, such as one that follows another on the client's connection, is one.
    assert_eq!(world.client.send(&Request::get("/last")).await.unwrap().status(), 404);
    let log = loop {
        let log = std::fs::read_to_string(world.weir.directory().join("log")).unwrap();
        if log.contains("\"/last\"") {
            break log;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let access = log.lines().filter(|line| line.contains("weir::access") && line.contains("\"/smuggled\""));
    let (requests, smuggled): (Vec<_>, Vec<_>) = access.partition(|line| line.contains(THROUGH));
    assert!(smuggled.is_empty(), "{smuggled:?}");
    assert!(!requests.is_empty(), "requests that follow another are sent to Weir");
}
