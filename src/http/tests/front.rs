//! What clients and load balancers send that is no plain request of the spec.

use super::*;
use crate::limits::throttle::{Algorithm, Mode, Rules, Throttle};

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_ns_is_the_default_upstream() {
    let world = World::plain().await;
    let image = world.image("library/busybox");
    for path in ["/v2/busybox/manifests/1.0?ns=", "/v2/library/busybox/manifests/1.0?ns=&x=y"] {
        let response = world.ask(&format!("HEAD {path}"), "").await;
        assert_eq!((response.status, response.header("docker-content-digest")), (200, Some(image.digest())), "{path}");
        assert_eq!(response.header("oci-namespace"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_says_what_this_is_on_every_listener() {
    let world = World::plain().await;
    for address in &world.serving.addresses {
        let mut client = Raw(tokio::net::TcpStream::connect(address).await.unwrap());
        let response = client.ask("GET /", "").await;
        assert_eq!((response.status, response.header("www-authenticate")), (200, None));
        assert!(response.body.starts_with(b"Weir") && response.body.ends_with(b"\n"));
        assert_eq!(client.ask("HEAD /", "").await.status, 200);
        assert_eq!(client.ask("POST /", "").await.status, 405);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_is_refused_is_refused_before_its_body() {
    let world = World::plain().await;
    let expect = "Expect: 100-continue\r\nContent-Length: 100000\r\n";
    for (line, status) in [
        ("PUT /v2/library/busybox/manifests/1.0", 405),
        ("POST /v2/library/busybox/blobs/uploads/", 405),
        ("GET /v2/", 200),
        ("PUT /v2/A/manifests/1.0", 400),
    ] {
        // Its first line is the last word, and no 100.
        assert_eq!(world.ask(line, expect).await.status, status, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_tags_has_the_decoded_name() {
    let world = World::plain().await;
    world.image("library/busybox");
    for (path, name) in [
        ("/v2/library%2dx/../tags/list", None),
        ("/v2/library/busy%62ox/tags/list", Some("library/busybox")),
        ("/v2/docker%2Eio/library/busybox/tags/list", Some("docker.io/library/busybox")),
        ("/docker.io/v2/library/busybox/tags/list", Some("library/busybox")),
        ("/v2/busybox/tags/list", Some("busybox")),
    ] {
        let response = world.ask(&format!("GET {path}"), "").await;
        let found = (response.status == 200).then(|| response.json()["name"].as_str().unwrap().to_owned());
        assert_eq!(found.as_deref(), name, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_response_has_the_id_of_its_request() {
    let world = World::plain().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (headers, id) in [
        ("X-Request-Id: build-7.2_a:b\r\n".to_owned(), Some("build-7.2_a:b")),
        (format!("traceparent: {trace}\r\n"), Some("4bf92f3577b34da6a3ce929d0e0e4736")),
        (format!("X-Request-Id: a\r\ntraceparent: {trace}\r\n"), Some("a")),
        (format!("X-Request-Id: {}\r\n", "a".repeat(200)), None),
        ("X-Request-Id: a b\"c\r\n".to_owned(), None),
        ("X-Request-Id: \r\n".to_owned(), None),
        ("traceparent: 00-00000000000000000000000000000000-00f067aa0ba902b7-01\r\n".to_owned(), None),
        (String::new(), None),
    ] {
        for line in ["GET /v2/", "GET /v2/A/tags/list", "HEAD /v2/library/none/manifests/1"] {
            let response = world.ask(line, &headers).await;
            let found = response.header("x-request-id").unwrap();
            match id {
                Some(id) => assert_eq!(found, id, "{line} {headers}"),
                None => assert!(found.len() == 16 && found.bytes().all(|byte| byte.is_ascii_hexdigit()), "{found}"),
            }
        }
    }
    let mut client = Raw::to(&world.serving).await;
    let first = client.ask("GET /v2/", "").await.header("x-request-id").unwrap().to_owned();
    assert_ne!(client.ask("GET /v2/", "").await.header("x-request-id").unwrap(), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_a_throttle_refuses_is_counted_as_what_it_was() {
    let pulls = Throttle {
        name: "throttle_unauthenticated_pulls".into(),
        requests_per_period: 1,
        period_in_seconds: 3_600,
        burst: Some(1),
        algorithm: Algorithm::Gcra,
        mode: Mode::Enforce,
    };
    let limits = LimitsConfig { throttles: Rules::new(&[pulls], &[], 1).unwrap(), ..LimitsConfig::default() };
    let world = hosting(patient(), Vec::new(), Hosting { limits, ..Hosting::default() }).await;
    world.image("library/busybox");
    assert_eq!(world.ask("GET /v2/library/busybox/manifests/1.0", "").await.status, 200);
    let refused = world.ask("GET /v2/library/busybox/manifests/1.0", "").await;
    // The sentence tells the whole wait; no client is made to sleep for it.
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("60")));
    let mut registry = prometheus_client::registry::Registry::default();
    world.metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let line = r#"http_requests_total{kind="manifest",method="GET",status="429"} 1"#;
    assert!(text.contains(line), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_ignored_and_the_connection_stays() {
    let world = World::plain().await;
    let mut client = Raw::to(&world.serving).await;
    for headers in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n",
        "Connection: upgrade\r\nUpgrade: TLS/1.2\r\n",
    ] {
        let response = client.ask("GET /v2/", headers).await;
        assert_eq!((response.status, response.header("connection")), (200, None), "{headers}");
    }
    assert_eq!(client.ask("GET /v2/", "Connection: close, Upgrade\r\n").await.status, 200);
    assert_eq!(client.rest().await, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_upstream_is_a_429_that_says_when_to_come_back() {
    let world = World::plain().await;
    world.image("library/busybox");
    world.hub.fault(Fault::always(What::Abuse(Some(7))));
    let response = world.ask("GET /v2/busybox/manifests/1.0", "").await;
    assert_eq!((response.status, response.code().as_str()), (429, "TOOMANYREQUESTS"));
    let wait: u64 = response.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert!(!response.json()["errors"][0]["message"].as_str().unwrap().is_empty());
}
