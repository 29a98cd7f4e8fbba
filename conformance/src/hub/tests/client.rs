//! A raw HTTP client: one request a connection, and whatever comes back, broken or not.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

use super::super::content::digest;
use super::super::{Hub, Settings};

/// What came back.
#[derive(Debug)]
pub(super) struct Reply {
    /// All bytes as they came.
    pub(super) raw: Vec<u8>,
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Whether the connection was reset rather than closed.
    pub(super) reset: bool,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(super) fn declared(&self) -> usize {
        self.header("content-length").parse().unwrap()
    }

    pub(super) fn digest(&self) -> String {
        digest(&self.body)
    }
}

/// Sends one request and reads to the end of the connection, ten seconds at most.
pub(super) async fn send(address: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)]) -> Reply {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head(method, target, address, headers).as_bytes()).await.unwrap();
        read(stream).await
    };
    tokio::time::timeout(Duration::from_secs(10), exchange).await.expect("an answer within ten seconds")
}

pub(super) fn head(method: &str, target: &str, address: SocketAddr, headers: &[(&str, &str)]) -> String {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head + "\r\n"
}

/// Reads whatever comes until the connection ends.
pub(super) async fn read(mut stream: TcpStream) -> Reply {
    let mut raw = Vec::new();
    let reset = stream.read_to_end(&mut raw).await.is_err();
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(&raw);
    let Ok(httparse::Status::Complete(length)) = parsed else {
        return Reply { raw, status: 0, headers: Vec::new(), body: Vec::new(), reset };
    };
    let status = response.code.unwrap();
    let headers = response.headers.iter();
    let headers = headers.map(|h| (h.name.to_owned(), String::from_utf8_lossy(h.value).into_owned())).collect();
    Reply { status, headers, body: raw[length..].to_vec(), raw, reset }
}

/// A hub and what a client of it needs at hand.
pub(super) async fn hub(settings: Settings) -> Hub {
    Hub::start(settings).await.unwrap()
}

/// A token for pulling that repository, anonymous or with Basic credentials.
pub(super) async fn token(hub: &Hub, repository: &str, basic: Option<&str>) -> String {
    let target = format!("/token?service=registry.docker.io&scope=repository:{repository}:pull");
    let headers: Vec<_> = basic.map(|basic| ("Authorization", basic)).into_iter().collect();
    let reply = send(hub.registry_address(), "GET", &target, &headers).await;
    assert_eq!(reply.status, 200);
    reply.json()["token"].as_str().unwrap().to_owned()
}

/// Asks the registry with a fresh anonymous token.
pub(super) async fn exchange(hub: &Hub, method: &str, repository: &str, rest: &str) -> Reply {
    ask_with(hub, method, repository, rest, &[]).await
}

/// The same with more headers.
pub(super) async fn ask_with(hub: &Hub, method: &str, repository: &str, rest: &str, more: &[(&str, &str)]) -> Reply {
    let bearer = format!("Bearer {}", token(hub, repository, None).await);
    let accept = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json";
    let mut headers = vec![("Authorization", bearer.as_str())];
    if more.iter().all(|(name, _)| *name != "Accept") {
        headers.push(("Accept", accept));
    }
    headers.extend_from_slice(more);
    send(hub.registry_address(), method, &format!("/v2/{repository}/{rest}"), &headers).await
}

/// Gets a blob, following the redirect to the CDN.
pub(super) async fn blob(hub: &Hub, repository: &str, digest: &str, more: &[(&str, &str)]) -> Reply {
    let reply = exchange(hub, "GET", repository, &format!("blobs/{digest}")).await;
    assert_eq!(reply.status, 307, "{reply:?}");
    follow(&reply, more).await
}

/// Follows a redirect by hand, without the credential.
pub(super) async fn follow(reply: &Reply, more: &[(&str, &str)]) -> Reply {
    let location = Url::parse(reply.header("location")).unwrap();
    let address = location.socket_addrs(|| None).unwrap()[0];
    let target = &location[url::Position::BeforePath..];
    send(address, "GET", target, more).await
}
