//! HTTP/1.1 as bytes: reads requests, bounded; faults need raw answers, so no framework stands between.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const HEAD: usize = 64 << 10;
const HEADERS: usize = 100;
const BODY: usize = 1 << 20;
/// How long a connection may be idle, and how long a request may take to arrive.
const IDLE: Duration = Duration::from_secs(90);

/// A request, whole.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// As sent: path and query.
    pub(super) target: String,
    /// In order, names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
    pub(super) keep_alive: bool,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The pairs of the query, decoded.
    pub(super) fn query(&self) -> Vec<(String, String)> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
    }

    /// The first value of that name in the query.
    pub(super) fn asks(&self, name: &str) -> Option<String> {
        self.query().into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }
}

/// One connection of a client.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
    pub(super) peer: SocketAddr,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, peer: SocketAddr) -> Connection {
        // Only a hint: without it answers are merely later.
        let _ = stream.set_nodelay(true);
        Connection { stream, buffer: BytesMut::new(), peer }
    }

    /// The next request; `None` when the client is done. What is not HTTP is an error, and ends the connection.
    pub(super) async fn next(&mut self) -> io::Result<Option<Request>> {
        tokio::time::timeout(IDLE, self.read()).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn read(&mut self) -> io::Result<Option<Request>> {
        loop {
            if let Some((mut request, length)) = parse(&self.buffer)? {
                self.buffer.advance(length);
                let body = match request.header("content-length") {
                    None if request.header("transfer-encoding").is_some() => return Err(bad("a chunked request")),
                    None => 0,
                    Some(length) => length.parse::<usize>().map_err(|_| bad("a Content-Length that is no number"))?,
                };
                if body > BODY {
                    return Err(bad("a request body over 1 MiB"));
                }
                if body > 0 && request.header("expect").is_some() {
                    self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
                }
                while self.buffer.len() < body {
                    if self.stream.read_buf(&mut self.buffer).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                request.body = self.buffer.split_to(body).freeze();
                return Ok(Some(request));
            }
            if self.buffer.len() > HEAD {
                return Err(bad("a head over 64 KiB"));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Ends when the client has closed its side. A client that sends its next request early is still there.
    pub(super) async fn gone(&self) {
        match self.stream.peek(&mut [0]).await {
            Ok(0) | Err(_) => {}
            Ok(_) => std::future::pending().await,
        }
    }

    /// Makes the coming close a reset.
    pub(super) fn reset_on_close(&self) {
        // Where it cannot be set the close is an orderly one, which a broken socket is anyway.
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// Sends what is left and says that nothing follows.
    pub(super) async fn finish(&mut self) {
        // The client may have left first; it is all the same now.
        let _ = self.stream.shutdown().await;
    }
}

fn parse(buffer: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(buffer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    };
    let keep_alive = request.version == Some(1);
    let mut request = Request {
        method: request.method.unwrap_or_default().to_owned(),
        target: request.path.unwrap_or_default().to_owned(),
        headers: request
            .headers
            .iter()
            .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned()))
            .collect(),
        body: Bytes::new(),
        keep_alive,
    };
    if request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
        request.keep_alive = false;
    }
    Ok(Some((request, length)))
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
