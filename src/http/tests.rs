//! The registry API on raw sockets, over a mirror of a Docker Hub on loopback.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::runtime::Handle;
use weir_conformance::hub::{self, At, Blob, Fault, Hub, Image, Kind as Asked, Match, Spec, What};

use super::{
    raw::{Raw, RawResponse},
    *,
};
use crate::{
    hosted::{self, Hosted},
    identity::Authenticator,
    limits::{Account, Limits, LimitsConfig, Role},
    mirror::{self, Mirror},
    route::Routes,
    upstream::{self, Ledger, Upstream},
};

mod abuse;
mod corrupt;
mod disk;
mod front;
mod pushes;
mod rights;

struct World {
    hub: Hub,
    serving: Serving,
    metrics: Metrics,
    _directory: tempfile::TempDir,
}

/// Tags are fresh for a minute, so that what is warm asks no upstream.
fn patient() -> mirror::Settings {
    mirror::Settings {
        tag_ttl: Duration::from_secs(60),
        stale_if_error: Duration::from_secs(3600),
        negative_entries: 1000,
        ..mirror::Settings::default()
    }
}

async fn world(mirror: mirror::Settings, accounts: Vec<Account>) -> World {
    hosting(mirror, accounts, Hosting::default()).await
}

/// What lives here, and on what disk.
#[derive(Default)]
struct Hosting {
    namespaces: Vec<String>,
    settings: hosted::Settings,
    faults: weir_storage::Faults,
    body_stall: Option<Duration>,
    /// A store of before.
    directory: Option<tempfile::TempDir>,
    /// An account of the upstream, who may read there what is private.
    robot: Option<(&'static str, &'static str)>,
    limits: LimitsConfig,
}

