//! Accounts and tokens, through the front door: what only an account may read stays private, and a refusal says what would help.

use super::{
    ACCOUNT, INDEX, OCI_INDEX, TOKEN_HEADER, Weir, digest,
    server::{Server, answer, head},
};
use crate::deploy::ask;

/// The registry's account "me", whose password "secret" stands in a file of this directory.
fn accounts(directory: &std::path::Path) -> String {
    let file = directory.join("password");
    std::fs::write(&file, "secret\n").unwrap();
    format!("accounts = [{{ username = \"me\", password_file = \"{}\" }}]\n", file.display())
}

/// Of the kinds of B8 and of registries that tell an anonymous client 404 of what is private: a GET that an account could send says
/// nothing about who may read.
#[test]
fn what_only_an_account_may_read_stays_private_where_head_is_refused() {
    // me:secret
    const BASIC: &str = "Basic bWU6c2VjcmV0";
    let server = Server::start(|asked, _| {
        let name = asked.path().split('/').nth(2).unwrap_or_default();
        let known = asked.header("authorization") == Some(BASIC);
        match (asked.method.as_str(), name) {
            ("HEAD", "head404") => head(404, &[], 0),
            ("HEAD", "head405") => head(405, &[], 0),
            ("HEAD", "head400") => head(400, &[], 0),
            ("HEAD", "page") => head(200, &[("Content-Type", "text/html")], 9),
            ("HEAD", "silent") => head(200, &[OCI_INDEX], 0),
            ("GET", "hidden") if !known && asked.header("authorization").is_some() => answer(401, &[], ""),
            _ if !known => answer(401, &[("WWW-Authenticate", "Basic realm=\"r\"")], ""),
            _ => answer(200, &[OCI_INDEX, ("Docker-Content-Digest", &digest(INDEX))], INDEX),
        }
    });
    let secrets = tempfile::tempdir().unwrap();
    let weir = Weir::start(&server.url(), &accounts(secrets.path()), &[]);
    for name in ["head404", "head405", "head400", "page", "silent"] {
        for reference in ["v1".to_owned(), digest(INDEX)] {
            let (status, body) = weir.get(&format!("/v2/{name}/manifests/{reference}"));
            assert_eq!(status, 404, "{name} {reference}: {body}");
        }
    }
}

/// A listener that asks for no password gives no challenge either, so that the sentence alone tells a client to log in.
#[test]
fn a_name_that_may_be_private_says_that_no_credential_came_and_where_to_log_in() {
    let server = Server::start(|asked, _| match (asked.header("authorization"), asked.path()) {
        (Some(_), path) if path.contains("/team/") => {
            answer(200, &[OCI_INDEX, ("Docker-Content-Digest", &digest(INDEX))], INDEX)
        }
        _ => answer(401, &[("WWW-Authenticate", "Basic realm=\"r\"")], ""),
    });
    let secrets = tempfile::tempdir().unwrap();
    let keys = format!("{}[[listener]]\naddress = \"127.0.0.1:0\"\nlogin = true\n{ACCOUNT}", accounts(secrets.path()));
    let weir = Weir::start(&server.url(), &keys, &[TOKEN_HEADER]);
    let sentence = |name: &str| {
        let (status, body) = weir.get(&format!("/v2/{name}/manifests/v1"));
        assert!(status == 404 && body.contains("no valid credential came"), "{name}: {status} {body}");
        body.replace(name, "NAME")
    };
    let private = sentence("team/a");
    assert_eq!(private, sentence("nowhere/b"), "what is private looks like what is nowhere");
    let (_, port) = private.split_once("docker login 127.0.0.1:").unwrap();
    let port: u16 = port.split(',').next().unwrap().parse().unwrap();
    let there = (weir.registry.ip(), port).into();
    assert_eq!(ask(there, "GET", "/v2/", "").0, 401, "there a client can log in");
    let (status, body) = weir.get_as_ci("/v2/team/a/manifests/v1");
    assert_eq!((status, body), (200, INDEX.to_owned()));
    let (_, body) = weir.get_as_ci("/v2/nowhere/a/manifests/v1");
    assert!(!body.contains("docker login"), "a client that has logged in is not told to: {body}");
}

/// Anonymous is refused, and the account finds nothing: the first refusal is the answer, whether HEAD told it or GET.
#[test]
fn when_every_identity_is_refused_the_first_refusal_is_the_answer() {
    let server = Server::start(|asked, _| {
        let refused = match asked.header("authorization") {
            Some(_) => 404,
            None => 401,
        };
        let challenge = [("WWW-Authenticate", "Basic realm=\"r\"")];
        match (asked.method.as_str(), asked.path().contains("head405")) {
            ("HEAD", true) => head(405, &[], 0),
            ("HEAD", false) => head(refused, &challenge[usize::from(refused == 404)..], 0),
            _ => answer(refused, &challenge[usize::from(refused == 404)..], ""),
        }
    });
    let secrets = tempfile::tempdir().unwrap();
    let keys = accounts(secrets.path()).replace(" }]", ", shared = [\"*\"] }]");
    let weir = Weir::start(&server.url(), &keys, &[]);
    for name in ["a/head", "a/head405"] {
        let (status, body) = weir.get(&format!("/v2/{name}/manifests/v1"));
        assert!(status == 404 && body.contains("NAME_UNKNOWN"), "{name}: {status} {body}");
        let asked = server.asked();
        assert!(asked.iter().any(|asked| asked.path().contains(name) && asked.header("authorization").is_some()));
    }
}

