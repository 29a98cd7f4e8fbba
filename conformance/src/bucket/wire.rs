//! HTTP/1.1 as a bucket speaks it: one request after another on a connection, bodies with a length.

use std::{io, time::SystemTime};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A part of an upload, and room for more.
const BODY: usize = 64 << 20;

/// A request, whole.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    query: String,
    headers: Vec<(String, String)>,
    pub(super) body: Bytes,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn asks(&self, name: &str) -> Option<String> {
        let mut pairs = url::form_urlencoded::parse(self.query.as_bytes());
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Answer {
    pub(super) fn empty(status: u16) -> Answer {
        Answer { status, headers: Vec::new(), body: Bytes::new() }
    }

    pub(super) fn written(version: u64) -> Answer {
        Answer { headers: vec![("etag", format!("\"{version}\""))], ..Answer::empty(200) }
    }

    pub(super) fn xml(body: String) -> Answer {
        Answer { body: body.into(), ..Answer::empty(200) }
    }

    pub(super) fn refused(status: u16, code: &str) -> Answer {
        let body = format!("<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>");
        Answer { body: body.into(), ..Answer::empty(status) }
    }

    /// An object, or the range of it.
    pub(super) fn object(bytes: Bytes, version: u64, range: Option<&str>) -> Answer {
        let mut headers = vec![
            ("etag", format!("\"{version}\"")),
            ("last-modified", httpdate::fmt_http_date(SystemTime::now())),
            ("accept-ranges", "bytes".to_owned()),
        ];
        let size = bytes.len();
        let Some((start, end)) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) else {
            return Answer { status: 200, headers, body: bytes };
        };
        let end = end.parse::<usize>().map_or(size, |last| size.min(last + 1));
        match start.parse::<usize>() {
            Ok(start) if start < end => {
                headers.push(("content-range", format!("bytes {start}-{}/{size}", end - 1)));
                Answer { status: 206, headers, body: bytes.slice(start..end) }
            }
            _ => Answer::refused(416, "InvalidRange"),
        }
    }
}

/// One connection of a client.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> Connection {
        // Only a hint.
        let _ = stream.set_nodelay(true);
        Connection { stream, buffer: BytesMut::new() }
    }

    /// The next request; `None` when the client is done.
    pub(super) async fn next(&mut self) -> io::Result<Option<Request>> {
        loop {
            if let Some((mut request, length)) = parse(&self.buffer)? {
                self.buffer.advance(length);
                let body = request.header("content-length").map_or(Ok(0), str::parse::<usize>);
                let body = body.ok().filter(|body| *body <= BODY).ok_or(io::ErrorKind::InvalidData)?;
                while self.buffer.len() < body {
                    if self.stream.read_buf(&mut self.buffer).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                request.body = self.buffer.split_to(body).freeze();
                return Ok(Some(request));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// Sends an answer, of whose body at most `cut` bytes go out. Then the connection is of no more use.
    pub(super) async fn send(&mut self, request: &Request, answer: Answer, cut: usize) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {} x\r\ncontent-length: {}\r\n", answer.status, answer.body.len());
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.stream.write_all(head.as_bytes()).await?;
        if request.method == "HEAD" || answer.status == 204 {
            return Ok(());
        }
        self.stream.write_all(&answer.body[..cut.min(answer.body.len())]).await?;
        match cut < answer.body.len() {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }
}

fn parse(buffer: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(buffer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    };
    let target = request.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let header = |header: &httparse::Header<'_>| {
        (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned())
    };
    let request = Request {
        method: request.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: request.headers.iter().map(header).collect(),
        body: Bytes::new(),
    };
    Ok(Some((request, length)))
}
