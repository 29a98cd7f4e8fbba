//! How many connections each client has open, so that no client has them all.
//!
//! Connections are counted when they are accepted, before a byte is read: whoever holds them says nothing, which is all it takes to
//! keep others out. The peer's address is what is known then, and a trusted proxy, which is many clients, is let in whatever it holds.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{client::ClientKey, http::metrics::Metrics, limits::address};

/// Between two lines in the log about clients that are turned away.
const TELL: Duration = Duration::from_secs(10);

/// Whose connections are not counted.
pub(crate) type Exempt = Box<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// The connections of all workers by the client that holds them. There are never more entries than connections.
pub(crate) struct ConnectionLimit {
    most: usize,
    exempt: Exempt,
    metrics: Metrics,
    inside: Mutex<OpenConnections>,
}

#[derive(Default)]
struct OpenConnections {
    open: HashMap<IpAddr, usize>,
    /// When somebody was turned away and it was said last, and how many of all clients since.
    told: Option<Instant>,
    untold: u64,
}

impl ConnectionLimit {
    /// Lets each client in `most` times at once.
    pub(crate) fn new(most: usize, exempt: Exempt, metrics: Metrics) -> Arc<ConnectionLimit> {
        Arc::new(ConnectionLimit { most, exempt, metrics, inside: Mutex::default() })
    }

    /// A place for one more connection of this peer, or `None` when its client has all that it may have.
    pub(crate) fn enter(self: &Arc<ConnectionLimit>, peer: IpAddr) -> Option<ConnectionSlot> {
        let client = address::key_address(peer);
        if (self.exempt)(peer) {
            return Some(ConnectionSlot { crowd: self.clone(), client: None });
        }
        let mut inside = self.inside();
        let open = inside.open.entry(client).or_default();
        if *open < self.most {
            *open += 1;
            return Some(ConnectionSlot { crowd: self.clone(), client: Some(client) });
        }
        self.metrics.turned_away();
        inside.untold += 1;
        if inside.told.is_none_or(|told| told.elapsed() >= TELL) {
            inside.told = Some(Instant::now());
            let turned_away_in_all = std::mem::take(&mut inside.untold);
            drop(inside);
            tracing::warn!(
                target: "weir::http",
                client = %ClientKey::Address(client),
                open = self.most,
                turned_away_in_all,
                "a client has server.connections_per_client connections open and gets no more"
            );
        }
        None
    }

    fn inside(&self) -> MutexGuard<'_, OpenConnections> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's place, until it is dropped.
pub(crate) struct ConnectionSlot {
    crowd: Arc<ConnectionLimit>,
    client: Option<IpAddr>,
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let Some(client) = self.client else { return };
        let mut inside = self.crowd.inside();
        if let Some(open) = inside.open.get_mut(&client) {
            *open -= 1;
            if *open == 0 {
                inside.open.remove(&client);
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
            let crowd = ConnectionLimit::new(0, Box::new(|_| false), Metrics::new());
            let enter = |peer: &str| assert!(crowd.enter(peer.parse().unwrap()).is_none());
            for _ in 0..3 {
                enter("192.0.2.1");
            }
            crowd.inside().told = None;
            enter("192.0.2.2");
        });
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let told = lines.iter().map(|line| (&line["fields"]["client"], &line["fields"]["turned_away_in_all"]));
        let [first, second] = [("192.0.2.1".into(), 1.into()), ("192.0.2.2".into(), 3.into())];
        assert_eq!(told.collect::<Vec<_>>(), [(&first.0, &first.1), (&second.0, &second.1)], "{text}");
    }

    #[test]
    fn each_client_has_its_own_places_and_a_network_of_ipv6_is_one() {
        let proxy: IpAddr = "10.0.0.1".parse().unwrap();
        let crowd = ConnectionLimit::new(2, Box::new(move |peer| peer == proxy), Metrics::new());
        let enter = |peer: &str| crowd.enter(peer.parse().unwrap());
        let first = [enter("192.0.2.1"), enter("::ffff:192.0.2.1")];
        assert!(first.iter().all(Option::is_some) && enter("192.0.2.1").is_none());
        let second = [enter("2001:db8::1"), enter("2001:db8::2")];
        assert!(second.iter().all(Option::is_some) && enter("2001:db8::3").is_none());
        assert!(enter("2001:db8:0:1::1").is_some() && enter("192.0.2.2").is_some());
        let many: Vec<_> = (0..10).map(|_| enter("10.0.0.1")).collect();
        assert!(many.iter().all(Option::is_some));
        drop((first, second));
        assert!(enter("192.0.2.1").is_some());
        assert!(crowd.inside().open.is_empty(), "an address is remembered that holds nothing");
    }
}
