//! An upstream that is asked over TLS: trusted or not, and whole again once it is.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self,
        server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    },
};

use crate::deploy::{PATIENCE, Running, ask, printed, weir};

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
        Front::with(registry, acceptor(pem)).await
    }

    async fn with(registry: SocketAddr, acceptor: TlsAcceptor) -> Front {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let certificate = Arc::new(Mutex::new(acceptor));
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
    acceptor_of(pem, WebPkiClientVerifier::no_client_auth())
}

fn acceptor_of(pem: &str, clients: Arc<dyn ClientCertVerifier>) -> TlsAcceptor {
    let config = rustls::ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    TlsAcceptor::from(Arc::new(
        config.with_client_cert_verifier(clients).with_single_cert(vec![certificate], key).unwrap(),
    ))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
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
    Running::start(&[("WEIR_CONFIG", configuration(directory, url, trusted, "").to_str().unwrap())])
}

fn configuration(directory: &Path, url: &str, trusted: &str, keys: &str) -> PathBuf {
    let (config, roots) = (directory.join("weir.toml"), directory.join("ca.pem"));
    std::fs::write(&roots, trusted).unwrap();
    let upstream = "[[upstream]]\nname = \"docker.io\"\ndefault = true";
    std::fs::write(&config, format!("{upstream}\nurl = \"{url}\"\nca_file = {roots:?}\n{keys}\n")).unwrap();
    config
}

/// The manifest is not to be had, and that is reported as what it is and not as its absence. Gives what the log says.
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
    answered(&mirror).await;
    assert!(mirror.log().contains("upstream answers again"), "{}", mirror.log());
}

/// Waits until the manifest is to be had.
async fn answered(mirror: &Running) {
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
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_shown_and_renewed() {
    let registry = registry();
    let mut trusted = rustls::RootCertStore::empty();
    trusted.add(CertificateDer::from_pem_slice(GOOD.as_bytes()).unwrap()).unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(trusted), provider()).build().unwrap();
    let front = Front::with(registry.registry, acceptor_of(GOOD, clients)).await;
    let url = format!("https://localhost:{}", front.address.port());
    let directory = tempfile::tempdir().unwrap();
    let [both, key, other] = ["client.pem", "client.key", "other.pem"].map(|name| directory.path().join(name));
    std::fs::write(&both, EXPIRED).unwrap();
    std::fs::write(&other, GOOD).unwrap();
    // The key alone, of the certificate that will be good.
    std::fs::write(&key, &GOOD[GOOD.find("-----BEGIN PRIVATE").unwrap()..]).unwrap();

    let start = |keys: &str| {
        let config = configuration(directory.path(), &url, GOOD, keys);
        Running::start(&[("WEIR_CONFIG", config.to_str().unwrap())])
    };
    refused(&start(""));
    let mirror = start(&format!("client_cert = {both:?}"));
    refused(&mirror);
    std::fs::write(&both, GOOD).unwrap();
    answered(&mirror).await;

    for (keys, said) in [
        (format!("client_key = {key:?}"), "upstream[0].client_key"),
        (format!("client_cert = {key:?}"), "upstream[0].client_cert"),
        (format!("client_cert = {:?}", directory.path().join("none")), "upstream[0].client_cert"),
        (format!("client_cert = {other:?}, client_key = {key:?}").replace(", ", "\n"), ""),
    ] {
        let config = configuration(directory.path(), &url, GOOD, &keys);
        let output = weir(&["check", "--config", config.to_str().unwrap()]).current_dir(&directory).output().unwrap();
        assert_eq!(output.status.success(), said.is_empty(), "{keys}: {}", printed(&output));
        assert!(printed(&output).contains(said), "{keys}: {}", printed(&output));
    }
    std::fs::write(
        &other,
        &EXPIRED[..EXPIRED.find("-----BEGIN PRIVATE").or_else(|| EXPIRED.find("-----BEGIN EC")).unwrap()],
    )
    .unwrap();
    let config = configuration(directory.path(), &url, GOOD, &format!("client_cert = {other:?}\nclient_key = {key:?}"));
    let output = weir(&["check", "--config", config.to_str().unwrap()]).current_dir(&directory).output().unwrap();
    assert!(
        !output.status.success() && printed(&output).contains("client_cert"),
        "another's key: {}",
        printed(&output)
    );
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
