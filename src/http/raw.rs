//! A client for tests that sees every byte.

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

use super::Serving;

/// A connection.
pub(crate) struct Raw<S = TcpStream>(pub(crate) S);

/// A response with its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawResponse {
    pub(crate) status: u16,
    /// The head as it was sent.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl RawResponse {
    /// The values of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    /// The only value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} is there twice: {}", self.head);
        all.first().copied()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}{}", self.head, String::from_utf8_lossy(&self.body)))
    }

    /// The code of an error.
    pub(crate) fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Raw {
    pub(crate) async fn to(serving: &Serving) -> Raw {
        Raw(TcpStream::connect(serving.addresses[0]).await.unwrap())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
        // rustls keeps what the socket does not take at once, which is everything when this task has used up tokio's budget.
        self.0.flush().await.unwrap();
    }

    pub(crate) async fn get(&mut self, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    }

    /// One response head, in lower case.
    pub(crate) async fn head(&mut self) -> String {
        self.exact_head().await.to_lowercase()
    }

    async fn exact_head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match self.0.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&head)),
            }
        }
        String::from_utf8(head).unwrap()
    }

    pub(crate) async fn body(&mut self, length: usize) -> Vec<u8> {
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        body
    }

    /// What comes until the connection is closed, in whatever way.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = self.0.read_to_end(&mut rest).await;
        rest
    }

    /// A request with a body, and its whole response.
    pub(crate) async fn push(&mut self, line: &str, headers: &str, body: &[u8]) -> RawResponse {
        let head = format!("{line} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
        self.send([head.as_bytes(), body].concat()).await;
        self.response(line).await
    }

    /// A request of one line and more header lines, and its whole response.
    pub(crate) async fn ask(&mut self, line: &str, headers: &str) -> RawResponse {
        self.send(format!("{line} HTTP/1.1\r\nHost: x\r\n{headers}\r\n")).await;
        self.response(line).await
    }

    /// The response to a request of this line.
    pub(crate) async fn response(&mut self, line: &str) -> RawResponse {
        let head = self.exact_head().await;
        let status = head[9..12].parse().unwrap();
        let mut response = RawResponse { status, head, body: Vec::new() };
        let length: usize = response.header("content-length").map_or(0, |length| length.parse().unwrap());
        if !line.starts_with("HEAD") && status != 304 {
            response.body = self.body(length).await;
        }
        response
    }
}
