//! What must be refused, in the words clients print, and without asking or opening anything.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use super::{Check, Harness, Outcome, check, ensure};
use crate::client::{Client, Connection, Request, Response, Shape};

pub(super) const CHECKS: &[Check] = &[
    check!("GET /v2/ answers 200 without a challenge", "spec end-1; dockerd would send Hub's password", ping),
    check!("names, tags and digests that are none", "4xx, nothing asked upstream", bad_names),
    check!("paths that climb or hide", "4xx, nothing asked upstream", bad_paths),
    check!("page sizes that are none", "4xx, nothing asked upstream", bad_pages),
    check!("writes to mirrored names", "405 UNSUPPORTED, nothing asked upstream", writes),
    check!("a private repository's blob under another name", "404, identical to an unknown digest", other_name),
    check!("ns= routes and is echoed", "spec proxying; OCI-Namespace", namespace),
    check!("a registry in the path, before and after /v2/", "closed harness, open spelling", prefixes),
    check!("an unknown registry", "404, opens no socket", unknown_registry),
    check!("names of one component are library/", "docker.io", library),
    check!("a head that never ends is closed", "invariant 12; within 35 s", slow_head),
    check!("a head too large, a request that smuggles", "invariant 12; 4xx and closed", hostile_heads),
];

async fn ping(harness: Arc<Harness>) -> Outcome {
    let answer = harness.client.send(&Request::get("/v2/")).await?;
    ensure!(answer.status() == 200, "{}", answer.describe());
    ensure!(answer.head.header("www-authenticate").is_none(), "a challenge");
    Ok("200".into())
}

/// Every target gets a 4xx, an OCI error unless it was refused below HTTP routing, and upstream hears nothing.
async fn all_refused(harness: &Harness, targets: Vec<String>) -> Outcome {
    let before = harness.requests();
    let mut wrong = Vec::new();
    for target in &targets {
        match harness.client.send(&Request::get(target.clone()).accepting_manifests()).await {
            Ok(answer) if (400..500).contains(&answer.status()) => {}
            Ok(answer) => wrong.push(format!("{}: {}", cut(target), answer.describe())),
            Err(error) => wrong.push(format!("{}: {error}", cut(target))),
        }
    }
    let asked = harness.requests() - before;
    let last: Vec<String> =
        harness.hub.log().iter().skip(before as usize).map(|l| format!("{} {}", l.method, cut(&l.target))).collect();
    ensure!(wrong.is_empty(), "{} of {} not refused: {}", wrong.len(), targets.len(), wrong.join("; "));
    ensure!(asked == 0, "{asked} requests upstream: {}", last.join(", "));
    Ok(format!("{} refused, 0 requests upstream", targets.len()))
}

fn cut(target: &str) -> String {
    if target.len() > 90 { format!("{}…({} bytes)", &target[..60], target.len()) } else { target.to_owned() }
}

async fn bad_names(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("bad-names", &[1000]).await?;
    let (c, name) = (&harness.client, image.repository.as_str());
    let hex = image.digest.trim_start_matches("sha256:");
    let mut targets = Vec::new();
    for bad in
        ["Upper/case", "two//slashes", "trailing-/x", "-leading", "a/.b", "a/b_", "sp%20ace", "st*r", "a/%2a", "ünï"]
    {
        targets.push(c.manifest(bad, "latest"));
        targets.push(c.path(bad, "tags/list"));
    }
    targets.push(c.manifest(&vec!["a"; 200].join("/"), "latest"));
    targets.push(c.manifest(&"a".repeat(300), "latest"));
    for bad in [".dot", "-dash", "sp%20ace", "st*r", "ta:g", "ta@g", "%00", "t%00g", "a%0d%0aX-Injected:%201"] {
        targets.push(c.manifest(name, bad));
    }
    targets.push(c.manifest(name, &"t".repeat(129)));
    targets.push(c.manifest(name, &"t".repeat(5000)));
    let upper = hex.to_uppercase();
    let digests = [
        format!("sha256:{}", &hex[..63]),
        format!("sha256:{hex}0"),
        format!("sha256:{upper}"),
        format!("SHA256:{hex}"),
        format!("sha256:{}g", &hex[..63]),
        format!("md5:{}", &hex[..32]),
        format!("sha512:{hex}"),
        format!("sha256:{hex}/.."),
        "sha256:".to_owned(),
        "sha256:../../x".to_owned(),
        format!("sha256:{}", "0".repeat(5000)),
    ];
    for digest in digests {
        targets.push(c.manifest(name, &digest));
        targets.push(c.blob(name, &digest));
        targets.push(c.path(name, &format!("referrers/{digest}")));
    }
    targets.push(c.blob(name, "latest"));
    all_refused(&harness, targets).await
}

