//! How many connections there are, and how many of each client, so that no client has them all.
//!
//! Connections are counted when they are accepted, before a byte is read: a client that holds them says nothing, which is all it
//! takes to keep others out. The peer's address is what is known then. A trusted proxy, which is many clients, is let in whatever
//! it holds. When nearly all connections are taken, the client with the most gives up the one that has been idle for longest; when none is
//! idle, the one whose request has lasted longest is cut, if its client has more than twice as many as the client that comes. So clients
//! whose bodies are slow, which nothing else ends, keep none out that has few.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Context,
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;

use crate::{client::ClientKey, http::metrics::Metrics, limits::address};

/// Between two lines in the log about clients that are turned away.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Whose connections are not counted.
pub(crate) type Exempt = Box<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// The connections of all workers by the client that holds them. There are never more entries than connections.
pub(crate) struct ConnectionLimit {
    total: usize,
    per_client: usize,
    exempt: Exempt,
    metrics: Metrics,
    open: Mutex<OpenConnections>,
}

#[derive(Default)]
struct OpenConnections {
    clients: HashMap<IpAddr, Vec<Arc<Usage>>>,
    count: usize,
    /// When a client was turned away and it was logged last, and how many of all clients since.
    logged: Option<Instant>,
    unlogged: u64,
}

/// What a connection is used for.
#[derive(Default)]
struct Usage {
    /// Milliseconds from [`START`] to when it became idle, and one; 0 while it is not.
    idle_since: AtomicU64,
    /// As much to when its request began; 0 before its first one.
    busy_since: AtomicU64,
    /// A trusted proxy's, where each connection may be another client's.
    is_exempt: bool,
    closing: AtomicBool,
    waker: AtomicWaker,
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since [`START`], and one.
fn now() -> u64 {
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
}

impl Usage {
    fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl ConnectionLimit {
    /// Lets each client in `per_client` times at once, and makes room when there are more than `total`.
    pub(crate) fn new(total: usize, per_client: usize, exempt: Exempt, metrics: Metrics) -> Arc<ConnectionLimit> {
        Arc::new(ConnectionLimit { total, per_client, exempt, metrics, open: Mutex::default() })
    }

    /// A slot for one more connection of this peer, or `None` when its client has all that it may have.
    pub(crate) fn enter(self: &Arc<ConnectionLimit>, peer: IpAddr) -> Option<ConnectionSlot> {
        let client = address::key_address(peer);
        let is_exempt = (self.exempt)(peer);
        let mut open = self.open();
        let held = open.clients.get(&client).map_or(0, Vec::len);
        if !is_exempt && held >= self.per_client {
            self.turn_away(open, client);
            return None;
        }
        let usage = Arc::new(Usage { is_exempt, ..Usage::default() });
        open.clients.entry(client).or_default().push(usage.clone());
        open.count += 1;
        if open.count > self.total {
            open.make_room(held + 1);
        }
        Some(ConnectionSlot { limit: self.clone(), client, usage })
    }

    fn turn_away(&self, mut open: MutexGuard<'_, OpenConnections>, client: IpAddr) {
        self.metrics.turned_away();
        open.unlogged += 1;
        if open.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
            open.logged = Some(Instant::now());
            let turned_away_in_all = std::mem::take(&mut open.unlogged);
            drop(open);
            tracing::warn!(
                target: "weir::http",
                client = %ClientKey::Address(client),
                open = self.per_client,
                turned_away_in_all,
                "a client has server.connections_per_client connections open and gets no more"
            );
        }
    }

