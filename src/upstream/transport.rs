//! One HTTP request to one host: bounded, timed, never redirected, never with a credential that the caller did not give.

use std::{
    error::Error as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use reqwest::{
    Client, Response, StatusCode,
    header::{ACCEPT_ENCODING, HeaderMap, HeaderValue},
    redirect,
};

use super::{
    address::{Policy, Refused},
    breaker::BreakerPermit,
    concurrency::{ConcurrencyLimiter, Lane, Permits},
    error::Error,
    proxy::{self, Proxies},
    settings::Settings,
    tls::{self, Certificates},
};

/// Connections that no request uses are closed after this, sooner than most servers do it (which would look like a failure to us).
const POOL_IDLE: Duration = Duration::from_secs(50);
/// How often an HTTP/2 connection with requests is tested, and how long its answer may take.
const HTTP2_PING: Duration = Duration::from_secs(5);
/// What is read of a body only to keep the connection: bytes, and how long.
const DRAIN_BYTES: u64 = 64 * 1024;
const DRAIN_TIME: Duration = Duration::from_millis(500);
/// Of a hundred requests ten may be repeated; and so many at once after a quiet time.
const RETRY_SHARE: f64 = 0.1;
const RETRY_BURST: f64 = 10.0;

pub(crate) struct Transport {
    /// Another one after the files of its certificates changed.
    client: ArcSwap<Client>,
    certificates: Mutex<Certificates>,
    settings: Settings,
    policy: Policy,
    pub(crate) proxies: Arc<Proxies>,
    pub(crate) limiter: ConcurrencyLimiter,
    first_byte: Duration,
    connect: Duration,
    pub(crate) idle: Duration,
    /// Bytes a second, below which over `idle` a blob's body is given up.
    pub(crate) least_rate: u64,
    // Held for a line, never across an await.
    retries: Mutex<f64>,
}

/// An answer whose headers are here.
pub(crate) struct Received {
    pub(crate) response: Response,
    pub(crate) permits: Permits,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum TransportError {
    /// Not asked, and not upstream's doing: the breaker, the queue, or a place where we do not go.
    Rejected(Error),
    /// No connection: not a byte of the request left.
    NotSent(Arc<str>),
    /// It was sent, or may have been, and the connection broke.
    Broken(Arc<str>),
    /// It was sent, and nothing came in time.
    TimedOut(Arc<str>),
}

impl Transport {
    pub(crate) fn new(settings: &Settings) -> Result<Transport, String> {
        tls::install_provider();
        let proxies = Proxies::new(&settings.proxy, |name| std::env::var(name).ok().filter(|value| !value.is_empty()));
        let proxies = Arc::new(proxies.map_err(|fix| format!("upstream {}: proxy: {fix}", settings.name))?);
        match proxies.of(&settings.url).map(proxy::shown) {
            Some(proxy) => tracing::info!(upstream = %settings.name, proxy, "asked through a proxy"),
            None => tracing::info!(upstream = %settings.name, "asked directly"),
        }
        let policy = Policy::new(&settings.url, settings.ipv4_only, proxies.clone());
        let certificates = certificates(settings)?;
        let client = client(settings, &certificates, &policy, &proxies)?;
        Ok(Transport {
            client: ArcSwap::from_pointee(client),
            certificates: Mutex::new(certificates),
            settings: settings.clone(),
            policy,
            proxies,
            limiter: ConcurrencyLimiter::new(settings.concurrency, settings.queue),
            first_byte: settings.first_byte_timeout,
            connect: settings.connect_timeout,
            idle: settings.idle_timeout,
            least_rate: settings.least_rate.0,
            retries: Mutex::new(RETRY_BURST),
        })
    }

    /// Reads the files of its certificates again, and gives what puts them in force; `None` when they are as they were.
    ///
    /// # Errors
    /// As [`Transport::new`].
    pub(crate) fn prepare(self: &Arc<Self>) -> Result<Option<Renewed>, String> {
        let fresh = certificates(&self.settings)?;
        if fresh == *self.certificates.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(None);
        }
        let client = client(&self.settings, &fresh, &self.policy, &self.proxies)?;
        Ok(Some(Renewed { transport: self.clone(), client, certificates: fresh }))
    }

    /// Sends, and waits for the headers. `sending` is called when every wait before that is over.
    ///
    /// A reply of 429 or 5xx keeps its opening permit until the caller drops it: the breaker opens only when the body has been read,
    /// and until then no other request takes its place.
    pub(crate) async fn send(
        &self,
        permit: &BreakerPermit,
        request: reqwest::Request,
        lane: Lane,
        sending: impl FnOnce(),
    ) -> Result<Received, TransportError> {
        let url = request.url().clone();
        if !self.policy.admits(&url) {
            return Err(TransportError::Rejected(Error::Malformed("an address where we do not go".into())));
        }
        // A body waits for other bodies, which last; a short request waits as long as it would wait for its answer.
        let patience = match lane {
            Lane::Short => self.first_byte,
            Lane::Body => self.first_byte * 4,
        };
        let permits = self.limiter.take(url.host_str().unwrap_or_default(), lane, patience).await;
        let mut permits = permits.map_err(TransportError::Rejected)?;
        permit.still(Instant::now()).map_err(TransportError::Rejected)?;
        self.deposit();
        sending();
        let sent = self.client.load().execute(request);
        let outcome = tokio::time::timeout(self.connect + self.first_byte, sent).await;
        match outcome {
            Ok(Ok(response)) => {
                if !is_overload(response.status()) {
                    permits.opened();
                    self.limiter.grow();
                }
                Ok(Received { response, permits })
            }
            Ok(Err(error)) => {
                self.limiter.shrink();
                if refused(&error) {
                    return Err(TransportError::Rejected(Error::Malformed("an address where we do not go".into())));
                }
                let text = match self.proxies.of(&url).map(proxy::shown) {
                    Some(proxy) => format!("{} (through {proxy})", cause(&error)),
                    None => cause(&error),
                };
                match error.is_connect() {
                    true => Err(TransportError::NotSent(format!("it cannot be connected to: {text}").into())),
                    false => Err(TransportError::Broken(format!("the connection broke: {text}").into())),
                }
            }
            Err(_) => {
                self.limiter.shrink();
                Err(TransportError::TimedOut("it does not answer in time".into()))
            }
        }
    }

    /// Reads what little body a redirect or a 401 has, so that the connection can be used again: a new one costs a TLS handshake.
    pub(crate) async fn finish(&self, mut received: Received) {
        if received.response.content_length().is_some_and(|length| length <= DRAIN_BYTES) {
            let rest = async { while let Ok(Some(_)) = received.response.chunk().await {} };
            let _ = tokio::time::timeout(DRAIN_TIME, rest).await;
        }
    }

    /// Whether one more repetition is within the budget.
    pub(crate) fn may_retry(&self) -> bool {
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        let may = *retries >= 1.0;
        if may {
            *retries -= 1.0;
        }
        may
    }

    fn deposit(&self) {
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        *retries = (*retries + RETRY_SHARE).min(RETRY_BURST);
    }

    /// The body of a short answer, whole.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it is longer than `most` bytes, [`Error::Unavailable`] when it does not come whole and in time.
    pub(crate) async fn body(&self, response: &mut Response, most: usize) -> Result<Bytes, Error> {
        let long = || Error::Malformed("a body that is too long".into());
        if response.content_length().is_some_and(|length| length > most as u64) {
            return Err(long());
        }
        let read = async {
            let mut body = BytesMut::new();
            while let Some(piece) = self.piece(response).await? {
                if body.len() + piece.len() > most {
                    return Err(long());
                }
                body.extend_from_slice(&piece);
            }
            Ok(body.freeze())
        };
        // No upstream may keep us by a byte now and then: what is short is all here within two idle time-outs.
        let late = || Error::Unavailable { reason: "its answer does not end in time".into(), retry_after: None };
        tokio::time::timeout(self.idle * 2, read).await.unwrap_or_else(|_| Err(late()))
    }

    /// The next piece of a body, or its end.
    pub(crate) async fn piece(&self, response: &mut Response) -> Result<Option<Bytes>, Error> {
        let broken = |reason: String| Error::Unavailable { reason: reason.into(), retry_after: None };
        match tokio::time::timeout(self.idle, response.chunk()).await {
            Ok(Ok(piece)) => Ok(piece),
            Ok(Err(error)) => Err(broken(format!("its answer broke off: {}", cause(&error)))),
            Err(_) => Err(broken("its answer stalled".into())),
        }
    }
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

/// Certificates that were read again, and are not in force yet.
pub struct Renewed {
    transport: Arc<Transport>,
    client: Client,
    certificates: Certificates,
}

impl Renewed {
    /// From now on new connections use them.
    pub fn install(self) {
        self.transport.client.store(Arc::new(self.client));
        *self.transport.certificates.lock().unwrap_or_else(PoisonError::into_inner) = self.certificates;
    }
}

impl std::fmt::Debug for Renewed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renewed").finish_non_exhaustive()
    }
}

