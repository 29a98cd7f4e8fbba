//! More inputs of the kinds that public reports name, each through the front door: what differs from the reported one is only how
//! the registry says it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::{
    INDEX, LAYER, OCI_INDEX, Weir, blob_path, digest,
    server::{Server, answer, head},
    token,
};

/// The first component of the repository that is asked for.
fn repository(path: &str) -> &str {
    path.split('/').nth(2).unwrap_or_default()
}

/// Of the kinds of A2, A3 and A12: earthly/earthly#1017, Azure/acr#600, cloudflare/serverless-registry#148.
#[test]
fn a_challenge_is_answered_however_it_is_written() {
    let server = Server::start(|asked, url| {
        let path = asked.path();
        if path == "/token" {
            let service =
                asked.target.split("service=").nth(1).and_then(|rest| rest.split('&').next()).unwrap_or("none");
            return answer(200, &[], format!(r#"{{"token":"{service}"}}"#));
        }
        let name = repository(path);
        let service = if name == "without" { "none" } else { name };
        if token(asked) == service {
            return answer(200, &[OCI_INDEX, ("Docker-Content-Digest", &digest(INDEX))], INDEX);
        }
        let realm = format!(r#"realm="{url}/token""#);
        let challenge = match name {
            "upper" => format!(r#"BEARER {realm},SERVICE="upper",SCOPE="repository:upper/i:pull""#),
            "spaced" => format!(r#"Bearer  {realm} , service = "spaced" , scope="""#),
            "bare" => format!("Bearer realm={url}/token,service=bare"),
            "scoped" => format!(r#"Bearer scope="repository:other/x:push,pull",service="scoped",{realm}"#),
            "second" => format!(r#"Negotiate, Bearer {realm},service="second""#),
            _ => format!("Bearer {realm}"),
        };
        answer(401, &[("WWW-Authenticate", &challenge)], "")
    });
    let weir = Weir::start(&server.url(), "", &[]);
    for name in ["upper", "spaced", "bare", "scoped", "second", "without", "upper", "bare"] {
        assert_eq!(weir.get(&format!("/v2/{name}/i/manifests/v1")), (200, INDEX.to_owned()), "{name}");
    }
    let asked = server.asked();
    let pushes = asked.iter().filter(|asked| asked.path() == "/token" && asked.target.contains("push"));
    assert_eq!(pushes.count(), 0, "a scope that writes, or of another repository, is asked for never: {asked:?}");
}

/// Of the kinds of B2, B4, B5, B8 and B11.
#[test]
fn a_manifest_is_had_however_it_is_described() {
    const SIZES: &str = r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:x","size":"7"},{"size":-1},null]}"#;
    const DOUBLED: &str = r#"{"mediaType":"text/html","manifests":null,"mediaType":"","manifests":[]}"#;
    const UNREAD: &str = r#"{"mediaType":"application/json","manifests":[],"annotations":{"a":"\ud800"},"n":1e999}"#;
    const UNLISTED: &str = r#"{"mediaType":"application/vnd.in-toto.thing+json","subject":null,"config":null}"#;
    let server = Server::start(|asked, _| {
        let name = repository(asked.path());
        let body = match name {
            "sizes" => SIZES,
            "doubled" => DOUBLED,
            "unlisted" => UNLISTED,
            "unread" => UNREAD,
            _ => INDEX,
        };
        let named = digest(body);
        let named = ("Docker-Content-Digest", named.as_str());
        match (asked.method.as_str(), name) {
            ("HEAD", "headpage") => head(200, &[("Content-Type", "TEXT/HTML; charset=utf-8")], 9),
            ("HEAD", "head501") => head(501, &[], 0),
            ("HEAD", "head410") => head(410, &[], 0),
            ("HEAD", "head422") => head(422, &[], 0),
            ("HEAD", "headother") => head(200, &[OCI_INDEX, ("Docker-Content-Digest", &digest("other"))], 9),
            ("HEAD", "head405") => head(405, &[("Allow", "GET")], 0),
            ("HEAD", "nothing") => head(200, &[], 0),
            (_, "spaced") => answer(200, &[OCI_INDEX, ("Docker-Content-Digest", &format!(" \"{}\" ", named.1))], body),
            (_, "absent") => answer(200, &[OCI_INDEX], body),
            (_, "other") => answer(200, &[OCI_INDEX, ("Docker-Content-Digest", "md5:00")], body),
            (_, "typeless") => answer(200, &[("Content-Type", "unknown"), named], body),
            _ => answer(200, &[("Content-Type", "application/json; charset=UTF-8"), named], body),
        }
    });
    let weir = Weir::start(&server.url(), "", &[]);
    for (name, body) in [
        ("sizes", SIZES),
        ("doubled", DOUBLED),
        ("unlisted", UNLISTED),
        ("unread", UNREAD),
        ("head410", INDEX),
        ("head422", INDEX),
        ("headpage", INDEX),
        ("head501", INDEX),
        ("head405", INDEX),
        ("nothing", INDEX),
        ("spaced", INDEX),
        ("absent", INDEX),
        ("other", INDEX),
        ("typeless", INDEX),
    ] {
        assert_eq!(weir.get(&format!("/v2/{name}/manifests/v1")), (200, body.to_owned()), "{name}");
    }
    let by_digest = weir.get(&format!("/v2/headother/manifests/{}", digest(INDEX)));
    assert_eq!(by_digest, (200, INDEX.to_owned()), "the digest that was asked for decides, and not the one of a HEAD");
}

/// Of the kinds of C1, C2, C5 and C9: the redirects are of 308, 303 and 302, the last of ten hops.
#[test]
fn a_blob_is_had_by_whatever_way_it_is_sent() {
    let server = Server::start(|asked, url| {
        let hop: usize = asked.target.split("hop=").nth(1).and_then(|hop| hop.parse().ok()).unwrap_or_default();
        match (asked.method.as_str(), repository(asked.path())) {
            ("HEAD", "head410") => head(410, &[], 0),
            ("HEAD", "head501") => head(501, &[], 0),
            ("HEAD", "head406") => head(406, &[], 0),
            (_, "relative") => answer(308, &[("Location", "/x/data/b?sig=a%2Fb=&n=ü")], ""),
            (_, "other") => answer(303, &[("Location", "//HOST/x/data".replace("HOST", &url[7..]).as_str())], ""),
            (_, "hops") if hop < 9 => answer(302, &[("Location", &format!("?hop={}", hop + 1))], ""),
            (_, "hops") => answer(302, &[("Location", &format!("{url}/x/data/b"))], ""),
            (_, "loop") => answer(302, &[("Location", "?again")], ""),
            _ => answer(200, &[], LAYER),
        }
    });
    for name in ["relative", "other", "hops"] {
        let weir = Weir::start(&server.url(), "", &[]);
        assert_eq!(weir.get(&blob_path(name)), (200, LAYER.to_owned()), "{name}");
    }
    let weir = Weir::start(&server.url(), "", &[]);
    let (status, body) = weir.get(&blob_path("loop"));
    assert_eq!(status, 502, "a loop is no absence: {body}");
    for name in ["sharer", "head410", "head501", "head406"] {
        assert_eq!(weir.get(&blob_path(name)), (200, LAYER.to_owned()), "{name}");
    }
}

/// Of the kinds of D1, D3 and D4.
#[test]
fn lists_end_where_the_registry_ends_them() {
    let server = Server::start(|asked, _| {
        let (name, page) = (repository(asked.path()), asked.target.contains("last=a"));
        let n = asked.target.split("n=").nth(1).and_then(|n| n.split('&').next()?.parse::<u32>().ok());
        let link = match name {
            "bare" => "?last=a; rel=next",
            "first" => r#"<?x=0>; rel="first", <//cdn.example:1/?last=a>; title="1, 2"; rel="prev next""#,
            "encoded" => r#"<https://h/v2/%2e%2e/tags/list?n=5&last=a%2Fb>; rel="next""#,
            "empty" => r#"<>; rel="next""#,
            "question" => r#"<https://h/v2/x/tags/list?>; rel=next"#,
            "quoted" => r#"</v2/x/tags/list?last=a>; title="x; rel=prev"; rel="next""#,
            "unrelated" => r#"</v2/x/tags/list?page=last=a>"#,
            "nothing" => "a page, and then another",
            "fragment" => r#"<#?last=a>; rel="next""#,
            _ => "",
        };
        match name {
            "fifty" if n.is_some_and(|n| n > 50) => answer(413, &[], "<html>too much</html>"),
            "fifty" => answer(200, &[], r#"{"tags":["a","b"]}"#),
            _ if page => answer(200, &[], r#"{"tags":["b"]}"#),
            _ => answer(200, &[("Link", link)], r#"{"tags":["a"]}"#),
        }
    });
    let weir = Weir::start(&server.url(), "", &[]);
    for name in ["bare", "first", "encoded", "fifty", "quoted", "unrelated"] {
        let (status, body) = weir.get(&format!("/v2/{name}/tags/list"));
        assert!(status == 200 && body.contains(r#"["a","b"]"#), "{name}: {status} {body}");
    }
    for name in ["empty", "question", "fragment", "nothing"] {
        let (status, body) = weir.get(&format!("/v2/{name}/tags/list"));
        assert_eq!(status, 502, "{name}: a list that is cut short is an error: {body}");
    }
}

/// Of the kind of D4 (google/go-containerregistry#1962, oras-project/oras-go#633), and what the fallback tag may name.
#[test]
fn referrers_are_what_the_fallback_tag_holds_and_never_the_subject() {
    const IMAGE: &str = r#"{"schemaVersion":2,"config":{"digest":"sha256:x"},"layers":[]}"#;
    const CHILD: &str = r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:child","size":1,"mediaType":"a/b"}]}"#;
    const MIXED: &str =
        r#"{"schemaVersion":2,"manifests":[null,7,{"digest":"sha256:child","size":1,"mediaType":"a/b"}]}"#;
    let server = Server::start(|asked, url| {
        let (path, name) = (asked.path(), repository(asked.path()));
        let body = match name {
            "image" => IMAGE,
            "mixed" => MIXED,
            _ => CHILD,
        };
        if asked.method == "HEAD" && name.starts_with("head") {
            return head(name[4..].parse().unwrap(), &[], 0);
        }
        if path.contains("/manifests/") {
            return match name {
                "none" => answer(404, &[], "{}"),
                _ => answer(200, &[OCI_INDEX, ("Docker-Content-Digest", &digest(body))], body),
            };
        }
        match name {
            "moved" => answer(301, &[("Location", &format!("{url}/x/login"))], ""),
            "login" => answer(200, &[("Content-Type", "text/html")], "<html>"),
            "text" => answer(200, &[("Content-Type", "text/plain")], "ok"),
            "docker" => answer(200, &[("Content-Type", "application/vnd.docker.distribution.manifest.v2+json")], IMAGE),
            "typeless" => answer(200, &[], ""),
            _ => answer(405, &[], "<html>405</html>"),
        }
    });
    let weir = Weir::start(&server.url(), "", &[]);
    let referrers = |name: &str, subject: &str| {
        let (status, body) = weir.get(&format!("/v2/{name}/referrers/{}", digest(subject)));
        assert_eq!(status, 200, "{name}: {body}");
        serde_json::from_str::<serde_json::Value>(&body).unwrap()["manifests"].as_array().unwrap().len()
    };
    for name in ["moved", "login", "text", "docker", "typeless", "mixed", "head404", "head400", "head405"] {
        assert_eq!(referrers(name, "a subject"), 1, "{name}");
    }
    for name in ["none", "image"] {
        assert_eq!(referrers(name, "a subject"), 0, "{name}");
    }
    assert_eq!(referrers("itself", CHILD), 0, "the children of an index are no referrers to it");
    assert_eq!(referrers("login", CHILD), 0, "nor where the registry offers a page");
}

/// Of the kinds of A4 and A7: oras-project/oras-go#650, distribution/distribution#973.
#[test]
fn a_token_that_is_refused_is_fetched_anew_however_it_is_refused() {
    let generation = Arc::new(AtomicUsize::new(1));
    let current = generation.clone();
    let server = Server::start(move |asked, url| {
        let good = format!("g{}", current.load(Ordering::Relaxed));
        if asked.path() == "/token" {
            return answer(200, &[], format!(r#"{{"token":"{good}","expires_in":3600}}"#));
        }
        if token(asked) == good {
            return answer(200, &[OCI_INDEX, ("Docker-Content-Digest", &digest(INDEX))], INDEX);
        }
        let challenge = format!(r#"Bearer realm="{url}/token""#);
        match repository(asked.path()) {
            _ if token(asked).is_empty() => answer(401, &[("WWW-Authenticate", &challenge)], ""),
            "foreign" => answer(401, &[("WWW-Authenticate", r#"Bearer realm="https://elsewhere.example/t""#)], ""),
            "scope" => answer(401, &[("WWW-Authenticate", &format!(r#"{challenge},error="insufficient_scope""#))], ""),
            "forbidden" => answer(403, &[], "{}"),
            "malformed" => answer(400, &[], "{}"),
            "nonsense" => answer(401, &[("WWW-Authenticate", "=,;\"")], ""),
            _ => answer(401, &[], ""),
        }
    });
    let weir = Weir::start(&server.url(), "", &[]);
    let names = ["foreign", "nonsense", "none", "scope", "forbidden", "malformed"];
    for (tag, what) in [("v1", "at first"), ("v2", "revoked"), ("v3", "revoked again")] {
        for name in names {
            let (status, body) = weir.get(&format!("/v2/{name}/i/manifests/{tag}"));
            assert_eq!(status, 200, "{name}, {what}: {body}");
        }
        generation.fetch_add(1, Ordering::Relaxed);
    }
}

/// Of the kind of A7, distribution/distribution#973: a token says what was granted when it was issued.
#[test]
fn access_that_was_granted_or_taken_a_moment_ago_shows_with_the_next_request() {
    let granted = Arc::new(AtomicBool::new(false));
    let now = granted.clone();
    let server = Server::start(move |asked, url| {
        let name = repository(asked.path());
        if asked.path() == "/token" {
            let says = if now.load(Ordering::Relaxed) { "granted" } else { "nothing" };
            return answer(200, &[], format!(r#"{{"token":"{says}","expires_in":3600}}"#));
        }
        if token(asked) == "granted" && now.load(Ordering::Relaxed) {
            return answer(200, &[OCI_INDEX, ("Docker-Content-Digest", &digest(INDEX))], INDEX);
        }
        let challenge = format!(r#"Bearer realm="{url}/token""#);
        match (name, token(asked)) {
            ("forbidden", "nothing" | "granted") => answer(403, &[], "{}"),
            ("scope", "nothing" | "granted") => {
                answer(401, &[("WWW-Authenticate", &format!(r#"{challenge},error="insufficient_scope""#))], "")
            }
            ("bare", "nothing" | "granted") => answer(401, &[], ""),
            _ => answer(401, &[("WWW-Authenticate", &challenge)], ""),
        }
    });
    let weir = Weir::start(&server.url(), "", &[]);
    let names = ["forbidden", "scope", "bare", "again"];
    for (number, is_granted) in [false, true, false, true].into_iter().enumerate() {
        granted.store(is_granted, Ordering::Relaxed);
        for name in names {
            let (status, body) = weir.get(&format!("/v2/{name}/i/manifests/v{number}"));
            assert_eq!(status == 200, is_granted, "{name}, {number}: {status} {body}");
        }
    }
}

/// Of the kind of B7.
#[test]
fn what_verifies_and_is_no_manifest_is_paid_for_once() {
    const BODIES: [(&str, &str); 4] = [
        ("list", r#"[{"schemaVersion":2}]"#),
        ("both", r#"{"manifests":[],"layers":[],"config":{}}"#),
        ("text", r#""a manifest""#),
        ("cut", r#"{"schemaVersion":2,"manifests":["#),
    ];
    let server = Server::start(|asked, _| {
        let (_, body) = BODIES.iter().find(|(name, _)| *name == repository(asked.path())).unwrap();
        answer(200, &[OCI_INDEX, ("Docker-Content-Digest", &digest(body))], body)
    });
    let weir = Weir::start(&server.url(), "", &[]);
    for (name, body) in BODIES {
        for reference in ["v1".to_owned(), "v2".to_owned(), digest(body)] {
            let (status, body) = weir.get(&format!("/v2/{name}/manifests/{reference}"));
            assert_eq!(status, 502, "{name}: {body}");
        }
        let asked = server.asked();
        let gets = asked.iter().filter(|asked| asked.method == "GET" && repository(asked.path()) == name).count();
        assert_eq!(gets, 1, "{name}");
    }
}