async fn bad_paths(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("bad-paths", &[1000]).await?;
    let digest = &image.digest;
    let name = &image.repository;
    let targets = [
        "/v2/../../etc/passwd/manifests/latest".to_owned(),
        "/v2/%2e%2e%2f%2e%2e/manifests/..%2f..%2fetc".to_owned(),
        "/v2/%252e%252e/manifests/latest".to_owned(),
        "/v2/a%2fb/manifests/latest".to_owned(),
        "/v2/a%5cb/manifests/latest".to_owned(),
        "/v2/a%00b/manifests/latest".to_owned(),
        "/v2/a%c0%ae/manifests/latest".to_owned(),
        format!("/v2/{name}/manifests/..%2f..%2fblobs%2f{digest}"),
        format!("/v2/{name}/manifests/"),
        format!("/v2/{name}/manifests/latest/"),
        format!("/v2/{name}/blobs/"),
        format!("/v2/{name}/blobs/{digest}/x"),
        format!("/v2/{name}/"),
        format!("/v2/{name}"),
        "/v2//manifests/latest".to_owned(),
        "/v2/manifests/latest".to_owned(),
        "/v1/search?q=x".to_owned(),
        "/../../etc/passwd".to_owned(),
        "/%2F%2F%2F..%2Fetc%2Fpasswd".to_owned(),
    ];
    all_refused(&harness, targets.into()).await
}

async fn bad_pages(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("bad-pages", &[1000]).await?;
    let targets = ["n=-1", "n=99999999999999999999", "n=abc", "n=1e3", "n=", "n=0x10"];
    let targets = targets.map(|query| harness.client.path(&image.repository, &format!("tags/list?{query}")));
    all_refused(&harness, targets.into()).await
}

async fn writes(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("writes", &[1000]).await?;
    harness.client.pull(&image.repository, &image.tag, Shape::HeadFirst).await?;
    let before = harness.requests();
    let c = &harness.client;
    let name = &image.repository;
    let requests = [
        ("POST", c.path(name, "blobs/uploads/")),
        ("POST", c.path(name, &format!("blobs/uploads/?digest={}", image.digest))),
        ("POST", c.path(name, &format!("blobs/uploads/?mount={}&from=library/x", image.layers[0].digest))),
        ("PATCH", c.path(name, "blobs/uploads/1")),
        ("PUT", c.path(name, &format!("blobs/uploads/1?digest={}", image.digest))),
        ("PUT", c.manifest(name, "latest")),
        ("DELETE", c.manifest(name, &image.digest)),
        ("DELETE", c.manifest(name, "latest")),
        ("DELETE", c.blob(name, &image.layers[0].digest)),
    ];
    for (method, target) in requests {
        let answer = c.send(&Request::new(method, target.clone()).with("Content-Length", "0")).await?;
        let code = answer.error_code();
        let right = answer.status() == 405 && code.as_deref() == Some("UNSUPPORTED");
        ensure!(right, "{method} {}: {}", cut(&target), answer.describe());
    }
    let asked = harness.requests() - before;
    ensure!(asked == 0, "{asked} requests upstream");
    c.pull(name, &image.tag, Shape::TagGet).await?;
    Ok("9 writes, 405 UNSUPPORTED each, 0 requests upstream".into())
}

