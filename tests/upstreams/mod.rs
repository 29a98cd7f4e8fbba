//! Registries as public reports say they behave, through the front door: a server that has one odd habit a repository, Weir in
//! front of it, and what a client gets. `situations.md` has the whole list: situation, source, test.

mod accounts;
mod blobs;
mod clouds;
mod credentials;
mod kinds;
mod manifests;
mod registries;
mod server;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use crate::deploy::{ask, printed, serving};
use server::{Asked, Server, answer, head};
use weir::oci::Algorithm;

const INDEX: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
const OCI_INDEX: (&str, &str) = ("Content-Type", "application/vnd.oci.image.index.v1+json");
const LAYER: &str = "the bytes of a layer";

/// A weir in front of one upstream, without anything in its environment but what is given.
struct Weir {
    child: Child,
    registry: SocketAddr,
    admin: SocketAddr,
    directory: tempfile::TempDir,
}

impl Weir {
    fn start(url: &str, keys: &str, environment: &[(&str, &str)]) -> Weir {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("weir.toml");
        let text = format!("[[upstream]]\nname = \"r.example\"\nurl = \"{url}\"\ndefault = true\n{keys}\n");
        std::fs::write(&config, text).unwrap();
        let (child, registry, admin) = Weir::spawn(directory.path(), environment);
        Weir { child, registry, admin, directory }
    }

    fn spawn(directory: &Path, environment: &[(&str, &str)]) -> (Child, SocketAddr, SocketAddr) {
        let path = directory.join("log");
        let log = std::fs::File::create(&path).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_weir"))
            .env_clear()
            .current_dir(directory)
            .env("WEIR_CONFIG", directory.join("weir.toml"))
            .env("WEIR_SERVER__LISTEN", "127.0.0.1:0")
            .env("WEIR_ADMIN__LISTEN", "127.0.0.1:0")
            .env("WEIR_LOG__FORMAT", "json")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let (registry, admin) = serving(&mut child, &path, 0);
        (child, registry, admin)
    }

