//! One TCP connection: requests written as they are, heads and bodies read piece by piece.

use std::{
    borrow::Cow,
    net::SocketAddr,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpSocket,
};

use super::{
    error::Error,
    request::{Body, Request},
    response::{Head, Response, Timing, hex},
    trust::Trust,
};

/// How long a client of this suite waits for headers, and between two pieces of a body, before it calls the mirror hung.
/// containerd gives up after 30 s without headers, so a mirror that takes longer has lost the client.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of a body kept for reading; the rest is hashed and counted only.
const KEPT: usize = 8 << 20;

/// A head larger than this is not one.
const MAX_HEAD: usize = 64 << 10;
/// Read at once. Bodies are consumed as they come, so one buffer of this size is all a client holds.
const PIECE: usize = 64 << 10;

/// Plain TCP, or TLS over it.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug {}
impl<W: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug> Wire for W {}

/// One connection; carries one request at a time.
#[derive(Debug)]
pub struct Connection {
    stream: Box<dyn Wire>,
    /// What `Host` says unless a request says otherwise.
    host: String,
    /// Bytes read and not yet consumed: `held[start..]`.
    held: Vec<u8>,
    start: usize,
    /// Read at once.
    piece: usize,
    patience: Duration,
}

impl Connection {
    /// Connects; the kernel chooses the buffers.
    pub async fn open(address: SocketAddr) -> Result<Connection, Error> {
        Connection::open_with(address, None).await
    }

    /// Connects with a receive buffer of `receive` bytes, so that a herd costs the kernel little and a client that stops reading
    /// soon stops the sender.
    pub async fn open_small(address: SocketAddr, receive: u32) -> Result<Connection, Error> {
        Connection::open_with(address, Some(receive)).await
    }

    async fn open_with(address: SocketAddr, receive: Option<u32>) -> Result<Connection, Error> {
        let connect = |e: std::io::Error| Error::Connect(e.to_string());
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(connect)?;
        if let Some(bytes) = receive {
            socket.set_recv_buffer_size(bytes).map_err(connect)?;
        }
        let stream = tokio::time::timeout(PATIENCE, socket.connect(address))
            .await
            .map_err(|_| Error::Connect("timed out".into()))?
            .map_err(connect)?;
        let _ = stream.set_nodelay(true);
        Ok(Connection::over(stream, address.to_string()))
    }

    /// Over a stream that is open already; it may hold back what is written until it is flushed.
    pub(super) fn over(stream: impl Wire + 'static, host: String) -> Connection {
        Connection { stream: Box::new(stream), host, held: Vec::new(), start: 0, piece: PIECE, patience: PATIENCE }
    }

    /// The same for a server of that name, over TLS when there is something to verify it by.
    pub(super) async fn to(mut self, host: &str, trust: Option<&Trust>) -> Result<Connection, Error> {
        if let Some(trust) = trust {
            let secured = tokio::time::timeout(PATIENCE, trust.secure(self.stream)).await;
            self.stream = Box::new(secured.map_err(|_| Error::Hung(PATIENCE))??);
        }
        self.host = host.to_owned();
        Ok(self)
    }

    /// The same, giving up after `patience` without a byte instead of [`PATIENCE`].
    pub fn patient_for(mut self, patience: Duration) -> Connection {
        self.patience = patience;
        self
    }

