//! Who may do what to whom: every route, method and identity against one table; what may not be read is answered like what is
//! not there.

use super::*;
use crate::oci::Algorithm;

pub(super) fn account(name: &str, pull: &str, push: &str, delete: &str) -> Account {
    use argon2::{Argon2, Params, PasswordHasher as _, password_hash::SaltString};
    let cheap = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, Params::new(16, 1, 1, None).unwrap());
    let hash = cheap.hash_password(b"secret", &SaltString::from_b64("c29tZXNhbHQ").unwrap()).unwrap().to_string();
    let patterns = |text: &str| -> Arc<[String]> { text.split_whitespace().map(str::to_owned).collect() };
    Account {
        name: name.into(),
        password_hash: hash.into(),
        role: Role::User,
        budget_override: false,
        networks: Vec::new(),
        namespaces: Vec::new(),
        pull: patterns(pull),
        push: patterns(push),
        delete: patterns(delete),
    }
}

async fn world() -> World {
    let settings = hosted::Settings {
        private: vec!["local/private/*".into()],
        immutable_tags: vec!["v*".into()],
        ..hosted::Settings::default()
    };
    let hosts = Hosting { namespaces: vec!["local/*".into()], settings, ..Hosting::default() };
    let accounts = vec![
        account("admin", "*", "*", "*"),
        account("scanner-x", "local/private/p", "", ""),
        account("tenant", "local/private/q", "local/private/q", "local/private/q"),
    ];
    hosting(patient(), accounts, hosts).await
}

pub(super) fn as_who(who: &str) -> String {
    match who {
        "anonymous" => String::new(),
        "wrong" => format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode("admin:wrong")),
        name => format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode(format!("{name}:secret"))),
    }
}

impl World {
    pub(super) async fn push(&self, who: &str, line: &str, headers: &str, body: &[u8]) -> RawResponse {
        Raw::to(&self.serving).await.push(line, &format!("{}{headers}", as_who(who)), body).await
    }
}

const INDEX: &str = "Content-Type: application/vnd.oci.image.index.v1+json\r\n";
const EMPTY: &[u8] = br#"{"schemaVersion":2,"manifests":[]}"#;
const WHO: [&str; 5] = ["anonymous", "wrong", "tenant", "scanner-x", "admin"];