async fn hosting(mirror: mirror::Settings, accounts: Vec<Account>, hosting: Hosting) -> World {
    let directory = hosting.directory.unwrap_or_else(|| tempfile::tempdir().unwrap());
    let accounts_there = hosting.robot.map(|(name, password)| hub::Account::new(name, password));
    let accounts_there = accounts_there.into_iter().collect();
    let hub = Hub::start(hub::Settings { accounts: accounts_there, ..hub::Settings::default() }).await.unwrap();
    let settings = weir_storage::Settings {
        root: directory.path().to_owned(),
        capacity: 1 << 30,
        namespaces: hosting.namespaces.clone(),
        ..weir_storage::Settings::default()
    };
    let store = weir_storage::Store::open_on(settings, hosting.faults).unwrap();
    // So that a fault meets what the test writes, and not the index that is being opened.
    while !store.usage().index_ready {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let keep = |_: Vec<Vec<u8>>| -> upstream::ledger::WriteFuture { Box::pin(std::future::ready(Ok(()))) };
    let ledger = Ledger::new(Vec::new(), Arc::new(keep));
    let robot = hosting.robot.map(|(username, password)| upstream::Account::with_password(username, password));
    let settings = upstream::Settings {
        default: true,
        accounts: robot.into_iter().collect(),
        ..upstream::Settings::new("docker.io", hub.registry())
    };
    let upstream = Upstream::new(settings, ledger.clone()).unwrap();
    let limits = Limits::in_memory(LimitsConfig { accounts: accounts.into(), ..hosting.limits });
    let hosted = Hosted::new(hosting.settings, store.clone());
    let mirror = Mirror::new(mirror, store, vec![upstream], ledger, limits.clone(), Handle::current());
    let settings = Settings {
        workers: 1,
        connections: 1000,
        connections_per_client: 1000,
        head_timeout: Duration::from_secs(5),
        keep_alive: Duration::from_secs(75),
        write_stall: Duration::from_secs(30),
        cors: Vec::new(),
        body_stall: hosting.body_stall.unwrap_or(Duration::from_secs(30)),
        drain: Duration::from_secs(1),
        routes: Routes::new(Some("docker.io"), ["docker.io"]).hosting(&hosting.namespaces).into(),
    };
    let listener = |login| {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Listener { socket, login, tls: None }
    };
    let listeners = vec![listener(false), listener(true)];
    let metrics = Metrics::new();
    let authenticator = Authenticator::new(limits.clone());
    let serving = serve(settings, listeners, mirror, limits, authenticator, hosted, metrics.clone()).await.unwrap();
    World { hub, serving, metrics, _directory: directory }
}

impl World {
    async fn plain() -> World {
        world(patient(), Vec::new()).await
    }

    async fn ask(&self, line: &str, headers: &str) -> RawResponse {
        Raw::to(&self.serving).await.ask(line, headers).await
    }

    fn image(&self, name: &str) -> Image {
        self.hub.push(Spec::new(name).tags(["1.0", "latest"]).layers([300_000, 1_000])).unwrap()
    }
}

fn layer(image: &Image) -> &Blob {
    image.platforms[0].layers.iter().max_by_key(|layer| layer.size).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ping_answers_everybody_and_challenges_only_where_a_login_is_wanted() {
    let hash = "$argon2id$v=19$m=16,t=1,p=1$c29tZXNhbHQ$";
    let password_hash = {
        use argon2::{Argon2, Params, PasswordHasher as _, password_hash::SaltString};
        let cheap =
            Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, Params::new(16, 1, 1, None).unwrap());
        cheap.hash_password(b"secret", &SaltString::from_b64("c29tZXNhbHQ").unwrap()).unwrap().to_string()
    };
    assert!(password_hash.starts_with(hash));
    let account = Account {
        name: "ci".into(),
        password_hash: password_hash.into(),
        role: Role::User,
        budget_override: false,
        networks: Vec::new(),
        namespaces: Vec::new(),
        pull: Arc::from([]),
        push: Arc::from([]),
        delete: Arc::from([]),
    };
    let world = world(patient(), vec![account]).await;
    for path in ["/v2/", "/v2", "/docker.io/v2/", "/registry-1.docker.io/v2/"] {
        let response = world.ask(&format!("GET {path}"), "").await;
        assert_eq!((response.status, response.body.as_slice()), (200, &b"{}"[..]), "{path}");
        assert_eq!(response.header("docker-distribution-api-version"), Some("registry/2.0"));
        assert_eq!(response.header("content-type"), Some("application/json"));
        assert_eq!(response.header("www-authenticate"), None);
    }
    assert_eq!(world.ask("HEAD /v2/", "").await.header("content-length"), Some("2"));
    assert_eq!(world.ask("GET /evil.example/v2/", "").await.code(), "NAME_UNKNOWN");

    // Wrong credentials are as none: dockerd offers those of Docker Hub if it is challenged.
    let basic = |text: &str| format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode(text));
    assert_eq!(world.ask("GET /v2/", &basic("hub:password")).await.status, 200);

    let mut login = Raw(tokio::net::TcpStream::connect(world.serving.addresses[1]).await.unwrap());
    for credentials in [String::new(), basic("ci:wrong"), basic("other:secret")] {
        let response = login.ask("GET /v2/", &credentials).await;
        assert_eq!((response.status, response.code().as_str()), (401, "UNAUTHORIZED"));
        assert!(response.header("www-authenticate").unwrap().starts_with("Basic realm="));
    }
    assert_eq!(login.ask("GET /v2/", &basic("ci:secret")).await.status, 200);
    // What a load balancer asks has no password (distribution/distribution#840, #874, #629).
    for (line, headers) in
        [("GET /", ""), ("HEAD /", "User-Agent: ELB-HealthChecker/2.0\r\n"), ("GET /?probe=1", "Accept: */*\r\n")]
    {
        let response = login.ask(line, headers).await;
        assert_eq!((response.status, response.header("www-authenticate")), (200, None), "{line}");
    }
    assert_eq!(login.ask("DELETE /", "").await.status, 405);

    // A pull, too: an expired password must not become anonymous in silence. Without credentials any client may pull what is public.
    world.image("library/busybox");
    let pull = "GET /v2/library/busybox/manifests/1.0";
    for wrong in [basic("ci:wrong"), "Authorization: Basic !\r\n".into(), "Authorization: Bearer abc\r\n".into()] {
        let response = login.ask(pull, &wrong).await;
        assert_eq!((response.status, response.code().as_str()), (401, "UNAUTHORIZED"), "{wrong}");
        assert_eq!(world.ask(pull, &wrong).await.status, 200, "{wrong}");
    }
    assert_eq!(login.ask(pull, "").await.status, 200);
    assert_eq!(login.ask(pull, &basic("ci:secret")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_the_same_by_get_and_head_by_tag_and_digest_and_under_every_name() {
    let world = World::plain().await;
    let image = world.image("library/busybox");
    let digest = image.digest();
    let mut client = Raw::to(&world.serving).await;
    let cold = client.ask("GET /v2/library/busybox/manifests/1.0", "").await;
    assert_eq!((cold.status, cold.body.as_slice()), (200, image.root.bytes.as_ref()));
    assert_eq!(cold.header("x-cache"), Some("miss"));
    assert_eq!(cold.header("age"), None);
    assert_eq!(cold.header("oci-namespace"), None);
    let etag = format!("\"{digest}\"");
    for (path, namespace) in [
        ("/v2/library/busybox/manifests/1.0", None),
        ("/v2/busybox/manifests/1.0", None),
        ("/v2/busybox/manifests/1.0?ns=docker.io", Some("docker.io")),
        ("/v2/library/busybox/manifests/1.0?ns=registry-1.docker.io", Some("registry-1.docker.io")),
        ("/v2/busybox/manifests/1.0?ns=Docker.IO", Some("Docker.IO")),
        ("/v2/docker.io/library/busybox/manifests/1.0", None),
        ("/v2/Docker.io/library/busybox/manifests/1.0", None),
        ("/Docker.io/v2/library/busybox/manifests/1.0", None),
        ("/docker.io/v2/library/busybox/manifests/1.0", None),
        ("/docker.io/v2/busybox/manifests/1.0?ns=docker.io", Some("docker.io")),
        (&format!("/v2/library/busybox/manifests/{digest}"), None),
        (&format!("/v2/library/busybox/manifests/{}", digest.replace(':', "%3a")), None),
    ] {
        for method in ["GET", "HEAD"] {
            let response = client.ask(&format!("{method} {path}"), "").await;
            assert_eq!(response.status, 200, "{method} {path}: {}", response.head);
            let header = |name| response.header(name);
            assert_eq!(header("content-type"), Some(image.root.media_type.as_str()), "{path}");
            assert_eq!(header("content-length"), Some(image.root.bytes.len().to_string().as_str()), "{path}");
            assert_eq!(header("docker-content-digest"), Some(digest), "{path}");
            assert_eq!(header("etag"), Some(etag.as_str()));
            assert_eq!(header("docker-distribution-api-version"), Some("registry/2.0"));
            assert_eq!(header("x-cache"), Some("hit"), "{method} {path}");
            assert_eq!(header("cache-status"), Some("weir; hit"));
            assert!(header("age").is_some());
            assert_eq!(header("oci-namespace"), namespace, "{path}");
            assert_eq!(header("content-encoding"), None);
            assert!(method == "HEAD" || response.body == image.root.bytes, "{path}");
            let had = client.ask(&format!("{method} {path}"), &format!("If-None-Match: {etag}\r\n")).await;
            assert_eq!((had.status, had.header("etag")), (304, Some(etag.as_str())));
        }
    }
    assert_eq!(world.hub.count(|asked| asked.kind == Asked::ManifestGet), 1);

    let missing = client.ask("GET /v2/busybox/manifests/9.9", "").await;
    assert_eq!((missing.status, missing.code().as_str()), (404, "MANIFEST_UNKNOWN"));
    let message = missing.json()["errors"][0]["message"].as_str().unwrap().to_owned();
    assert_eq!(message, "docker.io/library/busybox has no manifest 9.9");
    let missing = client.ask("HEAD /v2/busybox/manifests/9.9", "").await;
    assert_eq!(missing.status, 404);
    assert_eq!(client.ask("GET /v2/", "").await.status, 200, "something followed the head of a 404");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_served_whole_and_in_parts_cold_and_warm() {
    let world = World::plain().await;
    let image = world.image("library/busybox");
    let layer = layer(&image);
    let (path, size) = (format!("/v2/library/busybox/blobs/{}", layer.digest), layer.size);
    let mut client = Raw::to(&world.serving).await;
    let cold_head = client.ask(&format!("HEAD {path}"), "").await;
    assert_eq!((cold_head.status, cold_head.header("content-length")), (200, Some(size.to_string().as_str())));
    assert_eq!(world.hub.count(|asked| asked.kind == Asked::BlobGet), 0, "a HEAD brought the blob here");
    let whole = client.ask(&format!("GET {path}"), "").await;
    assert_eq!(whole.header("x-cache"), Some("miss"));
    for _ in 0..2 {
        let response = client.ask(&format!("GET {path}"), "").await;
        assert_eq!((response.status, response.header("content-length")), (200, Some(size.to_string().as_str())));
        assert_eq!(crate::oci::Algorithm::Sha256.digest(&response.body).to_string(), layer.digest);
        assert!(response.body == whole.body);
        assert_eq!(response.header("content-type"), Some("application/octet-stream"));
        assert_eq!(response.header("docker-content-digest"), Some(layer.digest.as_str()));
        assert_eq!(response.header("accept-ranges"), Some("bytes"));
        assert_eq!(response.header("content-encoding"), None);
    }
    let bytes = &whole.body;
    let etag = format!("\"{}\"", layer.digest);
    for (headers, expected) in [
        ("Range: bytes=0-0\r\n".to_owned(), Some(0..1)),
        ("Range: bytes=500-1499\r\n".into(), Some(500..1500)),
        ("Range: bytes=500-\r\n".into(), Some(500..size)),
        ("Range: bytes=-500\r\n".into(), Some(size - 500..size)),
        (format!("Range: bytes=500-{}\r\n", size * 2), Some(500..size)),
        (format!("Range: bytes=5-9\r\nIf-Range: {etag}\r\n"), Some(5..10)),
        ("Range: bytes=5-9\r\nIf-Range: \"other\"\r\n".into(), None),
        ("Range: bytes=5-9\r\nIf-Range: Wed, 21 Oct 2015 07:28:00 GMT\r\n".into(), None),
        ("Range: bytes=0-1,5-6\r\n".into(), None),
        ("Range: lines=0-1\r\n".into(), None),
        ("Accept-Encoding: zstd;q=1.0, gzip;q=0.8\r\n".into(), None),
    ] {
        let response = client.ask(&format!("GET {path}"), &headers).await;
        match expected {
            None => assert!(response.status == 200 && response.body == *bytes, "{headers}"),
            Some(part) => {
                let range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
                assert_eq!(
                    (response.status, response.header("content-range")),
                    (206, Some(range.as_str())),
                    "{headers}"
                );
                assert!(response.body == bytes[part.start as usize..part.end as usize], "{headers}");
            }
        }
    }
    for headers in [format!("Range: bytes={size}-\r\n"), "Range: bytes=500-0\r\n".into(), "Range: bytes=-0\r\n".into()]
    {
        let response = client.ask(&format!("GET {path}"), &headers).await;
        assert_eq!(
            (response.status, response.header("content-range")),
            (416, Some(format!("bytes */{size}").as_str()))
        );
    }
    let had = client.ask(&format!("GET {path}"), &format!("If-None-Match: {etag}\r\n")).await;
    assert_eq!(had.status, 304);
    let ranged_head = client.ask(&format!("HEAD {path}"), "Range: bytes=0-0\r\n").await;
    assert_eq!((ranged_head.status, ranged_head.header("content-length")), (200, Some(size.to_string().as_str())));
    assert_eq!(world.hub.count(|asked| asked.kind == Asked::BlobGet), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_of_a_cold_blob_comes_from_its_fill() {
    let world = World::plain().await;
    let image = world.image("library/busybox");
    let layer = layer(&image);
    let path = format!("/v2/library/busybox/blobs/{}", layer.digest);
    let suffix = world.ask(&format!("GET {path}"), "Range: bytes=-100\r\n").await;
    assert_eq!((suffix.status, suffix.body.len()), (206, 100));
    let whole = world.ask(&format!("GET {path}"), "").await;
    assert!(whole.body.ends_with(&suffix.body));
    assert_eq!(crate::oci::Algorithm::Sha256.digest(&whole.body).to_string(), layer.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_blob_looks_like_one_that_is_nowhere() {
    let world = World::plain().await;
    let private = world.hub.push(Spec::new("corp/app").tags(["1"]).layers([5_000]).private()).unwrap();
    world.image("library/busybox");
    let absent = crate::oci::Algorithm::Sha256.digest(b"nowhere").to_string();
    for method in ["GET", "HEAD"] {
        let hear = async |digest: &str| {
            let response = world.ask(&format!("{method} /v2/library/busybox/blobs/{digest}"), "").await;
            let mut head: Vec<String> = response
                .head
                .lines()
                .filter(|line| !line.starts_with("date:") && !line.starts_with("x-request-id:"))
                .map(Into::into)
                .collect();
            head.sort();
            (head, response.body)
        };
        assert_eq!(hear(&private.platforms[0].layers[0].digest).await, hear(&absent).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_mirrored_is_read_only() {
    let world = World::plain().await;
    let digest = crate::oci::Algorithm::Sha256.digest(b"x");
    for (method, path, allow) in [
        ("PUT", "/v2/library/busybox/manifests/1.0".to_owned(), "GET, HEAD"),
        ("DELETE", "/v2/library/busybox/manifests/1.0".into(), "GET, HEAD"),
        ("DELETE", format!("/v2/library/busybox/blobs/{digest}"), "GET, HEAD"),
        ("POST", "/v2/library/busybox/blobs/uploads/".into(), ""),
        ("POST", format!("/v2/library/busybox/blobs/uploads/?mount={digest}&from=a/b"), ""),
        ("PATCH", "/v2/library/busybox/blobs/uploads/some-id".into(), ""),
        ("PUT", format!("/v2/library/busybox/blobs/uploads/some-id?digest={digest}"), ""),
        ("GET", "/v2/library/busybox/blobs/uploads/some-id".into(), ""),
        ("OPTIONS", "/v2/library/busybox/tags/list".into(), "GET, HEAD"),
        ("TRACE", "/v2/".into(), "GET, HEAD"),
        ("BREW", "/v2/_catalog".into(), "GET, HEAD"),
        ("POST", format!("/v2/library/busybox/referrers/{digest}"), "GET, HEAD"),
    ] {
        let response = world.ask(&format!("{method} {path}"), "").await;
        assert_eq!((response.status, response.code().as_str()), (405, "UNSUPPORTED"), "{method} {path}");
        assert_eq!(response.header("allow").unwrap_or_default(), allow, "{method} {path}: {}", response.head);
    }
    // With a body, the answer comes all the same and the body is not taken for a request.
    let mut client = Raw::to(&world.serving).await;
    let body = "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    client
        .send(format!("PUT /v2/a/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
        .await;
    let all = String::from_utf8(client.rest().await).unwrap();
    assert!(all.starts_with("HTTP/1.1 405") && all.matches("HTTP/1.1").count() == 1, "{all}");
    assert!(world.hub.log().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_a_4xx_and_asks_no_upstream() {
    const REGISTERED: [&str; 14] = [
        "BLOB_UNKNOWN",
        "BLOB_UPLOAD_INVALID",
        "BLOB_UPLOAD_UNKNOWN",
        "DIGEST_INVALID",
        "MANIFEST_BLOB_UNKNOWN",
        "MANIFEST_INVALID",
        "MANIFEST_UNKNOWN",
        "NAME_INVALID",
        "NAME_UNKNOWN",
        "SIZE_INVALID",
        "UNAUTHORIZED",
        "DENIED",
        "UNSUPPORTED",
        "TOOMANYREQUESTS",
    ];
    let world = World::plain().await;
    let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let long = "a".repeat(5000);
    for path in [
        "/v1/",
        "/v2/x",
        "/v2/a/b",
        "/v2//manifests/x",
        "/v2/A/manifests/x",
        "/v2/a_/manifests/x",
        "/v2/../../etc/manifests/passwd",
        "/v2/%2e%2e%2f%2e%2e/manifests/..%2f..%2fetc",
        "/v2/a%2fb/manifests/x",
        "/v2/a%00b/manifests/x",
        "/v2/a/manifests/x%0d%0aX:y",
        "/v2/%252e/manifests/x",
        "/v2/a%5cb/manifests/x",
        "/v2/%c0%ae/manifests/x",
        "/%2F%2F%2F..%2F..%2Fetc%2Fpasswd",
        "//v2/_catalog",
        "/v2/_catalog/",
        "/v2/_catalog;x",
        "/%2fv2%2f_catalog",
        "/v2/*/tags/list",
        "/v2/a*b/tags/list",
        "/v2/a/tags/list?n=-1",
        "/v2/a/tags/list?n=abc",
        "/v2/a/tags/list?n=99999999999999999999",
        "/v2/a/tags/list?n=",
        "/v2/_catalog?n=-1",
        "/v2/a/manifests/.x",
        "/v2/a/blobs/latest",
        "/v2/a/blobs/sha256:../../x",
        "/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e",
        "/v2/a/manifests/sha256:abc",
        "/v2/a/manifests/a:b:c",
        "/v2/a/referrers/1.0",
        "/v2/evil.example/a/manifests/x",
        "/evil.example/v2/a/manifests/x",
        "/v2/a/manifests/x?ns=evil.example",
        "/v2/169.254.169.254/latest/manifests/x",
        "/v2/a/manifests/x?ns=169.254.169.254",
        "/v2/a/manifests/x?ns=%0d%0a",
        "/v2/localhost:1/a/manifests/x",
        "/v2/a/manifests/x?ns=localhost:1",
        &format!("/v2/a/manifests/{long}"),
        &format!("/v2/{long}/manifests/x"),
        &format!("/v2/a/tags/list?last={long}"),
        &format!("/v2/a/manifests/x?ns={long}"),
        &format!("/v2/a/blobs/sha256:{}", hex.to_uppercase()),
        &format!("/v2/a/blobs/sha256:{hex}0"),
        &format!("/v2/a/blobs/sha256:{hex}/.."),
        &format!("/v2/a/blobs/sha512:{hex}"),
        &format!("/v2/a/blobs/SHA256:{hex}"),
        &format!("/v2/a/referrers/sha256:{hex}?artifactType={long}"),
    ] {
        let response = world.ask(&format!("GET {path}"), "").await;
        assert!((400..500).contains(&response.status), "{path}: {}", response.head);
        assert!(REGISTERED.contains(&response.code().as_str()), "{path}: {:?}", response.json());
        assert_eq!(response.header("content-type"), Some("application/json"));
        let error = &response.json()["errors"][0];
        assert!(error["detail"] != "" && !error["message"].as_str().unwrap().contains(char::is_control));
        let head = world.ask(&format!("HEAD {path}"), "").await;
        assert_eq!(head.status, response.status, "{path}");
    }
    // What actix-http refuses by itself.
    for request in [
        "GET /v2/a b/manifests/x HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "GET /v2/a\0b/manifests/x HTTP/1.1\r\nHost: x\r\n\r\n".into(),
        "GET /v2/ HTTP/1.1\r\n\r\n".into(),
        "GET /v2/ HTTP/9.9\r\nHost: x\r\n\r\n".into(),
        "\u{16}\u{3}\u{1}\r\n\r\n".into(),
        format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(200_000)),
        format!("GET /v2/ HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(200)),
    ] {
        let mut client = Raw::to(&world.serving).await;
        client.send(&request).await;
        let response = client.response("GET").await;
        assert_eq!((response.status / 100, response.code().as_str()), (4, "UNSUPPORTED"), "{request:.60}");
        assert_eq!(client.rest().await, b"", "{request:.60}");
    }
    let response = world.ask("GET /v2/", &format!("X: {}\r\n", "a".repeat(60_000))).await;
    assert_eq!((response.status, response.code().as_str()), (431, "UNSUPPORTED"));
    assert_eq!(world.ask(&format!("GET /v2/a/manifests/{long}"), "").await.status, 414);
    let response = world.ask(&format!("GET /v2/a/manifests/1.0?x={}", "a".repeat(8_191)), "").await;
    assert_eq!((response.status, response.code().as_str()), (414, "UNSUPPORTED"));
    assert!(world.hub.log().is_empty(), "{:?}", world.hub.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged_as_asked() {
    let world = World::plain().await;
    let tags: Vec<String> = (0..7).map(|number| format!("t{number}")).collect();
    world.hub.push(Spec::new("library/busybox").tags(tags.clone()).layers([100])).unwrap();
    let mut client = Raw::to(&world.serving).await;
    let whole = client.ask("GET /v2/busybox/tags/list", "").await;
    assert_eq!(whole.json(), serde_json::json!({"name": "busybox", "tags": tags}));
    assert_eq!((whole.header("link"), whole.header("content-type")), (None, Some("application/json")));
    let none = client.ask("GET /v2/busybox/tags/list?n=0", "").await;
    assert_eq!((none.json()["tags"].as_array().map(Vec::len), none.header("link")), (Some(0), None));
    let (mut found, mut next) = (Vec::new(), "/v2/docker.io/library/busybox/tags/list?n=3&ns=docker.io".to_owned());
    for page in 0.. {
        let response = client.ask(&format!("GET {next}"), "").await;
        assert_eq!(response.json()["name"], "docker.io/library/busybox");
        found.extend(response.json()["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()));
        let Some(link) = response.header("link") else { break };
        assert!(link.ends_with(">; rel=\"next\"") && page < 3, "{link}");
        next = link[1..].split('>').next().unwrap().to_owned();
    }
    assert_eq!(found, tags);
    let after = client.ask("GET /v2/busybox/tags/list?last=t45", "").await;
    assert_eq!(after.json()["tags"], serde_json::json!(["t5", "t6"]));
    let missing = client.ask("GET /v2/missing/tags/list", "").await;
    assert_eq!((missing.status, missing.code().as_str()), (404, "NAME_UNKNOWN"));

    world.ask("GET /v2/busybox/manifests/t0", "").await;
    let catalog = client.ask("GET /v2/_catalog", "").await;
    assert_eq!(catalog.json(), serde_json::json!({"repositories": ["library/busybox"]}));
    let catalog = client.ask("GET /docker.io/v2/_catalog?n=1", "").await;
    assert_eq!(catalog.json(), serde_json::json!({"repositories": ["library/busybox"]}));
    assert_eq!(client.ask("GET /evil.example/v2/_catalog", "").await.code(), "NAME_UNKNOWN");
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_are_an_index_filtered_as_announced() {
    let world = World::plain().await;
    let image = world.image("library/busybox");
    for artifact_type in ["application/vnd.a+json", "application/vnd.b+json"] {
        world.hub.push_referrer(hub::Artifact {
            repository: "library/busybox".into(),
            subject: image.digest().into(),
            artifact_type: artifact_type.into(),
            annotations: Vec::new(),
            content: "signed".into(),
        });
    }
    let path = format!("/v2/library/busybox/referrers/{}", image.digest());
    let all = world.ask(&format!("GET {path}"), "").await;
    assert_eq!(all.header("content-type"), Some("application/vnd.oci.image.index.v1+json"));
    assert_eq!(all.json()["manifests"].as_array().unwrap().len(), 2);
    assert_eq!((&all.json()["schemaVersion"], all.header("oci-filters-applied")), (&2.into(), None));
    let some = world.ask(&format!("GET {path}?artifactType=application%2Fvnd.b%2Bjson"), "").await;
    assert_eq!(some.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(some.json()["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(some.json()["manifests"][0]["artifactType"], "application/vnd.b+json");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_answer_says_so() {
    let world = world(mirror::Settings { tag_ttl: Duration::ZERO, ..patient() }, Vec::new()).await;
    let image = world.image("library/busybox");
    assert_eq!(world.ask("GET /v2/busybox/manifests/1.0", "").await.status, 200);
    world.hub.down().await;
    for method in ["GET", "HEAD"] {
        let response = world.ask(&format!("{method} /v2/busybox/manifests/1.0"), "").await;
        assert_eq!((response.status, response.header("x-cache")), (200, Some("stale")));
        assert_eq!(response.header("docker-content-digest"), Some(image.digest()));
        let warning = response.header("warning").unwrap();
        assert!(warning.starts_with("299 - \"") && warning.ends_with('"'), "{warning}");
        assert!(response.header("age").is_some());
    }
    let cold = world.ask("GET /v2/busybox/manifests/latest", "").await;
    assert_eq!((cold.status, cold.code().as_str()), (503, "UNAVAILABLE"));
}
