//! An upstream that is asked over TLS: trusted or not, and whole again once it is.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, rustls};

use crate::deploy::{PATIENCE, Running, ask};

/// Certificates for `localhost`, each its own root: one good for a century, one that expired in 2021.
const GOOD: &str = include_str!("../src/http/wire/server/localhost.pem");
const EXPIRED: &str = include_str!("tls/expired.pem");

const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// TLS in front of a registry without it, with a certificate that can be replaced.
struct Front {
    address: SocketAddr,
    certificate: Arc<Mutex<TlsAcceptor>>,
}

impl Front {
    async fn of(registry: SocketAddr, pem: &str) -> Front {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let certificate = Arc::new(Mutex::new(acceptor(pem)));
        let current = certificate.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let acceptor = current.lock().unwrap().clone();
                tokio::spawn(async move {
                    let mut secured = acceptor.accept(socket).await?;
                    let mut plain = TcpStream::connect(registry).await?;
                    tokio::io::copy_bidirectional(&mut secured, &mut plain).await
                });
            }
        });
        Front { address, certificate }
    }

    fn present(&self, pem: &str) {
        *self.certificate.lock().unwrap() = acceptor(pem);
    }
}

fn acceptor(pem: &str) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap()))
}

/// A registry without TLS that has `local/a:latest`.
fn registry() -> Running {
    let registry = Running::start(&[("WEIR_HOSTED__NAMESPACES", "local/*"), ("WEIR_HOSTED__ANONYMOUS_PUSH", "true")]);
    let headers = format!(
        "Content-Type: application/vnd.oci.image.index.v1+json\r\nContent-Length: {}\r\n\r\n{MANIFEST}",
        MANIFEST.len() + 2
    );
    assert_eq!(ask(registry.registry, "PUT", "/v2/local/a/manifests/latest", &headers).0, 201);
    registry
}

/// A mirror of what is at `url`, which trusts the certificates in `trusted` beside the system's.
fn mirror(directory: &Path, url: &str, trusted: &str) -> Running {
    let (config, roots) = (directory.join("weir.toml"), directory.join("ca.pem"));
    std::fs::write(&roots, trusted).unwrap();
    let text = format!("[[upstream]]\nname = \"docker.io\"\ndefault = true\nurl = \"{url}\"\nca_file = {roots:?}\n");
    std::fs::write(&config, text).unwrap();
    Running::start(&[("WEIR_CONFIG", config.to_str().unwrap())])
}

/// The manifest is not to be had, and that is told as what it is and not as its absence. Gives what the log says.
fn refused(mirror: &Running) -> String {
    for _ in 0..2 {
        let (status, _, body) = ask(mirror.registry, "GET", "/v2/local/a/manifests/latest", "");
        assert_eq!((status, body.contains("UNAVAILABLE")), (503, true), "{body}");
    }
    mirror.log()
}

/// An upstream that cannot prove its identity is sent no request, and is asked again as soon as it can.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_is_asked_over_tls_once_its_certificate_is_good() {
    let registry = registry();
    let front = Front::of(registry.registry, EXPIRED).await;
    let url = format!("https://localhost:{}", front.address.port());
    let directory = tempfile::tempdir().unwrap();
    let mirror = mirror(directory.path(), &url, &format!("{GOOD}\n{EXPIRED}"));
    let log = refused(&mirror);
    assert!(log.contains("upstream fails") && log.contains("certificate expired"), "{log}");
    front.present(GOOD);
    let begun = Instant::now();
    loop {
        let (status, _, body) = ask(mirror.registry, "GET", "/v2/local/a/manifests/latest", "");
        if status == 200 {
            assert_eq!(body.trim_end(), MANIFEST);
            break;
        }
        assert!(status == 503 && begun.elapsed() < PATIENCE, "{status} {body}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(mirror.log().contains("upstream answers again"), "{}", mirror.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_not_trusted_or_not_the_one_or_not_there_is_unavailable() {
    let registry = registry();
    let front = Front::of(registry.registry, GOOD).await;
    let port = front.address.port();
    for (url, trusted, said) in [
        (format!("https://localhost:{port}"), EXPIRED, "invalid peer certificate"),
        (format!("https://127.0.0.1:{port}"), GOOD, "not valid for name"),
        // RFC 6761: never the name of anything.
        ("https://registry.invalid".to_owned(), GOOD, "cannot be connected to"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let log = refused(&mirror(directory.path(), &url, trusted));
        assert!(log.contains("upstream fails") && log.contains(said), "{said} is not in\n{log}");
    }
}