async fn other_name(harness: Arc<Harness>) -> Outcome {
    let private = harness.warm_image("was-public", &[200_000]).await?;
    harness.make_private(&private).await?;
    let other = harness.image("other", &[1000]).await?;
    harness.client.pull(&other.repository, &other.tag, Shape::HeadFirst).await?;
    let before = harness.downloads(&private.layers[0].digest);
    let (held, unknown) = (private.layers[0].digest.clone(), format!("sha256:{:064x}", 0xdead_beef_u64));
    for (method, range) in [("GET", None), ("HEAD", None), ("GET", Some("bytes=0-9"))] {
        let ask = async |digest: &str| {
            let mut request = Request::new(method, harness.client.blob(&other.repository, digest));
            if let Some(range) = range {
                request = request.range(range);
            }
            harness.client.send(&request).await
        };
        let (of_held, of_unknown) = (ask(&held).await?, ask(&unknown).await?);
        ensure!(of_held.status() == 404, "{method} {range:?} under another name: {}", of_held.describe());
        let (a, b) = (visible(&of_held, &held), visible(&of_unknown, &unknown));
        ensure!(a == b, "{method}: the two 404s differ: {a} | {b}");
    }
    let downloads = harness.downloads(&held) - before;
    ensure!(downloads == 0, "{downloads} downloads for a name that does not have it");
    Ok("404 for GET, HEAD and a range, identical to an unknown digest".into())
}

/// All that a client can tell two answers apart by, the digest it asked for left out.
fn visible(answer: &Response, digest: &str) -> String {
    let volatile = ["date", "x-request-id"];
    // Their order is no message: servers keep them in hash maps.
    let mut headers: Vec<String> = answer
        .head
        .headers
        .iter()
        .filter(|(name, _)| !volatile.contains(&name.to_ascii_lowercase().as_str()))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    headers.sort();
    format!("{} {headers:?} {}", answer.status(), answer.text()).replace(digest, "<digest>")
}

async fn namespace(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("ns", &[1000]).await?;
    let target = format!("/v2/{}/manifests/{}?ns=docker.io", image.repository, image.tag);
    let answer = harness.client.send(&Request::get(target).accepting_manifests()).await?;
    ensure!(answer.sha256 == image.digest, "?ns=docker.io: {}", answer.describe());
    let echoed = answer.head.header("oci-namespace");
    ensure!(echoed == Some("docker.io"), "OCI-Namespace: {echoed:?}");
    Ok("?ns=docker.io is served, OCI-Namespace: docker.io".into())
}

async fn prefixes(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("prefixes", &[1000]).await?;
    let name = &image.repository;
    for target in [
        format!("/v2/docker.io/{name}/manifests/latest"),
        format!("/docker.io/v2/{name}/manifests/latest"),
        format!("/v2/{name}/manifests/latest"),
    ] {
        let answer = harness.client.send(&Request::get(target.clone()).accepting_manifests()).await?;
        ensure!(answer.sha256 == image.digest, "{target}: {}", answer.describe());
    }
    let spent = harness.spent(&image);
    ensure!(spent.manifest_gets == 1, "three spellings of one name cost {} manifest GETs", spent.manifest_gets);
    Ok("three spellings, 1 manifest GET".into())
}