    /// Writes bytes as they are.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> Result<(), Error> {
        // What rustls could not hand to the socket at once it keeps until it is flushed, and no server answers half a request.
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        tokio::time::timeout(self.patience, sent)
            .await
            .map_err(|_| Error::Hung(self.patience))?
            .map_err(|e| Error::Broken(e.to_string()))
    }

    /// Sends a request and reads to the end of the head. The body, if any, is then read from [`Incoming`].
    pub async fn start(&mut self, request: &Request) -> Result<Incoming<'_>, Error> {
        let mut text = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
        if !request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            text.push_str(&format!("Host: {}\r\n", self.host));
        }
        for (name, value) in &request.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        match &request.body {
            Body::None => text.push_str("\r\n"),
            Body::Bytes(bytes) => text.push_str(&format!("Content-Length: {}\r\n\r\n", bytes.len())),
            Body::Chunked(_) => text.push_str("Transfer-Encoding: chunked\r\n\r\n"),
        }
        self.send_raw(text.as_bytes()).await?;
        self.send_body(&request.body).await?;
        let sent = Instant::now();
        let head = self.read_head().await?;
        let headers = sent.elapsed();
        let framing = match (&head, request.method) {
            (_, "HEAD") => Framing::Length(0),
            (head, _) if matches!(head.status, 100..=199 | 204 | 304) => Framing::Length(0),
            (head, _) if head.chunked() => Framing::Chunked { left: 0, first: true },
            (head, _) => head.content_length().map_or(Framing::UntilClose, Framing::Length),
        };
        Ok(Incoming { connection: self, head, sent, headers, framing, first_byte: None, got: 0 })
    }

    /// Stops early when the server answers early: what it says is then read as the answer to the whole request.
    async fn send_body(&mut self, body: &Body) -> Result<(), Error> {
        let bytes = match body {
            Body::None => return Ok(()),
            Body::Bytes(bytes) => Cow::Borrowed(bytes),
            Body::Chunked(pieces) => Cow::Owned(chunked(pieces)),
        };
        let (mut read, mut write) = tokio::io::split(&mut self.stream);
        let mut piece = vec![0; PIECE];
        let sent = tokio::time::timeout(self.patience, async {
            tokio::select! {
                biased;
                sent = async { write.write_all(&bytes).await?; write.flush().await } => sent.map(|()| 0),
                came = read.read(&mut piece) => came,
            }
        });
        match sent.await.map_err(|_| Error::Hung(self.patience))? {
            Ok(came) => self.held.extend_from_slice(&piece[..came]),
            // A server that has said what it has to say may close; its answer is then waiting to be read.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            Err(error) => return Err(Error::Broken(error.to_string())),
        }
        Ok(())
    }

    /// Sends a request and reads all of its answer.
    pub async fn exchange(&mut self, request: &Request) -> Result<Response, Error> {
        self.start(request).await?.finish().await
    }

    /// Reads one head; for answers to what was sent raw.
    pub async fn read_head(&mut self) -> Result<Head, Error> {
        loop {
            if let Some(end) = end_of_head(&self.held[self.start..]) {
                let head = Head::parse(&self.held[self.start..self.start + end]);
                self.start += end;
                return head;
            }
            if self.held.len() - self.start > MAX_HEAD {
                return Err(Error::Malformed("head over 64 KiB".into()));
            }
            if self.fill().await? == 0 {
                return Err(Error::Broken("closed before an answer".into()));
            }
        }
    }

    /// Reads whatever comes until the other side closes; false when it did not within the connection's patience.
    pub async fn until_closed(&mut self) -> bool {
        let deadline = Instant::now() + self.patience;
        while Instant::now() < deadline {
            match self.fill().await {
                Ok(0) | Err(Error::Broken(_)) => return true,
                Ok(_) => self.start = self.held.len(),
                Err(_) => return false,
            }
        }
        false
    }

    /// Reads once more from the socket; how many bytes came, 0 at its end.
    async fn fill(&mut self) -> Result<usize, Error> {
        self.held.drain(..self.start);
        self.start = 0;
        let have = self.held.len();
        self.held.resize(have + self.piece, 0);
        let read = tokio::time::timeout(self.patience, self.stream.read(&mut self.held[have..])).await;
        let came = match read {
            Ok(Ok(came)) => came,
            Ok(Err(error)) => {
                self.held.truncate(have);
                return Err(Error::Broken(error.to_string()));
            }
            Err(_) => {
                self.held.truncate(have);
                return Err(Error::Hung(self.patience));
            }
        };
        self.held.truncate(have + came);
        Ok(came)
    }
}

/// How the body says where it ends.
#[derive(Clone, Copy, Debug)]
enum Framing {
    /// That many bytes are still to come.
    Length(u64),
    /// That many of the current chunk; `first` before any chunk.
    Chunked { left: u64, first: bool },
    /// The terminal chunk has come.
    Done,
    /// HTTP/1.0 style. Nothing tells a whole body from a broken one, and a client takes it as whole.
    UntilClose,
}

/// An answer under way: its head is here, its body is read by the caller. Dropping it and its connection leaves mid-body.
#[derive(Debug)]
pub struct Incoming<'a> {
    connection: &'a mut Connection,
    /// Status and headers.
    pub head: Head,
    sent: Instant,
    headers: Duration,
    framing: Framing,
    first_byte: Option<Duration>,
    got: u64,
}

