//! The connection under a service of the test's own, on raw sockets: what is on the wire, and who is closed when.

use std::{
    cell::Cell,
    convert::Infallible,
    fs::File,
    io::Write as _,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Instant,
};

use actix_http::StatusCode;
use bytes::Bytes;
use tokio::sync::watch;

use super::super::{
    body_length::BodyLength,
    sendfile::{Source, Transfer},
};
use super::*;
use crate::{
    http::{
        Certificate, Prepared,
        raw::Raw,
        service::{body::Body, refuse::refuse, scope::RequestScope},
    },
    mirror::{Extent, Stopped},
    route::SharedRoutes,
};

mod connection_limits;
mod refusals;

const SIZE: usize = 5 << 20;

/// A small body that soon fills a socket.
const WIDE: usize = 20_000;

/// Bytes that differ from each other wherever they stand, in a file that was just written.
static FILE: LazyLock<(Vec<u8>, Arc<File>)> = LazyLock::new(|| {
    let bytes: Vec<u8> = (0..SIZE as u32 / 4).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    (bytes, Arc::new(file))
});

/// What the service of a test shares with the test.
#[derive(Clone)]
struct World {
    metrics: Metrics,
    /// How many bytes of the file may be read, or that no more come.
    grown: watch::Sender<Result<u64, Stopped>>,
    calls: Arc<AtomicUsize>,
    gate: watch::Sender<bool>,
}

impl World {
    fn grow(&self, to: Result<u64, Stopped>) {
        self.grown.send_modify(|grown| *grown = to);
    }

    fn open(&self) {
        self.gate.send_modify(|open| *open = true);
    }

