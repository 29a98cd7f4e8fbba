//! Sends spans to a collector: a bounded queue, and a thread that speaks the least HTTP/1.1 that does.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls_platform_verifier::BuilderVerifierExt as _;

use super::{
    otlp::{self, FinishedSpan},
    settings::Settings,
};

/// How often a batch is sent at most, and how long it waits before each repetition.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes of an answer that are read; all that counts is its first line.
const LONGEST_ANSWER: u64 = 64 << 10;
/// How often it is said at most that spans are lost.
const COMPLAIN: Duration = Duration::from_secs(60);

/// Takes spans that have ended. Cloning shares it.
#[derive(Clone, Debug)]
pub(in crate::telemetry) struct Exporter {
    spans: SyncSender<Message>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    lost: AtomicU64,
}

#[derive(Debug)]
enum Message {
    Span(Box<FinishedSpan>),
    Flush(SyncSender<()>),
}

impl Exporter {
    /// Sends what comes, on a thread of its own.
    ///
    /// # Errors
    /// Certificates that cannot be read; when no thread can be started.
    pub(in crate::telemetry) fn start(settings: Settings) -> Result<Exporter, String> {
        let (spans, received) = sync_channel(settings.queue);
        let exporter = Exporter { spans, counts: Arc::default() };
        let tls = match settings.endpoint.scheme() {
            "https" => Some(tls(&settings)?),
            _ => None,
        };
        let sender = Sender { settings, tls, counts: exporter.counts.clone(), said: None };
        let thread = thread::Builder::new().name("traces".to_owned()).spawn(move || sender.run(&received));
        thread.map(|_| exporter).map_err(|error| format!("cannot start a thread: {error}"))
    }

    pub(super) fn take(&self, span: FinishedSpan) {
        if self.spans.try_send(Message::Span(Box::new(span))).is_err() {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was taken so far is sent, or for as long as `patience`.
    pub(in crate::telemetry) fn flush(&self, patience: Duration) {
        let (done, is_done) = sync_channel(1);
        // A queue that is full is one that the collector does not empty.
        if self.spans.try_send(Message::Flush(done)).is_ok() {
            let _ = is_done.recv_timeout(patience);
        }
    }

    /// Spans that were sent and that were lost, since the start.
    pub(in crate::telemetry) fn counts(&self) -> (u64, u64) {
        (self.counts.sent.load(Ordering::Relaxed), self.counts.lost.load(Ordering::Relaxed))
    }
}

/// The thread's side.
struct Sender {
    settings: Settings,
    tls: Option<Arc<ClientConfig>>,
    counts: Arc<Counts>,
    /// When it was last said that spans are lost.
    said: Option<Instant>,
}

impl Sender {
    fn run(mut self, received: &Receiver<Message>) {
        let (mut batch, mut flushed) = (Vec::new(), Vec::new());
        while let Ok(message) = received.recv() {
            let due = Instant::now() + self.settings.delay;
            let mut next = Some(message);
            while let Some(message) = next.take() {
                match message {
                    Message::Span(span) => batch.push(*span),
                    Message::Flush(done) => flushed.push(done),
                }
                let wait =
                    if flushed.is_empty() { due.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
                if batch.len() < self.settings.batch {
                    next = received.recv_timeout(wait).ok();
                }
            }
            self.send(&batch);
            batch.clear();
            for done in flushed.drain(..) {
                let _: Result<(), _> = done.try_send(());
            }
        }
    }

    fn send(&mut self, spans: &[FinishedSpan]) {
        if spans.is_empty() {
            return;
        }
        let (body, count) = (otlp::request(&self.settings.resource, spans), spans.len() as u64);
        let mut problem = String::new();
        for attempt in 0..TRIES {
            if attempt > 0 {
                thread::sleep(PAUSE * attempt);
            }
            problem = match self.post(&body) {
                Ok(200..=299) => {
                    self.counts.sent.fetch_add(count, Ordering::Relaxed);
                    return;
                }
                // What may be repeated, by the OTLP specification.
                Ok(status @ (429 | 502 | 503 | 504)) => format!("the collector answers {status}"),
                Ok(status) => {
                    problem = format!("the collector answers {status}");
                    break;
                }
                Err(error) => error.to_string(),
            };
        }
        self.counts.lost.fetch_add(count, Ordering::Relaxed);
        if self.said.is_none_or(|said| said.elapsed() >= COMPLAIN) {
            self.said = Some(Instant::now());
            let host = self.settings.endpoint.host_str().unwrap_or_default();
            tracing::warn!(host, problem, "spans of traces are lost");
        }
    }

    /// The status of the answer.
    fn post(&self, body: &[u8]) -> io::Result<u16> {
        let endpoint = &self.settings.endpoint;
        let (host, port) = (endpoint.host_str().unwrap_or_default(), endpoint.port_or_known_default().unwrap_or(80));
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let address = (name, port).to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let socket = TcpStream::connect_timeout(&address, self.settings.timeout)?;
        socket.set_read_timeout(Some(self.settings.timeout))?;
        socket.set_write_timeout(Some(self.settings.timeout))?;
        let mut head = format!(
            "POST {} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/x-protobuf\r\nContent-Length: {}\r\n\
             User-Agent: weir/{}\r\nConnection: close\r\n",
            &endpoint[url::Position::BeforePath..url::Position::AfterQuery],
            body.len(),
            env!("CARGO_PKG_VERSION")
        );
        for (name, value) in &self.settings.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let request = [head.as_bytes(), b"\r\n", body].concat();
        match &self.tls {
            None => exchange(socket, &request),
            Some(tls) => {
                let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
                let connection = ClientConnection::new(tls.clone(), name).map_err(io::Error::other)?;
                exchange(StreamOwned::new(connection, socket), &request)
            }
        }
    }
}

fn exchange(mut stream: impl Read + Write, request: &[u8]) -> io::Result<u16> {
    stream.write_all(request)?;
    stream.flush()?;
    let mut answer = Vec::new();
    let read = stream.take(LONGEST_ANSWER).read_to_end(&mut answer);
    let status =
        answer.strip_prefix(b"HTTP/1.").and_then(|rest| std::str::from_utf8(rest.get(2..5)?).ok()?.parse().ok());
    match (status, read) {
        (Some(status), _) => Ok(status),
        (None, Err(error)) => Err(error),
        (None, Ok(_)) => Err(io::Error::other("the collector does not speak HTTP/1.1")),
    }
}

fn tls(settings: &Settings) -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let config = match &settings.certificate {
        None => builder.with_platform_verifier().map_err(|error| error.to_string())?.with_no_client_auth(),
        Some(path) => {
            let wrong = |error: String| format!("OTEL_EXPORTER_OTLP_CERTIFICATE={}: {error}", path.display());
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))? {
                let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    };
    Ok(Arc::new(config))
}