async fn unknown_registry(harness: Arc<Harness>) -> Outcome {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(|e| e.to_string())?;
    let there = listener.local_addr().map_err(|e| e.to_string())?;
    let reached = Arc::new(AtomicU32::new(0));
    let watcher = {
        let reached = reached.clone();
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                reached.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let before = harness.requests();
    let targets = [
        format!("/v2/library/x/manifests/latest?ns={there}"),
        format!("/v2/{there}/library/x/manifests/latest"),
        format!("/{there}/v2/library/x/manifests/latest"),
        "/v2/library/x/manifests/latest?ns=registry.example".to_owned(),
        "/v2/library/x/manifests/latest?ns=169.254.169.254".to_owned(),
        "/v2/library/x/tags/list?ns=..%2f..".to_owned(),
        "/v2/localhost/x/manifests/latest".to_owned(),
    ];
    let mut wrong = Vec::new();
    for target in &targets {
        let answer = harness.client.send(&Request::get(target.clone()).accepting_manifests()).await?;
        if answer.status() != 404 && answer.status() != 400 {
            wrong.push(format!("{target}: {}", answer.describe()));
        }
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    watcher.abort();
    let (sockets, asked) = (reached.load(Ordering::Relaxed), harness.requests() - before);
    ensure!(sockets == 0, "{sockets} connections to a registry that is not configured");
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    ensure!(asked == 0, "{asked} requests to Docker Hub for names of another registry");
    Ok(format!("{} refused, no socket opened", targets.len()))
}

async fn library(harness: Arc<Harness>) -> Outcome {
    let short = format!("lib{}", harness.repository("x").rsplit('-').next().unwrap_or_default());
    let image = harness.image_in(format!("library/{short}"), &[1000]).await?;
    let answer = harness.client.get_manifest(&short, "latest").await?;
    ensure!(answer.sha256 == image.digest, "{short}: {}", answer.describe());
    let pull = harness.client.pull(&image.repository, "latest", Shape::HeadFirst).await?;
    let spent = harness.spent(&image);
    ensure!(pull.digest == image.digest && spent.manifest_gets == 2, "upstream: {spent}");
    Ok(format!("{short} is library/{short}, one image"))
}

async fn slow_head(harness: Arc<Harness>) -> Outcome {
    let address = harness.client.address();
    let watch = async |what: &'static str, bytes: &'static [u8]| {
        let mut connection = Connection::open(address).await?;
        connection.send_raw(bytes).await?;
        let start = std::time::Instant::now();
        // An answer of 408 may come before the end.
        let closed = connection.patient_for(Duration::from_secs(35)).until_closed().await;
        Ok::<_, crate::client::Error>((what, closed, start.elapsed()))
    };
    let (half, silent) =
        tokio::join!(watch("half a head", b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-"), watch("no byte at all", b""));
    let mut figures = Vec::new();
    for result in [half, silent] {
        let (what, closed, after) = result?;
        ensure!(closed, "{what}: still open after {after:?}");
        figures.push(format!("{what}: closed after {:.1} s", after.as_secs_f64()));
    }
    Ok(figures.join("; "))
}

async fn hostile_heads(harness: Arc<Harness>) -> Outcome {
    let address = harness.client.address();
    let long_line = format!("GET /v2/{}/manifests/latest HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(200_000));
    let many = format!("GET /v2/ HTTP/1.1\r\nHost: x\r\n{}\r\n", "X-Filler: yyyyyyyy\r\n".repeat(5000));
    let smuggle = "GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
                   GET /v2/smuggled/x/manifests/latest HTTP/1.1\r\nHost: x\r\n\r\n";
    let doubled = "GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 3\r\n\r\nabc";
    let before = harness.requests();
    let cases = [
        ("a line of 200 kB", long_line.as_str()),
        ("5,000 headers", &many),
        ("CL and TE", smuggle),
        ("two lengths", doubled),
    ];
    let mut figures = Vec::new();
    for (what, bytes) in cases {
        let mut connection = Connection::open(address).await?;
        // The mirror may close while we still write.
        let _ = connection.send_raw(bytes.as_bytes()).await;
        match connection.read_head().await {
            Ok(head) => {
                ensure!((400..500).contains(&head.status), "{what}: {}", head.status);
                figures.push(format!("{what}: {}", head.status));
            }
            Err(_) => figures.push(format!("{what}: closed")),
        }
    }
    let asked = harness.requests() - before;
    ensure!(asked == 0, "{asked} requests upstream");
    let alive = Client::new(address, "").send(&Request::get("/v2/")).await?;
    ensure!(matches!(alive.status(), 200 | 401), "afterwards: {}", alive.describe());
    Ok(figures.join(", "))
}