    /// When the service was called.
    async fn called(&self) {
        while self.calls.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// When the last connection is closed.
    async fn all_closed(&self) {
        let begun = Instant::now();
        while !self.metrics().contains("http_open_connections 0") {
            assert!(begun.elapsed() < PATIENCE / 2, "{}", self.metrics());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What `/metrics` would say.
    fn metrics(&self) -> String {
        let mut registry = prometheus_client::registry::Registry::default();
        self.metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }
}

fn file_from(offset: u64, end: u64) -> Extent {
    Extent::File { file: FILE.1.clone(), offset, length: end - offset }
}

/// The file as far as it has grown.
fn growing(mut grown: watch::Receiver<Result<u64, Stopped>>) -> Source {
    type Waiting = std::pin::Pin<Box<dyn Future<Output = watch::Receiver<Result<u64, Stopped>>>>>;
    let waiting: Cell<Option<Waiting>> = Cell::new(None);
    Box::new(move |cx, offset, end| {
        loop {
            if let Some(mut future) = waiting.take() {
                match future.as_mut().poll(cx) {
                    Poll::Pending => {
                        waiting.set(Some(future));
                        return Poll::Pending;
                    }
                    Poll::Ready(receiver) => grown = receiver,
                }
            }
            match grown.borrow_and_update().clone() {
                Err(stopped) => return Poll::Ready(Err(stopped)),
                Ok(readable) if readable > offset => return Poll::Ready(Ok(file_from(offset, readable.min(end)))),
                Ok(_) => {}
            }
            let mut receiver = grown.clone();
            waiting.set(Some(Box::pin(async move {
                let _ = receiver.changed().await;
                receiver
            })));
        }
    })
}

async fn answer(world: World, request: Request) -> Result<Response<Body>, Infallible> {
    world.calls.fetch_add(1, Ordering::SeqCst);
    let connection = request.conn_data::<Rc<ConnectionState>>().cloned().unwrap();
    let id = actix_http::header::HeaderValue::from_static("an-id");
    let (has_body, method) = (BodyLength::of(request.head()).is_some(), request.method().clone());
    let scope =
        RequestScope::begin(connection, world.metrics.clone(), method, has_body, id, None, |_| Default::default());
    let size = SIZE as u64;
    let transfer = |source: Source, scope| Body::transfer(scope, StatusCode::OK, size, Transfer::new(source, 0, size));
    Ok(match request.path() {
        _ if scope.is_head() => Body::promised(scope, StatusCode::OK, size),
        "/file" => transfer(Box::new(|_, offset, end| Poll::Ready(Ok(file_from(offset, end)))), scope),
        "/growing" => transfer(growing(world.grown.subscribe()), scope),
        "/bytes" => transfer(
            Box::new(|_, offset, end| {
                let end = end.min(offset + 100_000) as usize;
                Poll::Ready(Ok(Extent::Bytes(Bytes::copy_from_slice(&FILE.0[offset as usize..end]))))
            }),
            scope,
        ),
        // The file is shorter than was promised.
        "/short" => {
            let source: Source = Box::new(|_, offset, end| Poll::Ready(Ok(file_from(offset, end))));
            Body::transfer(scope, StatusCode::OK, size + 1, Transfer::new(source, 0, size + 1))
        }
        "/wide" => Body::bytes(scope, StatusCode::OK, Bytes::from_static(&[b'w'; WIDE])),
        "/slow" => {
            let mut open = world.gate.subscribe();
            let _ = open.wait_for(|open| *open).await;
            Body::bytes(scope, StatusCode::OK, Bytes::from_static(b"slow"))
        }
        path => {
            let body = Bytes::copy_from_slice(path.as_bytes());
            Body::bytes(scope, StatusCode::OK, body)
        }
    })
}

/// Longer than a client of these tests is kept waiting on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(30);

fn settings() -> Settings {
    Settings {
        workers: 1,
        connections: 1000,
        connections_per_client: 1000,
        head_timeout: PATIENCE,
        keep_alive: PATIENCE,
        body_stall: PATIENCE,
        write_stall: PATIENCE,
        cors: Vec::new(),
        drain: PATIENCE,
        routes: SharedRoutes::default(),
    }
}

/// For tests whose clients are slow or mute.
fn hasty() -> Settings {
    // actix-http reckons its own deadlines from a clock that ticks twice a second.
    Settings { head_timeout: Duration::from_secs(2), write_stall: Duration::from_secs(1), ..settings() }
}

fn serving(settings: &Settings, tls: Option<Arc<rustls::ServerConfig>>) -> (Serving, World) {
    let world = World {
        metrics: Metrics::new(),
        grown: watch::Sender::new(Ok(0)),
        calls: Arc::default(),
        gate: watch::Sender::new(false),
    };
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = Listener { socket, login: false, tls };
    let given = world.clone();
    let serving = start(
        settings,
        vec![listener],
        &world.metrics,
        Box::new(|_| false),
        &refuse(world.metrics.clone()),
        move || {
            let world = given.clone();
            fn_service(move |request| answer(world.clone(), request)).into_factory()
        },
    );
    (serving.unwrap(), world)
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_small_bodies_follow_each_other_on_one_connection() {
    let (serving, _) = serving(&settings(), None);
    let mut client = Raw::to(&serving).await;
    for path in ["/file", "/small", "/bytes", "/file", "/other", "/file"] {
        client.get(path).await;
        let head = client.head().await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
        if matches!(path, "/file" | "/bytes") {
            assert!(head.contains(&format!("content-length: {SIZE}\r\n")) && !head.contains("chunked"), "{head}");
            assert!(client.body(SIZE).await == FILE.0, "{path}");
        } else {
            assert_eq!(client.body(path.len()).await, path.as_bytes());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_promises_the_length_of_the_entity_and_sends_no_body() {
    let (serving, _) = serving(&settings(), None);
    let mut client = Raw::to(&serving).await;
    for _ in 0..2 {
        client.send("HEAD /file HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let head = client.head().await;
        assert_eq!(head.matches("content-length").count(), 1, "{head}");
        assert!(head.contains(&format!("content-length: {SIZE}\r\n")), "{head}");
    }
    // The next response begins right behind the head: nothing was sent in between.
    client.get("/x").await;
    assert!(client.head().await.starts_with("http/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order_each_by_its_own_method() {
    let (serving, world) = serving(&settings(), None);
    let mut client = Raw::to(&serving).await;
    let request = |line: &str| format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n");
    let all = ["GET /slow", "HEAD /file", "GET /file", "HEAD /x", "GET /small", "GET /last"].map(request).concat();
    // In pieces of seven, so that heads are cut everywhere.
    for piece in all.as_bytes().chunks(7) {
        client.send(piece).await;
        client.0.writable().await.unwrap();
    }
    world.called().await;
    assert_eq!(world.calls.load(Ordering::SeqCst), 1, "a second request ran beside the first");
    world.open();
    client.head().await;
    assert_eq!(client.body(4).await, b"slow");
    assert!(client.head().await.contains(&format!("content-length: {SIZE}\r\n")));
    client.head().await;
    assert!(client.body(SIZE).await == FILE.0);
    assert!(client.head().await.contains(&format!("content-length: {SIZE}\r\n")));
    client.head().await;
    assert_eq!(client.body(6).await, b"/small");
    client.head().await;
    assert_eq!(client.body(5).await, b"/last");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_gets_what_has_arrived_and_waits_for_the_rest() {
    let (serving, world) = serving(&settings(), None);
    let mut client = Raw::to(&serving).await;
    client.get("/growing").await;
    // The head does not wait for the first byte.
    client.head().await;
    let mut got = Vec::new();
    for readable in [1, 2, 70_000, 70_001, 3 << 20, SIZE as u64] {
        world.grow(Ok(readable));
        got.extend(client.body(readable as usize - got.len()).await);
    }
    assert!(got == FILE.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_does_not_grow_is_no_stalled_client() {
    let (serving, world) = serving(&hasty(), None);
    let mut client = Raw::to(&serving).await;
    world.grow(Ok(10));
    client.get("/growing").await;
    client.head().await;
    client.body(10).await;
    tokio::time::sleep(hasty().write_stall * 2).await;
    world.grow(Ok(20));
    client.body(10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_early_closes_the_connection() {
    let (serving, world) = serving(&settings(), None);
    let begun = Instant::now();
    world.grow(Ok(1000));
    let mut client = Raw::to(&serving).await;
    client.get("/growing").await;
    assert!(client.head().await.contains(&format!("content-length: {SIZE}\r\n")));
    client.body(1000).await;
    world.grow(Err(Stopped("the digest does not match".into())));
    assert_eq!(client.rest().await, b"");

    let mut client = Raw::to(&serving).await;
    client.get("/short").await;
    assert!(client.head().await.contains(&format!("content-length: {}\r\n", SIZE + 1)));
    assert_eq!(client.rest().await.len(), SIZE);
    assert!(begun.elapsed() < PATIENCE, "it was kept alive, and closed for being idle");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_is_closed() {
    let (serving, world) = serving(&hasty(), None);
    let mut stalled = Raw::to(&serving).await;
    stalled.get("/file").await;
    world.called().await;
    world.all_closed().await;
    assert!(stalled.rest().await.len() < SIZE, "the stalled client was served to the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_delays_no_other_client() {
    let (serving, _) = serving(&settings(), None);
    let begun = Instant::now();
    let mut stalled = Raw::to(&serving).await;
    stalled.get("/file").await;
    let mut other = Raw::to(&serving).await;
    other.get("/file").await;
    other.head().await;
    assert!(other.body(SIZE).await == FILE.0);
    assert!(begun.elapsed() < PATIENCE, "the other client waited until the stalled one was closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_that_makes_progress_is_served_to_the_end() {
    let (serving, _) = serving(&hasty(), None);
    let mut client = Raw::to(&serving).await;
    client.get("/file").await;
    client.head().await;
    let mut got = Vec::new();
    for _ in 0..5 {
        tokio::time::sleep(hasty().write_stall / 3).await;
        got.extend(client.body(SIZE / 5).await);
    }
    assert!(got == FILE.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_no_handler_reads_is_not_waited_for() {
    let (serving, world) = serving(&settings(), None);
    for head in ["Content-Length: 1000000", "Transfer-Encoding: chunked"] {
        let begun = Instant::now();
        let mut client = Raw::to(&serving).await;
        // What follows looks like a request and is a body.
        let body = "GET /y HTTP/1.1\r\nHost: x\r\n\r\nGET /z";
        client.send(format!("PUT /x HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n{body}")).await;
        assert!(client.head().await.starts_with("http/1.1 200"), "{head}");
        client.body(2).await;
        assert_eq!(client.rest().await, b"", "{head}");
        assert!(begun.elapsed() < PATIENCE, "{head}");
    }
    assert_eq!(world.calls.load(Ordering::SeqCst), 2, "a body was taken for a request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_closes_the_idle_at_once_and_lets_bodies_finish() {
    let (serving, world) = serving(&settings(), None);
    let mut idle = Raw::to(&serving).await;
    idle.get("/x").await;
    idle.head().await;
    idle.body(2).await;
    let mut busy = Raw::to(&serving).await;
    world.grow(Ok(10));
    busy.get("/growing").await;
    busy.head().await;
    busy.body(10).await;
    let address = serving.addresses[0];
    let stopping = tokio::spawn(serving.stop());
    let begun = Instant::now();
    assert_eq!(idle.rest().await, b"");
    assert!(begun.elapsed() < PATIENCE, "it was closed when the drain was over");
    assert!(!stopping.is_finished());
    world.grow(Ok(SIZE as u64));
    assert!(busy.body(SIZE - 10).await == FILE.0[10..]);
    assert_eq!(busy.rest().await, b"");
    stopping.await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_takes_no_less_than_it_may() {
    let (serving, world) = serving(&Settings { drain: Duration::from_millis(1_500), ..settings() }, None);
    let mut busy = Raw::to(&serving).await;
    world.grow(Ok(10));
    busy.get("/growing").await;
    busy.head().await;
    busy.body(10).await;
    let mut idle = Raw::to(&serving).await;
    idle.get("/x").await;
    idle.head().await;
    idle.body(2).await;
    let stopping = tokio::spawn(serving.stop());
    // It is closed when the drain has begun.
    assert_eq!(idle.rest().await, b"");
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    world.grow(Ok(SIZE as u64));
    assert!(busy.body(SIZE - 10).await == FILE.0[10..]);
    stopping.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_its_turn() {
    let (serving, world) = serving(&settings(), None);
    let mut leaving = Raw::to(&serving).await;
    leaving.get("/file").await;
    leaving.head().await;
    drop(leaving);
    let mut client = Raw::to(&serving).await;
    client.get("/x").await;
    client.head().await;
    drop(client);
    world.all_closed().await;
}

/// A certificate for `localhost` and its key, made for these tests.
const PEM: &str = include_str!("localhost.pem");

fn certificate(directory: &std::path::Path) -> Arc<Certificate> {
    let path = directory.join("localhost.pem");
    std::fs::write(&path, PEM).unwrap();
    Certificate::read(path.clone(), path).unwrap()
}

async fn over_tls(serving: &Serving) -> Raw<tokio_rustls::client::TlsStream<TcpStream>> {
    use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(PEM.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let socket = TcpStream::connect(serving.addresses[0]).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    Raw(connector.connect(ServerName::try_from("localhost").unwrap(), socket).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_the_same_bytes_come() {
    let directory = tempfile::tempdir().unwrap();
    let (serving, world) = serving(&settings(), Some(certificate(directory.path()).server_config().unwrap()));
    let mut client = over_tls(&serving).await;
    assert_eq!(client.0.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    for path in ["/file", "/small", "/bytes", "/file"] {
        client.get(path).await;
        assert!(client.head().await.starts_with("http/1.1 200"));
        if path == "/small" {
            client.body(path.len()).await;
        } else {
            assert!(client.body(SIZE).await == FILE.0, "{path}");
        }
    }
    client.send("HEAD /file HTTP/1.1\r\nHost: x\r\n\r\nGET /x HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(client.head().await.contains(&format!("content-length: {SIZE}\r\n")));
    assert!(client.head().await.contains("content-length: 2\r\n"));
    client.body(2).await;

    client.get("/growing").await;
    client.head().await;
    let mut got = Vec::new();
    for readable in [1, 2, 70_000, 70_001, 3 << 20] {
        world.grow(Ok(readable));
        got.extend(client.body(readable as usize - got.len()).await);
    }
    assert!(got == FILE.0[..3 << 20]);
    world.grow(Err(Stopped("the digest does not match".into())));
    assert_eq!(client.rest().await, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_slow_clients_are_closed_too() {
    let directory = tempfile::tempdir().unwrap();
    let (serving, world) = serving(&hasty(), Some(certificate(directory.path()).server_config().unwrap()));
    let begun = Instant::now();
    let mut mute = Raw::to(&serving).await;
    let mut slow = Raw::to(&serving).await;
    slow.send([0x16, 0x03, 0x01]).await;
    assert_eq!(mute.rest().await, b"");
    assert_eq!(slow.rest().await, b"");
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    let mut stalled = over_tls(&serving).await;
    stalled.get("/file").await;
    world.called().await;
    world.all_closed().await;
    assert!(stalled.rest().await.len() < SIZE, "the stalled client was served to the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_on_a_tls_address_gets_a_400_that_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let (serving, world) = serving(&settings(), Some(certificate(directory.path()).server_config().unwrap()));
    let mut plain = Raw::to(&serving).await;
    let response = plain.ask("GET /v2/?token=s3cret", "").await;
    assert_eq!((response.status, response.code().as_str()), (400, "UNSUPPORTED"));
    let message = response.json()["errors"][0]["message"].to_string();
    assert!(message.contains("https://"), "{message}");
    assert_eq!(plain.rest().await, b"");
    assert!(world.metrics().contains(r#"http_requests_total{kind="other",method="GET",status="4xx"} 1"#));
    world.all_closed().await;
}

#[test]
fn a_certificate_is_replaced_only_by_one_that_can_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = certificate(directory.path());
    let path = directory.path().join("localhost.pem");
    assert_eq!(certificate.prepare().map(Prepared::install), Ok(()));
    for (broken, cause) in [("", "no certificate"), (&PEM[..800], "localhost.pem"), ("-----BEGIN", "localhost.pem")] {
        std::fs::write(&path, broken).unwrap();
        assert!(
            certificate.prepare().map(Prepared::install).unwrap_err().contains(cause),
            "{:?}",
            certificate.prepare().map(Prepared::install)
        );
    }
    std::fs::remove_file(&path).unwrap();
    assert!(certificate.prepare().map(Prepared::install).unwrap_err().contains("localhost.pem"));
    assert!(certificate.server_config().is_ok());
}
