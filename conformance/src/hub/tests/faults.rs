//! Each fault, seen from the other end.

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::super::{At, Blob, Fault, Hub, Image, Kind, Match, Progress, Settings, Spec, What};
use super::client::{Reply, ask_with, blob, exchange, follow, head, hub, read, send, token};

const NAME: &str = "library/hello";
const LATEST: &str = "manifests/latest";

async fn set() -> (Hub, Image) {
    let hub = hub(Settings::default()).await;
    let image = hub.push(Spec::new(NAME).layers([64 << 10])).unwrap();
    (hub, image)
}

/// Gets the layer once with the fault and once more without.
async fn layer_with(fault: What) -> (Blob, Reply) {
    let (hub, image) = set().await;
    let layer = image.platforms[0].layers[0].clone();
    hub.fault(Fault::once(fault).on(Match::kind(Kind::BlobGet)));
    let struck = blob(&hub, NAME, &layer.digest, &[]).await;
    let healed = blob(&hub, NAME, &layer.digest, &[]).await;
    assert_eq!(healed.digest(), layer.digest, "the fault was for one request");
    assert!(hub.faults().is_empty());
    (layer, struck)
}

/// Asks for the manifest by tag once with the fault and once more without.
async fn manifest_with(method: &str, fault: What) -> (Image, Reply) {
    let (hub, image) = set().await;
    hub.fault(Fault::once(fault));
    let struck = exchange(&hub, method, NAME, LATEST).await;
    let healed = exchange(&hub, method, NAME, LATEST).await;
    assert_eq!(healed.status, 200, "the fault was for one request");
    assert_eq!(healed.header("docker-content-digest"), image.digest());
    (image, struck)
}

#[tokio::test]
async fn a_status_comes_with_an_error_of_the_spec() {
    for status in [500, 502, 503, 504, 429, 403] {
        let (_, reply) = manifest_with("GET", What::Status(status)).await;
        assert_eq!(reply.status, status);
        assert!(reply.json()["errors"][0]["code"].is_string());
    }
}

#[tokio::test]
async fn html_comes_with_200() {
    let (_, reply) = manifest_with("GET", What::Html).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, "text/html; charset=utf-8"));
}

#[tokio::test]
async fn a_corrupt_body_differs_in_one_byte() {
    for at in [At::Start, At::Middle, At::Last] {
        let (hub, image) = set().await;
        let layer = &image.platforms[0].layers[0];
        let good = blob(&hub, NAME, &layer.digest, &[]).await.body;
        hub.fault(Fault::once(What::Corrupt(at)));
        let bad = blob(&hub, NAME, &layer.digest, &[]).await;
        let differ: Vec<usize> = (0..good.len()).filter(|byte| good[*byte] != bad.body[*byte]).collect();
        let expected = match at {
            At::Start => 0,
            At::Middle => (good.len() - 1) / 2,
            At::Last => good.len() - 1,
        };
        assert_eq!((bad.status, bad.body.len(), differ), (200, good.len(), vec![expected]));
        // A range without the byte is intact.
        hub.fault(Fault::once(What::Corrupt(At::Last)));
        let range = blob(&hub, NAME, &layer.digest, &[("Range", "bytes=10-19")]).await;
        assert_eq!((range.status, range.body.as_slice()), (206, &good[10..20]));
    }
}

#[tokio::test]
async fn a_truncated_body_ends_in_order_at_its_share() {
    let (layer, reply) = layer_with(What::Truncate(0.5)).await;
    assert_eq!((reply.status, reply.declared() as u64), (200, layer.size));
    assert_eq!((reply.body.len() as u64, reply.reset), (layer.size / 2, false));
}

#[tokio::test]
async fn a_reset_body_ends_in_a_reset() {
    let (layer, reply) = layer_with(What::Reset(0.5)).await;
    assert!(reply.reset);
    assert!((reply.body.len() as u64) <= layer.size / 2);
}

#[tokio::test]
async fn a_stalled_body_goes_on_when_it_is_released() {
    let (hub, image) = set().await;
    let layer = &image.platforms[0].layers[0];
    hub.fault(Fault::once(What::Stall(0.25)));
    let (reply, ()) = tokio::join!(blob(&hub, NAME, &layer.digest, &[]), async {
        assert!(hub.wait_for(|log| log.iter().any(|logged| logged.progress == Progress::Stalled)).await);
        let stalled = hub.log().into_iter().find(|logged| logged.progress == Progress::Stalled).unwrap();
        assert_eq!((stalled.kind, stalled.bytes_sent), (Kind::CdnGet, layer.size / 4));
        hub.release();
    });
    assert_eq!(reply.digest(), layer.digest);
}

#[tokio::test]
async fn a_stall_that_is_abandoned_ends_with_its_client() {
    let (hub, image) = set().await;
    hub.adjust(|settings| settings.redirect_blobs = false);
    hub.fault(Fault::once(What::Stall(0.25)));
    let bearer = format!("Bearer {}", token(&hub, NAME, None).await);
    let target = format!("/v2/{NAME}/blobs/{}", image.platforms[0].layers[0].digest);
    let mut stream = TcpStream::connect(hub.registry_address()).await.unwrap();
    let request = head("GET", &target, hub.registry_address(), &[("Authorization", &bearer)]);
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(hub.wait_for(|log| log.iter().any(|logged| logged.progress == Progress::Stalled)).await);
    drop(stream);
    assert!(hub.wait_for(|log| log.iter().any(|logged| logged.progress == Progress::Broken)).await);
}

