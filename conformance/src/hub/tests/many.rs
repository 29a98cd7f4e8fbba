//! Many clients, large blobs and connections that stay.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::super::{Challenge, Hub, Kind, Settings, Spec};
use super::client::hub;

const NAME: &str = "library/hello";

async fn open() -> Hub {
    hub(Settings { challenge: Challenge::Nobody, redirect_blobs: false, ..Settings::default() }).await
}

/// Reads one answer with a length from a connection that stays open; returns status and body length.
async fn one(stream: &mut TcpStream, expect_body: bool) -> (u16, u64) {
    let mut buffer = vec![0; 256 << 10];
    let mut length = 0;
    loop {
        length += stream.read(&mut buffer[length..]).await.unwrap();
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        if let httparse::Status::Complete(head) = response.parse(&buffer[..length]).unwrap() {
            let declared = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
            let declared: u64 = std::str::from_utf8(declared.unwrap().value).unwrap().parse().unwrap();
            let status = response.code.unwrap();
            let mut rest = if expect_body { declared } else { 0 } - (length - head) as u64;
            while rest > 0 {
                let part = buffer.len().min(rest as usize);
                rest -= stream.read(&mut buffer[..part]).await.unwrap() as u64;
            }
            return (status, declared);
        }
    }
}

#[tokio::test]
async fn a_connection_carries_many_requests_and_heads_have_no_body() {
    let hub = open().await;
    let image = hub.push(Spec::new(NAME).layers([1000])).unwrap();
    let mut stream = TcpStream::connect(hub.registry_address()).await.unwrap();
    for method in ["HEAD", "GET", "HEAD", "GET"] {
        let target = format!("/v2/{NAME}/blobs/{}", image.platforms[0].layers[0].digest);
        stream.write_all(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
        assert_eq!(one(&mut stream, method == "GET").await, (200, image.platforms[0].layers[0].size));
    }
    let ports: Vec<_> = hub.log().iter().map(|logged| logged.from).collect();
    assert!(ports.len() == 4 && ports.iter().all(|port| *port == ports[0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_clients_are_answered_at_once() {
    let hub = open().await;
    hub.push(Spec::new(NAME).layers([1000])).unwrap();
    let gate = hub.hold(super::super::Match::kind(Kind::ManifestGet));
    let mut clients = JoinSet::new();
    for _ in 0..500 {
        let address = hub.registry_address();
        clients.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET /v2/{NAME}/manifests/latest HTTP/1.1\r\nHost: a\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            one(&mut stream, true).await.0
        });
    }
    assert!(gate.held(500).await);
    gate.open();
    assert!(clients.join_all().await.into_iter().all(|status| status == 200));
    assert_eq!(hub.counts()["manifest_get"], 500);
}

#[tokio::test]
async fn a_large_blob_is_served_from_disk_whole_and_in_parts() {
    let hub = open().await;
    let image = hub.push(Spec::new(NAME).single().layers([5 << 20])).unwrap();
    let layer = &image.platforms[0].layers[0];
    let target = format!("/v2/{NAME}/blobs/{}", layer.digest);
    let whole = super::client::send(hub.registry_address(), "GET", &target, &[]).await;
    assert_eq!((whole.digest(), whole.body.len() as u64), (layer.digest.clone(), layer.size));
    let range = [("Range", "bytes=4500000-4500099")];
    let part = super::client::send(hub.registry_address(), "GET", &target, &range).await;
    assert_eq!(part.body, whole.body[4_500_000..4_500_100]);
}