#[tokio::test(flavor = "multi_thread")]
async fn every_route_method_and_identity_is_as_the_table_says() {
    let world = world().await;
    let blob = Algorithm::Sha256.digest(b"private");
    for name in ["local/private/p", "local/open"] {
        let line = format!("POST /v2/{name}/blobs/uploads/?digest={blob}");
        assert_eq!(world.push("admin", &line, "", b"private").await.status, 201);
        assert_eq!(world.push("admin", &format!("PUT /v2/{name}/manifests/x"), INDEX, EMPTY).await.status, 201);
    }
    let other = Algorithm::Sha256.digest(b"other");
    // Route, then for each of WHO what each method answers on private, open and mirrored names.
    let routes = ["manifests/x".to_owned(), format!("blobs/{blob}"), "tags/list".into(), format!("referrers/{other}")];
    for (name, reads, writes) in [
        ("local/private/p", [404, 404, 404, 200, 200], [401, 401, 403, 403, 0]),
        ("local/open", [200; 5], [401, 401, 403, 403, 0]),
    ] {
        for (at, who) in WHO.into_iter().enumerate() {
            for route in &routes {
                for method in ["GET", "HEAD"] {
                    let response = world.ask(&format!("{method} /v2/{name}/{route}"), &as_who(who)).await;
                    assert_eq!(response.status, reads[at], "{who} {method} {name} {route}");
                }
                for method in ["POST", "PATCH", "OPTIONS", "TRACE"] {
                    let response = world.push(who, &format!("{method} /v2/{name}/{route}"), "", b"").await;
                    assert_eq!(response.status, 405, "{who} {method} {name} {route}");
                }
                if route.starts_with("tags") || route.starts_with("referrers") {
                    for method in ["PUT", "DELETE"] {
                        let response = world.push(who, &format!("{method} /v2/{name}/{route}"), "", b"").await;
                        assert_eq!(response.status, 405, "{who} {method} {name} {route}");
                    }
                }
            }
            let upload = format!("/v2/{name}/blobs/uploads/");
            let id = format!("{upload}00000000-00000000000000000000000000000000");
            for line in [
                format!("POST {upload}"),
                format!("POST {upload}?digest={other}"),
                format!("POST {upload}?mount={blob}&from=local/open"),
                format!("PUT /v2/{name}/manifests/x"),
                format!("DELETE /v2/{name}/manifests/x"),
                format!("DELETE /v2/{name}/blobs/{blob}"),
                format!("PATCH {id}"),
                format!("PUT {id}?digest={other}"),
                format!("GET {id}"),
                format!("DELETE {id}"),
            ] {
                if writes[at] > 0 {
                    let response = world.push(who, &line, INDEX, EMPTY).await;
                    assert_eq!(response.status, writes[at], "{who} {line}");
                    assert_eq!(response.header("www-authenticate").is_some(), writes[at] == 401);
                }
            }
            // Spellings that are no path of ours never reach a handler.
            for path in [
                format!("//v2/{name}/tags/list"),
                format!("/v2/{name}/tags/list/"),
                format!("/v2/{name}/tags/list;x"),
                format!("/v2/x/../{name}/tags/list"),
                format!("/v2/{}/tags/list", name.replace('/', "%2f")),
                format!("/V2/{name}/tags/list"),
                "/v2/_catalog/".into(),
                "//v2/_catalog".into(),
            ] {
                let response = world.ask(&format!("GET {path}"), &as_who(who)).await;
                assert!(matches!(response.status, 400 | 404), "{who} {path}: {}", response.status);
                assert!(!String::from_utf8_lossy(&response.body).contains("\"tags\""));
            }
            let catalog = world.ask("GET /v2/_catalog", &as_who(who)).await.json()["repositories"].to_string();
            assert_eq!(catalog.contains("local/private/p"), at > 2, "{who}");
            assert!(catalog.contains("local/open"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_writes_under_a_mirrored_name() {
    let world = world().await;
    let digest = Algorithm::Sha256.digest(b"x");
    for who in WHO {
        for name in ["library/busybox", "docker.io/library/busybox", "docker.io/local/open"] {
            for line in [
                format!("POST /v2/{name}/blobs/uploads/"),
                format!("POST /v2/{name}/blobs/uploads/?digest={digest}"),
                format!("PATCH /v2/{name}/blobs/uploads/x"),
                format!("PUT /v2/{name}/blobs/uploads/x?digest={digest}"),
                format!("DELETE /v2/{name}/blobs/uploads/x"),
                format!("PUT /v2/{name}/manifests/latest"),
                format!("DELETE /v2/{name}/manifests/latest"),
                format!("DELETE /v2/{name}/blobs/{digest}"),
                format!("PUT /v2/{name}/tags/list"),
            ] {
                let response = world.push(who, &line, INDEX, EMPTY).await;
                assert_eq!((response.status, response.code()), (405, "UNSUPPORTED".into()), "{who} {line}");
            }
        }
        // And `ns=` makes a name the registry's that it names.
        let response = world.push(who, "PUT /v2/local/open/manifests/x?ns=docker.io", INDEX, EMPTY).await;
        assert_eq!(response.status, 405, "{who}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_may_not_read_can_neither_be_had_nor_mounted_nor_distinguished_from_nothing() {
    let world = world().await;
    let (secret, nothing) = (Algorithm::Sha256.digest(b"secret"), Algorithm::Sha256.digest(b"nothing"));
    let begin = |name: &str, query: String| format!("POST /v2/{name}/blobs/uploads/{query}");
    let line = begin("local/private/p", format!("?digest={secret}"));
    assert_eq!(world.push("admin", &line, "", b"secret").await.status, 201);
    let bare = |response: &RawResponse| {
        let lines = response
            .head
            .lines()
            .filter(|line| !["date:", "x-request-id:"].iter().any(|name| line.to_lowercase().starts_with(name)));
        let head: Vec<String> = lines.map(str::to_lowercase).collect();
        (response.status, head, response.body.clone())
    };
    for name in ["local/private/p", "local/private/q", "local/private/none"] {
        let mut answers = Vec::new();
        for digest in [&secret, &nothing] {
            let get = world.ask(&format!("GET /v2/{name}/blobs/{digest}"), &as_who("tenant")).await;
            let head = world.ask(&format!("HEAD /v2/{name}/blobs/{digest}"), &as_who("tenant")).await;
            assert_eq!((get.status, head.status), (404, 404), "{name}");
            answers.push((bare(&get), bare(&head)));
        }
        let mut order = answers.clone();
        order.iter_mut().for_each(|(get, head)| (get.1.sort(), head.1.sort()).0);
        assert_eq!(order[0], order[1], "{name}");
    }
    for from in ["&from=local/private/p", "", "&from=library/busybox", "&from=nonsense//"] {
        for digest in [&secret, &nothing] {
            let line = begin("local/private/q", format!("?mount={digest}{from}"));
            let response = world.push("tenant", &line, "", b"").await;
            assert_eq!(response.status, 202, "{from}");
            let session = response.header("location").unwrap().to_owned();
            assert!(session.starts_with("/v2/local/private/q/blobs/uploads/"));
            assert_eq!(world.push("tenant", &format!("DELETE {session}"), "", b"").await.status, 204);
        }
    }
    let got = world.ask(&format!("GET /v2/local/private/q/blobs/{secret}"), &as_who("tenant")).await;
    assert_eq!(got.status, 404);
    // Who may read it mounts it, and what is deleted in one repository stays in the other.
    let line = begin("local/private/q", format!("?mount={secret}&from=local/private/p"));
    assert_eq!(world.push("admin", &line, "", b"").await.status, 201);
    assert_eq!(world.push("admin", &format!("DELETE /v2/local/private/p/blobs/{secret}"), "", b"").await.status, 202);
    for (name, status) in [("local/private/p", 404), ("local/private/q", 200), ("local/private/p", 404)] {
        let got = world.ask(&format!("GET /v2/{name}/blobs/{secret}"), &as_who("admin")).await;
        assert_eq!(got.status, status, "{name}");
    }
}

/// Hosted and mirrored blobs share one store: an image that was pulled, tagged anew and pushed is not sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirrored_blob_that_is_here_is_mounted_for_those_who_may_read_it_there() {
    let namespaces = vec!["local/*".into()];
    let hosts = Hosting { namespaces, robot: Some(("robot", "secret")), ..Hosting::default() };
    let accounts = vec![account("reader", "docker.io/corp/*", "local/*", ""), account("other", "", "local/*", "")];
    let world = hosting(patient(), accounts, hosts).await;
    let open = world.image("library/open");
    let secret = world.hub.push(Spec::new("corp/app").seed(7).private().layers([1_000])).unwrap();
    let cold = world.hub.push(Spec::new("library/cold").seed(8).layers([1_000])).unwrap();
    let (open, secret, cold) = (&layer(&open).digest, &layer(&secret).digest, &layer(&cold).digest);
    for (name, digest) in [("library/open", open), ("corp/app", secret)] {
        let line = format!("GET /v2/{name}/blobs/{digest}");
        let pulled = async { while world.ask(&line, &as_who("reader")).await.header("x-cache") != Some("hit") {} };
        tokio::time::timeout(Duration::from_secs(30), pulled).await.unwrap();
    }

    let asked = world.hub.log().len();
    for (number, (who, digest, from, mounted)) in [
        ("other", secret, "&from=corp/app", false),
        ("other", secret, "&from=docker.io/corp/app", false),
        // Nothing tells whose it would be, or that repository never had it.
        ("reader", secret, "", false),
        ("reader", secret, "&from=library/open", false),
        ("reader", cold, "&from=library/cold", false),
        ("reader", secret, "&from=corp/app", true),
        ("other", open, "&from=library/open", true),
        ("other", open, "&from=Docker.io/library/open", true),
    ]
    .into_iter()
    .enumerate()
    {
        let line = format!("POST /v2/local/r{number}/blobs/uploads/?mount={digest}{from}");
        let response = world.push(who, &line, "", b"").await;
        let blob = format!("/v2/local/r{number}/blobs/{digest}");
        let (status, location) = (response.status, response.header("location").unwrap());
        let got = world.ask(&format!("GET {blob}"), "").await;
        match mounted {
            true => {
                assert_eq!((status, location, got.status), (201, blob.as_str(), 200), "{who} {from}");
                assert_eq!(Algorithm::Sha256.digest(&got.body).to_string(), *digest);
            }
            false => {
                assert_eq!((status, got.status), (202, 404), "{who} {from}");
                assert!(location.contains("/blobs/uploads/"), "{who} {from}: {location}");
            }
        }
    }
    assert_eq!(world.hub.log().len(), asked, "no mount asks upstream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_of_one_repository_and_one_principal_and_cannot_be_guessed() {
    let world = world().await;
    let begun = world.push("tenant", "POST /v2/local/private/q/blobs/uploads/", "", b"").await;
    let session = begun.header("location").unwrap().to_owned();
    let id = session.rsplit('/').next().unwrap();
    let (server, secret) = id.split_once('-').unwrap();
    assert_eq!((server.len(), secret.len()), (8, 32));
    let again = world.push("tenant", "POST /v2/local/private/q/blobs/uploads/", "", b"").await;
    assert!(!again.header("location").unwrap().contains(secret) && again.header("location").unwrap().contains(server));
    let elsewhere = format!("/v2/local/open/blobs/uploads/{id}");
    for (who, at) in [("admin", &session), ("admin", &elsewhere)] {
        for method in ["GET", "PATCH", "DELETE"] {
            let response = world.push(who, &format!("{method} {at}"), "", b"").await;
            assert_eq!((response.status, response.code()), (404, "BLOB_UPLOAD_UNKNOWN".into()), "{who} {method} {at}");
        }
    }
    assert_eq!(world.push("tenant", &format!("PATCH {session}"), "", b"abc").await.status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_tag_stays_whichever_way_it_is_pushed() {
    let world = world().await;
    let put = async |reference: &str, body: &[u8]| {
        world.push("admin", &format!("PUT /v2/local/open/manifests/{reference}"), INDEX, body).await
    };
    let (one, two) = (EMPTY, br#"{"schemaVersion":2,"manifests":[],"x":1}"#);
    let digest = |bytes: &[u8]| Algorithm::Sha256.digest(bytes);
    assert_eq!(put("v1", one).await.status, 201);
    assert_eq!(put("v1", one).await.status, 201, "the same again is no change");
    let by_digest = digest(two).to_string();
    for reference in ["v1", &format!("{by_digest}?tag=latest&tag=v1")] {
        let response = put(reference, two).await;
        assert_eq!((response.status, response.code()), (403, "DENIED".into()), "{reference}");
    }
    assert_eq!(world.ask("HEAD /v2/local/open/manifests/latest", "").await.status, 404, "nothing of it was done");
    for reference in ["v1".to_owned(), digest(one).to_string()] {
        let line = format!("DELETE /v2/local/open/manifests/{reference}");
        assert_eq!(world.push("admin", &line, "", b"").await.status, 403, "{reference}");
    }
    let got = world.ask("GET /v2/local/open/manifests/v1", "").await;
    assert_eq!(got.header("docker-content-digest"), Some(&*digest(one).to_string()));
    assert_eq!(put("latest", one).await.status, 201);
    assert_eq!(put("latest", two).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_never_longer_than_its_bound_and_nonsense_is_refused() {
    let world = world().await;
    for number in 0..3 {
        assert_eq!(
            world.push("admin", &format!("PUT /v2/local/r{number}/manifests/x"), INDEX, EMPTY).await.status,
            201
        );
    }
    for (n, status, entries) in [
        ("0", 200, 0),
        ("1", 200, 1),
        ("2147483648", 200, 3),
        ("-1", 400, 0),
        ("abc", 400, 0),
        ("18446744073709551616", 400, 0),
        ("", 400, 0),
    ] {
        let response = world.ask(&format!("GET /v2/_catalog?n={n}"), "").await;
        assert_eq!(response.status, status, "{n}");
        if status == 200 {
            assert_eq!(response.json()["repositories"].as_array().unwrap().len(), entries, "{n}");
        }
        assert_eq!(world.ask(&format!("GET /v2/local/r0/tags/list?n={n}"), "").await.status, status, "{n}");
    }
    for from in [0, 300, 600, 900] {
        let tags: Vec<_> = (from..from + 300).map(|number| format!("tag=t{number:04}")).collect();
        let line = format!("PUT /v2/local/r0/manifests/x?{}", tags.join("&"));
        assert_eq!(world.push("admin", &line, INDEX, EMPTY).await.status, 201);
    }
    let page = world.ask("GET /v2/local/r0/tags/list?n=2147483648", "").await;
    assert_eq!(page.json()["tags"].as_array().unwrap().len(), 1000);
    assert!(page.header("link").is_some_and(|link| link.contains("last=t0999")), "{:?}", page.header("link"));
    let long = "a".repeat(1_000);
    for path in ["/v2/_catalog", "/v2/local/r0/tags/list"] {
        assert_eq!(world.ask(&format!("GET {path}?last={long}"), "").await.status, 400);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_with_a_login_challenges_for_private_names_and_no_other_listener_does() {
    let world = world().await;
    let line = "GET /v2/local/private/p/tags/list";
    let response = world.ask(line, "").await;
    assert_eq!((response.status, response.header("www-authenticate")), (404, None));
    let mut login = Raw(tokio::net::TcpStream::connect(world.serving.addresses[1]).await.unwrap());
    // Whether it exists or not.
    for line in [line, "HEAD /v2/local/private/none/manifests/x"] {
        let response = login.ask(line, "").await;
        assert_eq!(response.status, 401, "{line}");
        assert!(response.header("www-authenticate").is_some_and(|challenge| challenge.starts_with("Basic ")), "{line}");
    }
    assert_ne!(login.ask("GET /v2/local/open/tags/list", "").await.status, 401);
    assert_ne!(login.ask(line, &as_who("scanner-x")).await.status, 401);
}
