//! The least of an HTTP client: one connection, one request at a time, and a failure is a word.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// What came back.
pub(super) struct Response {
    pub(super) status: u16,
    head: String,
    pub(super) body: Vec<u8>,
}

impl Response {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// A connection.
pub(super) struct Connection(TcpStream);

impl Connection {
    pub(super) fn to(address: SocketAddr) -> Result<Connection, String> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).map_err(|error| error.to_string())?;
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
        Ok(Connection(stream))
    }

    /// Sends and reads to the end. The path may be a whole URL, as some registries put it into `Location`.
    pub(super) fn ask(&mut self, method: &str, target: &str, headers: &str, body: &[u8]) -> Result<Response, String> {
        let path = match target.split_once("://") {
            Some((_, rest)) => &rest[rest.find('/').unwrap_or(rest.len())..],
            None => target,
        };
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{headers}\r\n");
        let sent = self.0.write_all(head.as_bytes()).and_then(|()| self.0.write_all(body));
        sent.map_err(|error| error.to_string())?;
        self.answer(method)
    }

    fn answer(&mut self, method: &str) -> Result<Response, String> {
        let mut bytes = Vec::new();
        let mut piece = vec![0; 64 << 10];
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            match self.0.read(&mut piece).map_err(|error| error.to_string())? {
                0 => return Err("closed".into()),
                count => bytes.extend_from_slice(&piece[..count]),
            }
        };
        let body = bytes.split_off(end);
        let head = String::from_utf8_lossy(&bytes).into_owned();
        let status = head.get(9..12).and_then(|status| status.parse().ok()).ok_or("no status")?;
        let mut answer = Response { status, head, body };
        let length: usize = answer.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        while method != "HEAD" && answer.body.len() < length {
            match self.0.read(&mut piece).map_err(|error| error.to_string())? {
                0 => return Err("closed in a body".into()),
                count => answer.body.extend_from_slice(&piece[..count]),
            }
        }
        Ok(answer)
    }
}
