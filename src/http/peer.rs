//! The other end of a connection.

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use crate::client::Client;

/// The other end of a connection, and the listener that it reached. A connection never leaves its worker.
pub(crate) struct Peer {
    /// The address of the socket, unless the client was gone before it could be read.
    pub(crate) address: Option<SocketAddr>,
    /// Whether `GET /v2/` on this listener asks for a password.
    pub(crate) login: bool,
    /// The client that the address stands for, once a request has asked for it.
    pub(crate) client: RefCell<Option<Arc<Client>>>,
}

impl Peer {
    pub(crate) fn new(address: Option<SocketAddr>, login: bool) -> Peer {
        Peer { address, login, client: RefCell::new(None) }
    }

    /// The address without its port; the unspecified one when it is not known.
    pub(crate) fn ip(&self) -> IpAddr {
        self.address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip())
    }
}