fn certificates(settings: &Settings) -> Result<Certificates, String> {
    settings.certificates(&format!("upstream {}", settings.name)).map_err(|error| error.to_string())
}

fn client(
    settings: &Settings,
    certificates: &Certificates,
    policy: &Policy,
    proxies: &Arc<Proxies>,
) -> Result<Client, String> {
    let mut defaults = HeaderMap::new();
    // Some registries compress blobs for those who allow it, and what is compressed has another digest (quay/quay#1310).
    defaults.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let builder = || {
        let builder = Client::builder()
            .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
            .default_headers(defaults.clone())
            .redirect(redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .proxy(way_out(proxies.clone()))
            .dns_resolver(Arc::new(policy.clone()))
            .connect_timeout(settings.connect_timeout)
            .tcp_nodelay(true)
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(settings.concurrency);
        let builder = match settings.http2 {
            // All requests to a host share one connection: one that is dead must not take those that follow.
            true => builder.http2_keep_alive_interval(HTTP2_PING).http2_keep_alive_timeout(HTTP2_PING),
            false => builder.http1_only(),
        };
        let builder = match &certificates.identity {
            Some(identity) => builder.identity(identity.clone()),
            None => builder,
        };
        match settings.ipv4_only {
            true => builder.local_address(Some(std::net::Ipv4Addr::UNSPECIFIED.into())),
            false => builder,
        }
    };
    let roots = || certificates.roots.iter().cloned();
    let built = match builder().tls_certs_merge(roots()).build() {
        // A machine without any root certificates can still mirror a registry that is asked without TLS.
        Err(_) if settings.url.scheme() == "http" => builder().tls_certs_only(roots()).build(),
        built => built,
    };
    built.map_err(|error| format!("upstream {}: {}", settings.name, cause(&error)))
}

/// One function decides for each address, so that what is logged is what is done.
pub(crate) fn way_out(proxies: Arc<Proxies>) -> reqwest::Proxy {
    reqwest::Proxy::custom(move |url| proxies.of(url).cloned())
}

/// The innermost cause in words. The outer ones would repeat the address, whose query may be a signature.
pub(crate) fn cause(error: &reqwest::Error) -> String {
    let mut innermost: Option<&(dyn std::error::Error + 'static)> = error.source();
    while let Some(deeper) = innermost.and_then(std::error::Error::source) {
        innermost = Some(deeper);
    }
    innermost.map_or_else(|| "no reason is given".to_owned(), ToString::to_string)
}

/// Whether upstream may want fewer requests.
fn is_overload(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

fn refused(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = error.source();
    while let Some(error) = cause {
        if error.is::<Refused>() {
            return true;
        }
        cause = error.source();
    }
    false
}