impl Incoming<'_> {
    /// Instants so far; `total` is now.
    pub fn timing(&self) -> Timing {
        Timing { sent: self.sent, headers: self.headers, first_byte: self.first_byte, total: self.sent.elapsed() }
    }
    /// Bytes of the body so far.
    pub fn got(&self) -> u64 {
        self.got
    }

    /// Reads so many bytes at once from now on; few of them make the first byte of a herd cheap for the reader.
    pub fn read_by(&mut self, bytes: usize) {
        self.connection.piece = bytes;
    }

    /// Hands the next piece of the body to `take`; `false` when the body is complete.
    pub async fn piece(&mut self, mut take: impl FnMut(&[u8])) -> Result<bool, Error> {
        let left = match self.framing {
            Framing::Length(0) | Framing::Done => return Ok(false),
            Framing::Length(left) => left,
            Framing::Chunked { left: 0, first } => {
                self.next_chunk(first).await?;
                let Framing::Chunked { left, .. } = self.framing else { return Ok(false) };
                left
            }
            Framing::Chunked { left, .. } => left,
            Framing::UntilClose => u64::MAX,
        };
        if self.connection.start == self.connection.held.len() && self.connection.fill().await? == 0 {
            return match self.framing {
                Framing::UntilClose => Ok(false),
                Framing::Length(left) => Err(Error::Short { got: self.got, of: self.got + left }),
                _ => Err(Error::Short { got: self.got, of: u64::MAX }),
            };
        }
        self.first_byte.get_or_insert_with(|| self.sent.elapsed());
        let held = &self.connection.held[self.connection.start..];
        let piece = &held[..held.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        take(piece);
        let came = piece.len() as u64;
        self.connection.start += piece.len();
        self.got += came;
        match &mut self.framing {
            Framing::Length(left) | Framing::Chunked { left, .. } => *left -= came,
            Framing::UntilClose | Framing::Done => {}
        }
        Ok(true)
    }

    /// Reads until at least `upto` bytes of the body have come, or its end; the bytes are thrown away.
    pub async fn discard(&mut self, upto: u64) -> Result<(), Error> {
        while self.got < upto {
            if !self.piece(|_| {}).await? {
                break;
            }
        }
        Ok(())
    }

    /// Reads all that is left, hashing from where it stands: call it before any [`Incoming::piece`] for a hash of the whole.
    pub async fn finish(mut self) -> Result<Response, Error> {
        let mut hash = Sha256::new();
        let mut body = Vec::new();
        let broken = loop {
            let more = self
                .piece(|piece| {
                    hash.update(piece);
                    let room = KEPT.saturating_sub(body.len()).min(piece.len());
                    body.extend_from_slice(&piece[..room]);
                })
                .await;
            match more {
                Ok(true) => {}
                Ok(false) => break None,
                Err(error) => break Some(error),
            }
        };
        let timing = self.timing();
        let sha256 = format!("sha256:{}", hex(&hash.finalize()));
        Ok(Response { head: self.head, timing, body, length: self.got, sha256, broken })
    }

    async fn next_chunk(&mut self, first: bool) -> Result<(), Error> {
        if !first {
            self.line().await?;
        }
        let line = self.line().await?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let left = u64::from_str_radix(size, 16).map_err(|_| Error::Malformed(format!("chunk size {size:?}")))?;
        if left > 0 {
            self.framing = Framing::Chunked { left, first: false };
            return Ok(());
        }
        while !self.line().await?.is_empty() {}
        self.framing = Framing::Done;
        Ok(())
    }

    async fn line(&mut self) -> Result<String, Error> {
        loop {
            let held = &self.connection.held[self.connection.start..];
            if let Some(end) = held.iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&held[..end]).trim_end_matches('\r').to_owned();
                self.connection.start += end + 1;
                return Ok(line);
            }
            if held.len() > MAX_HEAD {
                return Err(Error::Malformed("chunk line over 64 KiB".into()));
            }
            if self.connection.fill().await? == 0 {
                return Err(Error::Short { got: self.got, of: u64::MAX });
            }
        }
    }
}

fn chunked(pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}
