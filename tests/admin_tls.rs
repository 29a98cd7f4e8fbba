//! TLS on the admin listener: its certificate, its reload, and who takes its connections.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    sync::Arc,
};

use rustix::process::Signal;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};

use crate::deploy::{PATIENCE, Running, printed, weir};

/// Certificates for `localhost`, each its own root, with their keys: one good for a century, one that expired in 2021.
pub(crate) const GOOD: &str = include_str!("../src/http/wire/server/localhost.pem");
pub(crate) const EXPIRED: &str = include_str!("tls/expired.pem");

/// Trusts both.
pub(crate) fn tls_client() -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for pem in [GOOD, EXPIRED] {
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The answer over TLS, or what the handshake failed for.
pub(crate) fn ask(socket: TcpStream, path: &str) -> std::io::Result<String> {
    let connection = ClientConnection::new(tls_client(), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, socket);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // The end of a connection without a word of TLS is no error when the answer was whole.
        Err(error) if answer.is_empty() => Err(error),
        _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

/// The answer on the local socket, which speaks no TLS.
fn ask_locally(running: &Running, path: &str) -> String {
    let mut socket = UnixStream::connect(running.directory().join("weir-data/weir.sock")).unwrap();
    write!(socket, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

fn start(directory: &std::path::Path) -> Running {
    let file = directory.join("tls.pem");
    std::fs::write(&file, GOOD).unwrap();
    let file = file.to_str().unwrap();
    Running::start(&[("WEIR_ADMIN__TLS__CERT", file), ("WEIR_ADMIN__TLS__KEY", file)])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_speaks_tls_with_a_certificate_that_is_reloaded() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path());
    for path in ["/healthz", "/metrics", "/api/v1/status", "/"] {
        let answer = ask(connect(running.admin), path).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    let mut plain = connect(running.admin);
    write!(plain, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "nothing is answered in clear");
    // The commands of this machine ask the local socket.
    let output = weir(&["healthcheck"]).current_dir(running.directory()).output().unwrap();
    assert!(output.status.success(), "{}", printed(&output));

    // As openssl x509 -enddate says of each.
    let expires = |seconds: u64| {
        let file = directory.path().join("tls.pem");
        let line = format!("weir_certificate_expiry_timestamp_seconds{{file=\"{}\"}} {seconds}\n", file.display());
        let metrics = ask_locally(&running, "/metrics");
        assert!(metrics.contains(&line), "{line}{metrics}");
    };
    expires(4_948_861_575);
    std::fs::write(directory.path().join("tls.pem"), EXPIRED).unwrap();
    running.signal(Signal::HUP);
    while !running.log().contains(r#""message":"reloaded""#) {
        std::thread::yield_now();
    }
    let error = ask(connect(running.admin), "/healthz").unwrap_err().to_string();
    assert!(error.contains("xpired"), "{error}");
    expires(1_609_459_200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_makes_no_handshake_holds_no_more_than_its_share() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path());
    let mut silent: Vec<TcpStream> = (0..40).map(|_| connect(running.admin)).collect();
    let mut first = silent.remove(0);
    let end = first.read(&mut [0]);
    assert!(matches!(end, Ok(0)) || end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    let last = silent.pop().unwrap();
    assert!(ask(last, "/healthz").unwrap().starts_with("HTTP/1.1 200"), "the one that came last is there");
}

#[test]
fn a_certificate_of_the_admin_listener_that_cannot_be_read_is_refused_by_its_key() {
    let output = weir(&["check"])
        .env("WEIR_ADMIN__TLS__CERT", "/nonexistent.pem")
        .env("WEIR_ADMIN__TLS__KEY", "/nonexistent.pem")
        .output()
        .unwrap();
    let text = printed(&output);
    assert!(!output.status.success() && text.contains("admin.tls") && text.contains("/nonexistent.pem"), "{text}");
}
