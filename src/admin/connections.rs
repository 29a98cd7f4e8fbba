//! The connections of the admin listener, shared out by client: a new one is always taken, and an old one of the client that has most gives way.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Shutdown},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use socket2::Socket;
use tokio::net::TcpStream;

use crate::limits::address::key_address;

/// Connections at once: a few people, a few probes, one scraper.
pub(super) const CAPACITY: usize = 256;
/// Connections of one client (an IPv4 address, an IPv6 /64).
const PER_CLIENT: usize = 32;

/// The open connections, oldest first.
#[derive(Clone, Default)]
pub(super) struct Connections(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    by_client: HashMap<IpAddr, VecDeque<(u64, Socket)>>,
    count: usize,
    next: u64,
}

/// An open connection, until this is dropped with it.
pub(super) struct ConnectionSlot {
    connections: Connections,
    client: IpAddr,
    number: u64,
}

impl Connections {
    /// Counts a connection that has just been accepted, and closes another one when there are too many now. A trusted proxy stands for many
    /// clients: it has no share of its own, only the capacity of all.
    pub(super) fn enter(&self, socket: &TcpStream, is_proxy: bool) -> Option<ConnectionSlot> {
        let client = key_address(socket.peer_addr().ok()?.ip());
        let handle = socket2::SockRef::from(socket).try_clone().ok()?;
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        open.count += 1;
        let own = open.by_client.entry(client).or_default();
        own.push_back((number, handle));
        if own.len() > PER_CLIENT && !is_proxy {
            open.close_oldest(client);
        } else if open.count > CAPACITY {
            let largest = open.by_client.iter().max_by_key(|(_, sockets)| sockets.len()).map(|(client, _)| *client);
            largest.into_iter().for_each(|client| open.close_oldest(client));
        }
        drop(open);
        Some(ConnectionSlot { connections: self.clone(), client, number })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Its task reads the end of the connection and finishes.
    fn close_oldest(&mut self, client: IpAddr) {
        let oldest = self.by_client.get_mut(&client).and_then(VecDeque::pop_front);
        if let Some((_, socket)) = oldest {
            // It fails when the client was faster.
            let _ = socket.shutdown(Shutdown::Both);
            self.count -= 1;
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        let Some(own) = open.by_client.get_mut(&self.client) else { return };
        let before = own.len();
        own.retain(|(number, _)| *number != self.number);
        let (closed, is_empty) = (before - own.len(), own.is_empty());
        open.count -= closed;
        if is_empty {
            open.by_client.remove(&self.client);
        }
    }
}