    fn open(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenConnections {
    /// Closes the connection that has been idle for longest, of the client that has the most of those that have an idle one; when there is
    /// none, that whose request has lasted longest, of the client with most, for one that has so many itself.
    fn make_room(&self, own: usize) {
        let oldest = |open: &Vec<Arc<Usage>>| {
            let idle = open.iter().filter(|usage| !usage.closing.load(Ordering::Relaxed));
            let idle = idle.map(|usage| (usage.idle_since.load(Ordering::Relaxed), usage));
            idle.filter(|(since, _)| *since > 0).min_by_key(|(since, _)| *since).map(|(_, usage)| usage.clone())
        };
        // Nearly always the client with the most has one, so that a new connection costs little however many there are.
        let mut bound = usize::MAX;
        while let Some(held) = self.clients.values().map(Vec::len).filter(|held| *held < bound).max() {
            if let Some(usage) = self.clients.values().filter(|open| open.len() == held).find_map(oldest) {
                usage.close();
                return;
            }
            bound = held;
        }
        let busy = |open: &Vec<Arc<Usage>>| {
            let busy = open.iter().filter(|usage| !usage.is_exempt && !usage.closing.load(Ordering::Relaxed));
            let busy = busy.map(|usage| (usage.busy_since.load(Ordering::Relaxed), usage));
            busy.filter(|(since, _)| *since > 0).min_by_key(|(since, _)| *since).map(|(_, usage)| usage.clone())
        };
        let many = self.clients.values().filter(|open| open.len() > 2 * own);
        if let Some(usage) = many.max_by_key(|open| open.len()).and_then(busy) {
            usage.close();
        }
    }
}

/// One connection's slot, until it is dropped.
pub(crate) struct ConnectionSlot {
    limit: Arc<ConnectionLimit>,
    client: IpAddr,
    usage: Arc<Usage>,
}

impl ConnectionSlot {
    /// The connection waits for a request. Whether it is to be closed instead; else the waker is called when it is.
    pub(super) fn idle(&self, cx: &Context<'_>) -> bool {
        if self.usage.idle_since.load(Ordering::Relaxed) == 0 {
            self.usage.idle_since.store(now(), Ordering::Relaxed);
        }
        self.usage.waker.register(cx.waker());
        self.usage.closing.load(Ordering::Acquire)
    }

    /// Bytes of a request have come. The waker is called when the connection is to be closed.
    pub(super) fn busy(&self, cx: &Context<'_>) {
        let is_first = self.usage.busy_since.load(Ordering::Relaxed) == 0;
        if self.usage.idle_since.swap(0, Ordering::Relaxed) > 0 || is_first {
            self.usage.busy_since.store(now(), Ordering::Relaxed);
            self.usage.waker.register(cx.waker());
        }
    }

    /// Whether the connection is to be closed, whatever it does.
    pub(super) fn is_closing(&self) -> bool {
        self.usage.closing.load(Ordering::Acquire)
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut open = self.limit.open();
        open.count -= 1;
        if let Some(held) = open.clients.get_mut(&self.client) {
            held.retain(|usage| !Arc::ptr_eq(usage, &self.usage));
            if held.is_empty() {
                open.clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::logged;

    #[test]
    fn a_line_names_one_client_and_says_that_it_counts_all_of_them() {
        let text = logged(|| {
            let limit = ConnectionLimit::new(10, 0, Box::new(|_| false), Metrics::new());
            let enter = |peer: &str| assert!(limit.enter(peer.parse().unwrap()).is_none());
            for _ in 0..3 {
                enter("192.0.2.1");
            }
            limit.open().logged = None;
            enter("192.0.2.2");
        });
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let turned_away = lines.iter().map(|line| (&line["fields"]["client"], &line["fields"]["turned_away_in_all"]));
        let [first, second] = [("192.0.2.1".into(), 1.into()), ("192.0.2.2".into(), 3.into())];
        assert_eq!(turned_away.collect::<Vec<_>>(), [(&first.0, &first.1), (&second.0, &second.1)], "{text}");
    }

    #[test]
    fn each_client_has_its_own_places_and_a_network_of_ipv6_is_one() {
        let proxy: IpAddr = "10.0.0.1".parse().unwrap();
        let limit = ConnectionLimit::new(100, 2, Box::new(move |peer| peer == proxy), Metrics::new());
        let enter = |peer: &str| limit.enter(peer.parse().unwrap());
        let first = [enter("192.0.2.1"), enter("::ffff:192.0.2.1")];
        assert!(first.iter().all(Option::is_some) && enter("192.0.2.1").is_none());
        let second = [enter("2001:db8::1"), enter("2001:db8::2")];
        assert!(second.iter().all(Option::is_some) && enter("2001:db8::3").is_none());
        assert!(enter("2001:db8:0:1::1").is_some() && enter("192.0.2.2").is_some());
        let many: Vec<_> = (0..10).map(|_| enter("10.0.0.1")).collect();
        assert!(many.iter().all(Option::is_some));
        drop((first, second, many));
        assert!(enter("192.0.2.1").is_some());
        assert!(limit.open().clients.is_empty(), "an address is remembered that holds nothing");
    }

    #[test]
    fn of_the_clients_that_have_an_idle_connection_the_one_with_most_gives_it_up() {
        let limit = ConnectionLimit::new(6, 6, Box::new(|_| false), Metrics::new());
        let enter = |client: u8| limit.enter(IpAddr::from([192, 0, 2, client])).unwrap();
        let open = [1, 1, 1, 2, 2, 3].map(enter);
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        // The first client has the most, and all of its connections are in use.
        assert!(open[3..].iter().all(|slot| !slot.idle(cx)));
        let _new = enter(4);
        let is_closing = open.each_ref().map(|slot| slot.usage.closing.load(Ordering::Relaxed));
        assert_eq!(is_closing[..3], [false; 3]);
        assert!(is_closing[3] != is_closing[4] && !is_closing[5], "{is_closing:?}");
    }
}
