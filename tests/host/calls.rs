//! System calls of Weir, as strace sees them: which files it opens for a request, and where it connects to.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use weir_conformance::{
    client::Request,
    hub::{Fault, Kind, Match, Spec, What},
};

use super::support::World;

const TRACED: &str =
    "trace=open,openat,openat2,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,link,linkat,connect";

/// The tracer is a child of weir, so that weir ends as it does otherwise.
async fn traced() -> World {
    let script = format!("exec strace -D -f -qq -s 4096 -e {TRACED} -o \"$HERE/trace\" \"$WEIR\" \"$@\"");
    let world = World::start(&script, "").await;
    // What it opens once for itself is opened by now.
    world.pull("library/first").await;
    assert_eq!(world.push(b"first").await, 201);
    world
}

/// Lines of the trace since `from`, once the tracer has written that this file was looked for.
async fn trace(world: &World, from: usize, last: &str) -> Vec<String> {
    loop {
        let text = std::fs::read_to_string(world.beside("trace")).unwrap();
        if text[from..].contains(last) {
            return text[from..].lines().map(str::to_owned).collect();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A request target of pieces that are dangerous in a path.
fn target(number: u64) -> String {
    const PIECES: [&str; 40] = [
        "/",
        "//",
        "..",
        "../",
        "%2e%2e%2f",
        "%2e%2e/",
        "..%2f",
        "%252e%252e%252f",
        "%5c",
        "..%5c",
        "%00",
        "%c0%ae%c0%ae/",
        "%2F%2F%2F..%2Fetc%2Fpasswd",
        "etc/passwd",
        "/etc/shadow",
        "%0d%0a",
        ";x",
        "?x=",
        "a",
        "team",
        "team/a",
        "library/first",
        "docker.io",
        "manifests",
        "/manifests/",
        "/blobs/",
        "/blobs/uploads/",
        "/tags/list",
        "/referrers/",
        "_catalog",
        "latest",
        "sha256:",
        "sha256:../../x",
        "sha512:",
        "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "_tags",
        "_blobs",
        ".",
        "%7e",
    ];
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let begin =
        ["/v2/", "/v2/team/", "/docker.io/v2/", "/", "/v2/team/a/manifests/", "/v2/team/a/blobs/"][next(6) as usize];
    (0..1 + next(6)).fold(begin.to_owned(), |target, _| target + PIECES[next(40) as usize])
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_that_a_client_sends_opens_a_file_outside_of_the_data_directory() {
    let world = traced().await;
    let from = std::fs::metadata(world.beside("trace")).unwrap().len() as usize;
    let address = world.weir.address;
    let asked = tokio::task::spawn_blocking(move || {
        let mut statuses = std::collections::BTreeMap::<String, usize>::new();
        for number in 0..4000 {
            let method = ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH"][number as usize % 6];
            let mut socket = TcpStream::connect(address).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let head = format!("{method} {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", target(number));
            // What cannot be a request is answered before all of it was sent, and may be reset then.
            let _ = socket.write_all(format!("{head}Content-Length: 2\r\n\r\n{{}}").as_bytes());
            // No more than the status: Weir waits for the rest of a request that it refused.
            let mut answer = [0; 12];
            let status = match socket.read_exact(&mut answer) {
                Ok(()) => String::from_utf8_lossy(&answer[9..]).into_owned(),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => "reset".to_owned(),
                Err(error) => panic!("{method} {}: {error}", target(number)),
            };
            assert!(!status.starts_with('5'), "{method} {}: {status}", target(number));
            *statuses.entry(status).or_default() += 1;
        }
        statuses
    });
    println!("{:?}", asked.await.unwrap());
    let last = world.client.blob("team/a", &super::support::digest(b"last"));
    assert_eq!(world.push(b"last").await, 201, "{last}");
    let hex = super::support::digest(b"last").replace("sha256:", "");
    let data = world.weir.data().display().to_string();
    let config = world.weir.directory().join("config").display().to_string();
    let mut seen = 0;
    for line in trace(&world, from, &hex).await.iter().filter(|line| !line.contains("connect(")) {
        for path in line.split('"').skip(1).step_by(2) {
            seen += 1;
            // The configuration is looked at for changes.
            let inside = path.starts_with(&format!("{data}/")) || path == data || path == config;
            assert!(inside && !path.contains("/../") && !path.ends_with("/.."), "{line}");
        }
    }
    assert!(seen > 10, "the trace has {seen} paths");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_writes_no_file_outside_of_its_data_directory_from_start_to_end() {
    let mut world = traced().await;
    let ban = Request::new("POST", "/api/v1/bans").with("Content-Type", "application/json");
    let ban = ban.body(r#"{"client":"192.0.2.7","duration":"1h","reason":"test"}"#);
    assert_eq!(world.admin.send(&ban).await.unwrap().status(), 201);
    world.weir.terminate().unwrap();
    assert!(world.weir.ended(Duration::from_secs(60)).await.unwrap());
    let data = world.weir.data().display().to_string();
    let mut written = 0;
    // The last thing that it removes is its local socket.
    for line in trace(&world, 0, "weir.sock").await.iter().filter(|line| !line.contains("connect(")) {
        if line.contains(" open") && !["O_WRONLY", "O_RDWR", "O_CREAT"].iter().any(|flag| line.contains(flag)) {
            continue;
        }
        for path in line.split('"').skip(1).step_by(2) {
            written += 1;
            assert!(path == data || path.starts_with(&format!("{data}/")), "{line}");
        }
    }
    assert!(written > 20, "the trace has {written} paths");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_redirect_makes_it_connect_to_another_private_address() {
    let world = traced().await;
    let image = world.hub.push(Spec::new("library/led-astray").single().layers([1000])).unwrap();
    let manifest = Request::get(world.client.manifest("library/led-astray", "latest")).accepting_manifests();
    assert_eq!(world.client.send(&manifest).await.unwrap().status(), 200);
    let from = std::fs::metadata(world.beside("trace")).unwrap().len() as usize;
    world.hub.fault(Fault::always(What::RedirectPrivate).on(Match::kind(Kind::BlobGet)));
    let layer = &image.platforms[0].layers[0].digest;
    let refused = world.client.send(&Request::get(world.client.blob("library/led-astray", layer))).await.unwrap();
    assert!(refused.status() >= 500, "{}", refused.describe());
    for registry in ["169.254.169.254", "10.0.0.1:5000", "[fd00::1]:5000"] {
        let target = format!("/v2/library/x/manifests/latest?ns={registry}");
        assert_eq!(world.client.send(&Request::get(target)).await.unwrap().status(), 404, "{registry}");
    }
    world.hub.clear_faults();
    world.pull("library/last").await;
    assert_eq!(world.push(b"last").await, 201);
    let hex = super::support::digest(b"last").replace("sha256:", "");
    let connects: Vec<String> =
        trace(&world, from, &hex).await.into_iter().filter(|line| line.contains("connect(")).collect();
    let elsewhere: Vec<_> = connects.iter().filter(|line| !line.contains("inet_addr(\"127.0.0.1\")")).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
}
