//! Sockets, TLS, and the bytes of HTTP/1.1 below actix-http: all that leans on how actix-http works inside.

mod body_length;
mod connection;
mod connection_limit;
mod head_end;
mod protocol_error;
mod sendfile;
mod server;
mod stall_timer;
mod state;
mod stream;
mod tls;

pub(crate) use self::{
    body_length::BodyLength,
    protocol_error::{ProtocolError, Refuse},
    sendfile::Transfer,
    server::start,
    state::ConnectionState,
};
pub use self::{
    server::{Listener, Serving},
    tls::{Certificate, Prepared},
};