/// A GET by tag says of the tag itself that it is gone; only a digest that a HEAD named may have been replaced meanwhile.
#[test]
fn a_tag_that_a_registry_without_head_does_not_have_costs_one_get() {
    let server = Server::start(|asked, _| match asked.method.as_str() {
        "HEAD" => head(405, &[], 0),
        _ => answer(404, &[], ""),
    });
    let weir = Weir::start(&server.url(), "", &[]);
    assert_eq!(weir.get("/v2/a/b/manifests/none").0, 404);
    let asked = server.asked();
    let manifests = |method: &str| {
        asked.iter().filter(|asked| asked.method == method && asked.path().contains("/manifests/")).count()
    };
    assert_eq!((manifests("HEAD"), manifests("GET")), (1, 1));
}

/// Of the kind of A8 (getwud/wud#143, rpardini/docker-registry-proxy#158): the log says once which host, and what would help.
#[test]
fn a_token_service_elsewhere_is_logged_once_with_the_setting_that_trusts_it() {
    for (realm, host, helps) in [
        ("http://ghcr.example/token", "ghcr.example", true),
        ("http://tokens.other.example:8443/v2/t?x=1", "tokens.other.example", true),
        ("http://169.254.169.254/latest", "169.254.169.254", true),
        ("ftp://tokens.example/", "", false),
    ] {
        let challenge = format!(r#"Bearer realm="{realm}",service="s""#);
        let server = Server::start(move |_, _| answer(401, &[("WWW-Authenticate", &challenge)], ""));
        let weir = Weir::start(&server.url(), "", &[]);
        for number in 0..5 {
            let (status, body) = weir.get(&format!("/v2/a/b{number}/manifests/v1"));
            assert!(status == 502 && body.contains(host), "{realm}: {status} {body}");
        }
        let log = weir.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(r#""level":"WARN""#)).collect();
        assert!(lines.len() == 1 && lines[0].contains(host) && lines[0].contains("r.example"), "{lines:?}");
        assert_eq!(lines[0].contains("token_hosts"), helps, "{lines:?}");
    }
}

/// Of the kind of E1 (distribution/distribution#4490, rpardini/docker-registry-proxy#85): the proxy wants a password, too.
#[test]
fn the_way_out_is_the_proxy_that_is_named_with_its_password() {
    // user:p@ss
    const PASSWORD: Option<&str> = Some("Basic dXNlcjpwQHNz");
    let proxy = Server::start(|asked, _| match (asked.method.as_str(), asked.header("proxy-authorization")) {
        (_, password) if password != PASSWORD => answer(407, &[("Proxy-Authenticate", "Basic realm=\"p\"")], ""),
        ("CONNECT", _) => answer(502, &[], ""),
        _ => answer(200, &[OCI_INDEX, ("Docker-Content-Digest", &digest(INDEX))], INDEX),
    });
    let (good, wrong) = (proxy.url().replace("//", "//user:p%40ss@"), proxy.url().replace("//", "//user:wrong@"));
    let set = format!("proxy = \"{good}\"");
    for (url, keys, environment, status) in [
        ("http://registry.invalid", set.as_str(), vec![], 200),
        ("http://registry.invalid", set.as_str(), vec![("HTTP_PROXY", "http://127.0.0.1:1")], 200),
        (
            "http://registry.invalid",
            "",
            vec![("ALL_PROXY", good.as_str()), ("NO_PROXY", "other.invalid,10.0.0.0/8")],
            200,
        ),
        ("http://registry.invalid", "", vec![("http_proxy", wrong.as_str())], 502),
        ("http://registry.invalid", set.as_str(), vec![("no_proxy", "registry.invalid")], 503),
        ("https://registry.invalid", "", vec![("HTTPS_PROXY", good.as_str())], 503),
        ("https://registry.invalid", set.as_str(), vec![], 503),
    ] {
        let before = proxy.asked().len();
        let weir = Weir::start(url, keys, &environment);
        let (found, body) = weir.get("/v2/a/b/manifests/v1");
        assert_eq!(found, status, "{url} {keys} {environment:?}: {body}");
        assert!(!body.contains("p%40ss") && !body.contains("wrong") && !weir.log().contains("p%40ss"), "{body}");
        let asked = proxy.asked().split_off(before);
        let is_bypassed = environment.iter().any(|(_, value)| *value == "registry.invalid");
        assert_eq!(asked.is_empty(), is_bypassed, "{url} {keys} {environment:?}: {asked:?}");
        if url.starts_with("https") {
            assert!(asked.iter().all(|asked| asked.method == "CONNECT" && asked.target == "registry.invalid:443"));
            assert!(body.contains("through"), "the refusal names the way: {body}");
        }
    }
}

/// What a client is told of an odd registry, an operator finds in the log: once, however many ask.
#[test]
fn a_failure_of_an_upstream_is_logged_once_with_what_was_wrong() {
    let server = Server::start(|asked, _| match asked.path().split('/').nth(2).unwrap_or_default() {
        "page" => answer(200, &[OCI_INDEX], "<html>log in</html>"),
        "loop" => answer(302, &[("Location", "?again")], ""),
        "teapot" => answer(418, &[], ""),
        _ => answer(500, &[], ""),
    });
    let weir = Weir::start(&server.url(), "", &[]);
    for name in ["page", "loop", "teapot", "broken"] {
        for tag in 0..3 {
            assert!(weir.get(&format!("/v2/{name}/a/manifests/v{tag}")).0 >= 500, "{name}");
        }
    }
    let log = weir.log();
    for what in ["no JSON object", "too many redirects", "answers 418", "answers 500"] {
        let lines: Vec<&str> =
            log.lines().filter(|line| line.contains("upstream failed") && line.contains(what)).collect();
        assert!(lines.len() == 1 && lines[0].contains("r.example"), "{what}: {lines:?}");
    }
}