#[tokio::test]
async fn a_slow_body_takes_its_time() {
    let began = Instant::now();
    let (layer, reply) = layer_with(What::Slow(256 << 10)).await;
    assert_eq!(reply.digest(), layer.digest);
    assert!(began.elapsed() >= Duration::from_millis(200), "64 KiB at 256 KiB/s in {:?}", began.elapsed());
}

#[tokio::test]
async fn a_wrong_length_is_wrong_by_so_much() {
    let (layer, reply) = layer_with(What::ShortLength(1000)).await;
    assert_eq!((reply.declared() as u64, reply.body.len() as u64), (layer.size - 1000, layer.size - 1000));
    let (layer, reply) = layer_with(What::LongLength(1000)).await;
    assert_eq!((reply.declared() as u64, reply.digest()), (layer.size + 1000, layer.digest));
}

#[tokio::test]
async fn an_encoded_body_says_so_and_is() {
    let (image, reply) = manifest_with("GET", What::ContentEncoding).await;
    assert_eq!(reply.header("content-encoding"), "gzip");
    assert_eq!(reply.declared(), reply.body.len());
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(reply.body.as_slice()).read_to_end(&mut plain).unwrap();
    assert_eq!(plain, image.root.bytes);
}

#[tokio::test]
async fn head_is_refused_and_get_is_not() {
    let (hub, _) = set().await;
    hub.fault(Fault::always(What::NoHead));
    assert_eq!(exchange(&hub, "HEAD", NAME, LATEST).await.status, 405);
    assert_eq!(exchange(&hub, "GET", NAME, LATEST).await.status, 200);
}

#[tokio::test]
async fn a_redirect_loop_never_ends() {
    let (hub, image) = set().await;
    hub.fault(Fault::once(What::RedirectLoop));
    let mut reply = exchange(&hub, "GET", NAME, &format!("blobs/{}", image.platforms[0].config.digest)).await;
    for _ in 0..20 {
        assert_eq!(reply.status, 307);
        reply = follow(&reply, &[]).await;
    }
    assert_eq!(hub.counts()["cdn_get"], 20);
}

#[tokio::test]
async fn redirects_lead_to_private_and_hostile_addresses() {
    let (hub, image) = set().await;
    let path = format!("blobs/{}", image.platforms[0].config.digest);
    hub.fault(Fault::once(What::RedirectPrivate));
    assert!(exchange(&hub, "GET", NAME, &path).await.header("location").starts_with("http://169.254.169.254/"));
    hub.fault(Fault::once(What::RedirectEvil));
    let reply = exchange(&hub, "GET", NAME, &path).await;
    let evil = follow(&reply, &[("Authorization", "Bearer canary")]).await;
    assert_eq!((evil.status, evil.header("www-authenticate")), (401, "Basic realm=\"evil\""));
    assert_eq!(hub.hostile_requests()[0].request, format!("GET /v2/{NAME}/{path}"));
    assert!(hub.hostile_requests()[0].headers.contains(&("authorization".to_owned(), "Bearer canary".to_owned())));
}

#[tokio::test]
async fn an_evil_realm_strikes_even_who_has_a_token() {
    let (hub, _) = set().await;
    hub.fault(Fault::once(What::EvilRealm));
    let reply = exchange(&hub, "GET", NAME, LATEST).await;
    assert_eq!(reply.status, 401);
    assert!(reply.header("www-authenticate").contains(&format!("http://{}/token", hub.hostile_address())));
}

#[tokio::test]
async fn links_lead_astray() {
    let (hub, _) = set().await;
    hub.fault(Fault::once(What::LinkEvil));
    assert!(exchange(&hub, "GET", NAME, "tags/list").await.header("link").contains(&hub.hostile_address().to_string()));
    hub.fault(Fault::once(What::LinkLoop));
    let looped = exchange(&hub, "GET", NAME, "tags/list?n=1").await;
    assert_eq!(looped.header("link"), format!("</v2/{NAME}/tags/list?n=1>; rel=\"next\""));
}