    /// Kills it and starts it again on what it had stored.
    fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        (self.child, self.registry, self.admin) = Weir::spawn(self.directory.path(), &[]);
    }

    /// Status and body.
    fn get(&self, path: &str) -> (u16, String) {
        let (status, _, body) = ask(self.registry, "GET", path, "");
        (status, body)
    }

    /// Status and body, which need not be text.
    fn get_bytes(&self, path: &str) -> (u16, Vec<u8>) {
        let mut socket = TcpStream::connect(self.registry).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        (std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap(), answer.split_off(end))
    }

    /// As the account `ci` of [`ACCOUNT`].
    fn get_as_ci(&self, path: &str) -> (u16, String) {
        let (status, _, body) = ask(self.registry, "GET", path, "X-Weir: ci:weir\r\n");
        (status, body)
    }

    /// Whether a line of the metrics begins so and ends with a value.
    fn metric(&self, line: &str) -> bool {
        let (_, _, text) = ask(self.admin, "GET", "/metrics", "");
        text.lines().any(|known| known == line)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An account of Weir that may pull what is private below `team/`. Its password is "weir", the hash is of it.
const ACCOUNT: &str = "[[account]]\nname = \"ci\"\nrole = \"user\"\npull = [\"r.example/team/*\"]\npassword_hash = \
     \"$argon2id$v=19$m=19456,t=2,p=1$kxGijz/3o2vdXUodgFgFqg$xNIKwwOml04OOn6HB04DQtBkecO0nUsH9nxtip4ROiU\"\n";
const TOKEN_HEADER: (&str, &str) = ("WEIR_SERVER__TOKEN_HEADER", "X-Weir");

fn digest(content: &str) -> String {
    Algorithm::Sha256.digest(content.as_bytes()).to_string()
}

fn blob_path(repository: &str) -> String {
    format!("/v2/{repository}/blobs/{}", digest(LAYER))
}

/// Which token a request carries.
fn token(asked: &Asked) -> &str {
    asked.header("authorization").and_then(|sent| sent.strip_prefix("Bearer ")).unwrap_or_default()
}

#[test]
fn every_repository_of_a_host_may_have_a_token_service_and_a_listing_a_scope_of_its_own() {
    let server = Server::start(|asked, url| {
        let path = asked.path();
        if let Some(key) = path.strip_suffix("/token") {
            let scope = asked.target.split("scope=").nth(1).unwrap_or_default();
            let reads = if scope.contains("metadata_read") { "metadata" } else { "pull" };
            return answer(200, &[], format!(r#"{{"token":"{}.{reads}"}}"#, key.trim_start_matches('/')));
        }
        let mut parts = path.trim_start_matches("/v2/").splitn(3, '/');
        let (key, image) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (needs, action) = if path.contains("/tags/") { ("metadata", "metadata_read") } else { ("pull", "pull") };
        if token(asked) == format!("{key}.{needs}") {
            let body = if needs == "metadata" { r#"{"tags":["v1"]}"# } else { INDEX };
            return answer(200, &[OCI_INDEX, ("Docker-Content-Digest", &digest(INDEX))], body);
        }
        let challenge = format!(r#"Bearer realm="{url}/{key}/token",scope="repository:{key}/{image}:{action}""#);
        answer(401, &[("WWW-Authenticate", &challenge)], "{}")
    });
    let weir = Weir::start(&server.url(), "", &[]);
    for key in ["docker-a", "docker-b", "docker-a", "docker-b"] {
        assert_eq!(weir.get(&format!("/v2/{key}/img/manifests/v1")), (200, INDEX.to_owned()), "{key}");
        let (status, body) = weir.get(&format!("/v2/{key}/img/tags/list"));
        assert_eq!((status, body.contains("v1")), (200, true), "{key}: {body}");
    }
    let elsewhere = Server::start(|_, _| {
        answer(401, &[("WWW-Authenticate", r#"Bearer realm="http://tokens.other.example/token""#)], "{}")
    });
    let weir = Weir::start(&elsewhere.url(), "", &[]);
    let (status, body) = weir.get("/v2/a/b/manifests/v1");
    assert!(status == 502 && body.contains("tokens.other.example") && body.contains("token_hosts"), "{body}");
}

#[test]
fn a_manifest_is_what_its_digest_names_whatever_its_headers_say() {
    const EMPTY_TYPE: &str = r#"{"schemaVersion":2,"mediaType":"","manifests":[]}"#;
    const ORAS: &str = r#"{"mediaType":"application/vnd.cncf.oras.artifact.manifest.v1+json","blobs":[]}"#;
    let server = Server::start(|asked, _| {
        let body = match asked.path().split('/').nth(2).unwrap_or_default() {
            "empty" => EMPTY_TYPE,
            "oras" => ORAS,
            _ => INDEX,
        };
        let docker = ("Content-Type", "application/vnd.docker.distribution.manifest.list.v2+json");
        let (named, octets) = (digest(body), ("Content-Type", "application/octet-stream"));
        let named = ("Docker-Content-Digest", named.as_str());
        match (asked.method.as_str(), asked.path().split('/').nth(2).unwrap_or_default()) {
            ("HEAD", "head404") => head(404, &[], 0),
            ("HEAD", "head400") => head(400, &[], 0),
            ("HEAD", "head406") => head(406, &[], 0),
            ("HEAD", "html") => head(200, &[("Content-Type", "text/html")], 5),
            (_, "differs") => answer(200, &[docker, named], body),
            (_, "quoted") => answer(200, &[OCI_INDEX, ("Docker-Content-Digest", &format!("\"{}\"", named.1))], body),
            (_, "coding") => answer(200, &[OCI_INDEX, named, ("Content-Encoding", "gzip")], body),
            (_, "oras") => answer(200, &[octets, named], body),
            (_, "gone") => answer(404, &[], "{}"),
            _ => answer(200, &[OCI_INDEX, named], body),
        }
    });
    let weir = Weir::start(&server.url(), "", &[]);
    for (repository, body) in [
        ("head404", INDEX),
        ("head400", INDEX),
        ("head406", INDEX),
        ("html", INDEX),
        ("differs", INDEX),
        ("quoted", INDEX),
        ("coding", INDEX),
        ("empty", EMPTY_TYPE),
        ("oras", ORAS),
    ] {
        assert_eq!(weir.get(&format!("/v2/{repository}/manifests/v1")), (200, body.to_owned()), "{repository}");
    }
    assert_eq!(weir.get("/v2/gone/manifests/v1").0, 404);
}

#[test]
fn content_that_cannot_be_used_costs_one_request() {
    const PAGE: &str = "<html>log in</html>";
    let server = Server::start(|_, _| answer(200, &[OCI_INDEX, ("Docker-Content-Digest", &digest(PAGE))], PAGE));
    let weir = Weir::start(&server.url(), "", &[]);
    for _ in 0..5 {
        let (status, body) = weir.get("/v2/a/b/manifests/v1");
        assert!(status == 502 && body.contains("no JSON object"), "{body}");
    }
    let gets = server.asked().iter().filter(|asked| asked.method == "GET").count();
    assert_eq!(gets, 1, "{:?}", server.asked());
}

#[test]
fn a_blob_is_had_without_a_length_without_a_head_and_after_a_content_network_refused_once() {
    let expired = AtomicUsize::new(0);
    let server = Server::start(move |asked, url| {
        let repository = asked.path().split('/').nth(2).unwrap_or_default().to_owned();
        match (asked.method.as_str(), repository.as_str()) {
            ("GET", "chunked") => {
                let size = LAYER.len();
                format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{size:x}\r\n{LAYER}\r\n0\r\n\r\n")
                    .into_bytes()
            }
            ("GET", "close") => format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{LAYER}").into_bytes(),
            ("HEAD", "chunked" | "close") => b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec(),
            ("HEAD", "shared404") => head(404, &[], 0),
            ("HEAD", "shared405") => head(405, &[], 0),
            ("GET", "signed") => answer(307, &[("Location", &format!("{url}/x/cdn/naïve"))], ""),
            ("GET", "cdn") if expired.fetch_add(1, Ordering::Relaxed) == 0 => answer(403, &[], "expired"),
            (_, "absent") => answer(404, &[], "{}"),
            _ => answer(200, &[], LAYER),
        }
    });
    // A cache of its own for each of the first, since one blob is here for all once it came.
    for repository in ["chunked", "close", "signed"] {
        let weir = Weir::start(&server.url(), "", &[]);
        assert_eq!(weir.get(&blob_path(repository)), (200, LAYER.to_owned()), "{repository}");
    }
    let weir = Weir::start(&server.url(), "", &[]);
    for repository in ["sharer", "shared404", "shared405"] {
        assert_eq!(weir.get(&blob_path(repository)), (200, LAYER.to_owned()), "{repository}");
    }
    assert_eq!(weir.get(&blob_path("absent")).0, 404);
}

#[test]
fn lists_go_on_with_the_links_query_and_referrers_fall_back() {
    let server = Server::start(|asked, _| {
        let (path, page) = (asked.path(), asked.target.contains("last=a"));
        match path.trim_start_matches("/sub/v2/").split('/').next().unwrap_or_default() {
            "drops" if !page => {
                answer(200, &[("Link", r#"</v2/px/drops/tags/list?last=a&n=1>; rel="next""#)], r#"{"tags":["a"]}"#)
            }
            "adds" if !page => answer(
                200,
                &[("Link", r#"<https://h.internal:8443/repository/p/v2/adds/tags/list?last=a>; rel=next"#)],
                r#"{"tags":["a"]}"#,
            ),
            "drops" | "adds" => answer(200, &[], r#"{"tags":["b"]}"#),
            "nowhere" => answer(200, &[("Link", r#"</x>; rel="next""#)], r#"{"tags":["a"]}"#),
            _ if path.contains("/manifests/") => answer(404, &[], "{}"),
            "html" => answer(200, &[("Content-Type", "text/html")], "<html>log in</html>"),
            "json" => answer(200, &[("Content-Type", "application/json")], "{}"),
            status => answer(status[1..].parse().unwrap(), &[], ""),
        }
    });
    let weir = Weir::start(&format!("{}/sub", server.url()), "", &[]);
    for repository in ["drops", "adds"] {
        let (status, body) = weir.get(&format!("/v2/{repository}/tags/list"));
        assert!(status == 200 && body.contains(r#"["a","b"]"#), "{repository}: {status} {body}");
    }
    let (status, body) = weir.get("/v2/nowhere/tags/list");
    assert_eq!(status, 502, "a list that is cut short is an error: {body}");
    for repository in ["s400", "s404", "s405", "s406", "s501", "html", "json"] {
        let (status, body) = weir.get(&format!("/v2/{repository}/referrers/{}", digest("x")));
        assert!(status == 200 && body.contains(r#""manifests":[]"#), "{repository}: {status} {body}");
    }
    assert_eq!(weir.get(&format!("/v2/s500/referrers/{}", digest("x"))).0, 503);
}

#[test]
fn everything_goes_through_the_proxy_that_the_environment_names() {
    let proxy = Server::start(|asked, _| match asked.target.strip_prefix("http://registry.invalid/v2/") {
        Some(rest) if rest.contains("blobs") => answer(200, &[], LAYER),
        Some(_) => answer(200, &[OCI_INDEX, ("Docker-Content-Digest", &digest(INDEX))], INDEX),
        None => answer(500, &[], ""),
    });
    let upstream = "http://registry.invalid";
    let weir = Weir::start(upstream, "", &[("http_proxy", &proxy.url())]);
    assert_eq!(weir.get("/v2/a/b/manifests/v1"), (200, INDEX.to_owned()));
    assert_eq!(weir.get(&blob_path("a/b")), (200, LAYER.to_owned()));
    assert!(weir.log().contains("asked through a proxy") && weir.log().contains(&proxy.url()), "{}", weir.log());
    let before = proxy.asked().len();
    for (keys, environment) in [
        ("", vec![("HTTP_PROXY", proxy.url()), ("NO_PROXY", ".invalid".to_owned())]),
        ("proxy = \"none\"", vec![("ALL_PROXY", proxy.url())]),
    ] {
        let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let weir = Weir::start(upstream, keys, &environment);
        assert_eq!(weir.get("/v2/a/b/manifests/v1").0, 503);
        assert!(weir.log().contains("asked directly"));
    }
    assert_eq!(proxy.asked().len(), before, "nothing goes through a proxy that is switched off");
}

#[test]
fn a_proxy_for_all_upstreams_is_used_unless_one_names_another() {
    let server = Server::start(|_, _| answer(500, &[], ""));
    let proxy = Server::start(|asked, _| match asked.target.starts_with("http://registry.invalid/v2/") {
        true => answer(200, &[OCI_INDEX, ("Docker-Content-Digest", &digest(INDEX))], INDEX),
        false => answer(500, &[], ""),
    });
    let (url, other) = (proxy.url(), server.url());
    let general = ("WEIR_MIRROR__PROXY", url.as_str());
    for (keys, environment, status) in [
        ("", vec![general], 200),
        ("", vec![general, ("HTTP_PROXY", other.as_str())], 200),
        ("proxy = \"none\"", vec![general], 503),
        ("proxy = \"off\"", vec![general], 503),
        ("", vec![("WEIR_MIRROR__PROXY", "none"), ("HTTP_PROXY", url.as_str())], 503),
        ("", vec![("HTTP_PROXY", url.as_str())], 200),
    ] {
        let before = proxy.asked().len();
        let weir = Weir::start("http://registry.invalid", keys, &environment);
        assert_eq!(weir.get("/v2/a/b/manifests/v1").0, status, "{keys} {environment:?}");
        assert_eq!(proxy.asked().len() > before, status == 200, "{keys} {environment:?}");
        let way = if status == 200 { "asked through a proxy" } else { "asked directly" };
        assert_eq!(weir.log().matches(way).count(), 1, "{}", weir.log());
    }
    assert_eq!(server.asked().len(), 0);
    let output = crate::deploy::weir(&["check"]).env("WEIR_MIRROR__PROXY", "ftp://me:secret@x").output().unwrap();
    let said = printed(&output);
    assert!(!output.status.success() && said.contains("mirror.proxy") && !said.contains("secret"), "{said}");
}

#[test]
fn one_repository_that_answers_500_stops_no_other() {
    let server = Server::start(|asked, _| match asked.path().contains("broken") {
        true => answer(500, &[], ""),
        false => answer(200, &[OCI_INDEX, ("Docker-Content-Digest", &digest(INDEX))], INDEX),
    });
    let weir = Weir::start(&server.url(), "", &[]);
    for number in 0..10 {
        assert_eq!(weir.get(&format!("/v2/broken/manifests/v{number}")).0, 503);
    }
    assert_eq!(weir.get("/v2/fine/manifests/v1").0, 200);
}

/// Every test that the table names exists.
#[test]
fn the_table_of_situations_names_tests_that_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let table = read("tests/upstreams/situations.md");
    let mut named = 0;
    for line in table.lines().filter(|line| line.starts_with("| ") && line.contains('`')) {
        let cell = line.rsplit('|').nth(1).unwrap();
        for place in cell.split('`').skip(1).step_by(2) {
            let (file, name) = place.split_once("::").unwrap();
            let (fast, slow) = (format!("src/upstream/{file}.rs"), format!("tests/{file}.rs"));
            let file = if root.join(&fast).exists() { fast } else { slow };
            assert!(read(&file).contains(&format!("fn {name}(")), "{place}");
            named += 1;
        }
    }
    assert!(named > 30, "{named}");
}
