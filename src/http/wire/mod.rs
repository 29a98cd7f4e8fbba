//! Sockets, TLS, and the bytes of HTTP/1.1 below actix-http: all that leans on how actix-http works inside.

pub(super) mod body_length;
pub(super) mod connection;
pub(super) mod connection_limit;
pub(super) mod head_end;
pub(super) mod protocol_error;
pub(super) mod sendfile;
pub(super) mod server;
pub(super) mod stream;
pub(super) mod tls;