#[tokio::test]
async fn the_token_service_breaks_refuses_and_dawdles() {
    let (hub, _) = set().await;
    let get = async || send(hub.registry_address(), "GET", "/token?scope=repository:a:pull", &[]).await;
    hub.fault(Fault::once(What::TokenStatus(503)));
    assert_eq!(get().await.status, 503);
    hub.fault(Fault::once(What::TokenRefused));
    assert_eq!(get().await.status, 401);
    hub.fault(Fault::once(What::TokenSlow(Duration::from_millis(100))));
    let began = Instant::now();
    assert_eq!(get().await.status, 200);
    assert!(began.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn the_abuse_limiter_speaks_raw_bytes() {
    let (hub, _) = set().await;
    hub.fault(Fault::times(2, What::Abuse(Some(60))));
    for target in ["/v2/", "/token"] {
        let reply = send(hub.registry_address(), "GET", target, &[]).await;
        let expected = "HTTP/1.1 429 Too Many Requests\nCache-Control: no-cache\nConnection: close\nContent-Type: text/plain\nRetry-After: 60\n\nToo Many Requests (HAP429).\n";
        assert_eq!(String::from_utf8(reply.raw).unwrap(), expected);
    }
    assert_eq!(send(hub.registry_address(), "GET", "/token", &[]).await.status, 200);
    hub.fault(Fault::once(What::Abuse(None)).on(Match::kind(Kind::ManifestGet)));
    let reply = exchange(&hub, "GET", NAME, LATEST).await;
    assert!(reply.raw.starts_with(b"HTTP/1.1 429 ") && !reply.raw.contains(&b'\r'));
    assert!(!String::from_utf8(reply.raw).unwrap().contains("Retry-After"));
}

#[tokio::test]
async fn the_pull_limit_can_be_feigned() {
    let (_, reply) = manifest_with("GET", What::PullLimit(Some("7".to_owned()))).await;
    assert_eq!((reply.status, reply.header("retry-after")), (429, "7"));
    assert_eq!(reply.json()["errors"][0]["code"], "TOOMANYREQUESTS");
}

#[tokio::test]
async fn a_manifest_by_digest_can_be_another() {
    let (hub, image) = set().await;
    hub.fault(Fault::once(What::WrongDigest));
    let reply = exchange(&hub, "GET", NAME, &format!("manifests/{}", image.digest())).await;
    assert_eq!((reply.status, reply.header("docker-content-digest")), (200, image.digest()));
    assert_ne!(reply.digest(), image.digest());
    assert_eq!(reply.declared(), reply.body.len());
}

#[tokio::test]
async fn the_digest_header_can_be_missing_or_wrong() {
    for method in ["GET", "HEAD"] {
        let (_, reply) = manifest_with(method, What::NoDigestHeader).await;
        assert_eq!((reply.status, reply.header("docker-content-digest")), (200, ""));
        let (image, reply) = manifest_with(method, What::BadDigestHeader).await;
        assert_eq!(reply.status, 200);
        assert_ne!(reply.header("docker-content-digest"), image.digest());
    }
}

#[tokio::test]
async fn an_endless_manifest_goes_on_for_its_size() {
    let (_, reply) = manifest_with("GET", What::Endless(3 << 20)).await;
    assert_eq!((reply.status, reply.header("transfer-encoding")), (200, "chunked"));
    assert!(reply.body.len() > 3 << 20);
}

#[tokio::test]
async fn faults_choose_their_requests_and_their_turn() {
    let (hub, _) = set().await;
    let broken = Match::kind(Kind::ManifestGet).repository(NAME).reference("latest").method("GET");
    hub.fault(Fault::times(2, What::Status(500)).on(broken).after(1));
    let mut statuses = Vec::new();
    for _ in 0..4 {
        assert_eq!(exchange(&hub, "HEAD", NAME, LATEST).await.status, 200);
        statuses.push(exchange(&hub, "GET", NAME, LATEST).await.status);
    }
    assert_eq!(statuses, [200, 500, 500, 200]);
    // A challenge uses up nothing.
    hub.fault(Fault::once(What::Status(500)));
    assert_eq!(send(hub.registry_address(), "GET", &format!("/v2/{NAME}/{LATEST}"), &[]).await.status, 401);
    assert_eq!(exchange(&hub, "GET", NAME, LATEST).await.status, 500);
}

#[tokio::test]
async fn a_gate_holds_a_request_until_it_opens() {
    let (hub, image) = set().await;
    let gate = hub.hold(Match::kind(Kind::ManifestGet));
    let (reply, ()) = tokio::join!(ask_with(&hub, "GET", NAME, LATEST, &[]), async {
        assert!(gate.started().await);
        assert_eq!(exchange(&hub, "HEAD", NAME, LATEST).await.status, 200);
        assert_eq!(hub.log().iter().find(|logged| logged.kind == Kind::ManifestGet).unwrap().status, 0);
        gate.open();
    });
    assert_eq!((reply.digest().as_str(), gate.count()), (image.digest(), 1));
    let held = hub.hold(Match::any());
    drop(held);
    assert_eq!(exchange(&hub, "GET", NAME, LATEST).await.status, 200, "a dropped gate is open");
}

#[tokio::test]
async fn a_hub_that_is_down_refuses_and_comes_back() {
    let (hub, image) = set().await;
    let address = hub.registry_address();
    let mut open = TcpStream::connect(address).await.unwrap();
    open.write_all(b"GET /v2/ HTTP/1.1\r\n").await.unwrap();
    hub.down().await;
    assert!(read(open).await.reset, "an open connection is reset");
    let refused = TcpStream::connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    hub.up().await.unwrap();
    assert_eq!(exchange(&hub, "GET", NAME, LATEST).await.digest(), image.digest());
    let _: Value = exchange(&hub, "GET", NAME, "tags/list").await.json();
}
