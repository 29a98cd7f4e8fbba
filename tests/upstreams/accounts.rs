//! Accounts of registries: where their credentials come from, for which repositories they are used, and who gets what they read.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{
    ACCOUNT, INDEX, OCI_INDEX, TOKEN_HEADER, Weir, digest,
    server::{Asked, Server, answer},
    token,
};
use crate::deploy::{ask, printed, weir};

fn basic(pair: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(pair))
}

fn index() -> Vec<u8> {
    answer(200, &[OCI_INDEX, ("Docker-Content-Digest", &digest(INDEX))], INDEX)
}

/// A registry that asks for Basic and takes whose pair `allowed` says for a repository.
fn by_basic(allowed: impl Fn(&str, &Asked) -> bool + Send + Sync + 'static) -> Server {
    Server::start(move |asked, _| match asked.header("authorization") {
        Some(sent) if allowed(sent, asked) => index(),
        Some(_) => answer(403, &[], r#"{"errors":[{"code":"DENIED"}]}"#),
        None => answer(401, &[("WWW-Authenticate", "Basic realm=\"r\"")], "{}"),
    })
}

/// A credential helper that notes what it is asked and prints the file `answer` of its directory.
fn helper(directory: &Path) -> PathBuf {
    let (path, here) = (directory.join("docker-credential-test"), directory.display());
    let script = format!("#!/bin/sh\nread server\necho \"$1 $server\" >> {here}/runs\ncat {here}/answer || exit 1\n");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn account(keys: &str) -> String {
    format!("accounts = [{{ username = \"robot\", {keys} }}]\n{ACCOUNT}")
}

fn state(weir: &Weir, state: &str) -> bool {
    let labels = format!(r#"upstream="r.example",identity="robot",state="{state}""#);
    weir.metric(&format!("weir_upstream_credential_state{{{labels}}} 1"))
}

/// Docker's helper protocol: docker/docker-credential-helpers; Amazon ECR's passwords live for 12 h (catalinpan/aws-ecr-proxy#7).
#[test]
fn a_credential_helper_is_asked_as_docker_asks_it_and_again_after_a_refusal() {
    let directory = tempfile::tempdir().unwrap();
    let (command, answer) = (helper(directory.path()), directory.path().join("answer"));
    let secret = |secret: &str| {
        let text = format!(r#"{{"ServerURL":"x","Username":"AWS","Secret":"{secret}"}}"#);
        let fresh = directory.path().join("fresh");
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, &answer).unwrap();
    };
    let runs = || fs::read_to_string(directory.path().join("runs")).unwrap_or_default();
    let server = by_basic(|sent, asked| {
        let good = if asked.target.ends_with("rotated") { "AWS:two" } else { "AWS:one" };
        sent == basic(good)
    });
    secret("one");
    let keys = account(&format!("command = [{command:?}, \"get\"]"));
    let weir = Weir::start(&server.url(), &keys, &[TOKEN_HEADER]);
    assert!(state(&weir, "unused"));
    for image in ["a", "b"] {
        let (status, body) = weir.get_as_ci(&format!("/v2/team/{image}/manifests/v1"));
        assert_eq!(status, 200, "{body}");
    }
    let host = server.url().replace("http://", "");
    assert_eq!(runs(), format!("get {host}\n"), "it is asked once");
    assert!(state(&weir, "accepted"));
    secret("two");
    let (status, body) = weir.get_as_ci("/v2/team/a/manifests/rotated");
    assert_eq!(status, 200, "after a refusal it is asked at once: {body}");
    assert_eq!(runs().lines().count(), 2);
    for (number, image) in ["c", "d", "e"].into_iter().enumerate() {
        assert_ne!(weir.get_as_ci(&format!("/v2/team/{image}/manifests/v1")).0, 200, "{number}");
    }
    assert!(
        runs().lines().count() <= 3,
        "a credential that stays refused runs no command for each request: {}",
        runs()
    );
    assert!(!weir.log().contains("two"), "a secret is never logged");
}

#[test]
fn a_credential_helper_that_fails_is_no_absence_and_is_logged() {
    let directory = tempfile::tempdir().unwrap();
    let (command, path) = (helper(directory.path()), directory.path().join("answer"));
    let server = by_basic(|sent, _| sent == basic("AWS:one"));
    let keys = account(&format!("command = [{command:?}, \"get\"]"));
    let long = "x".repeat(100_000);
    for (text, said) in [
        (None, "failed"),
        (Some("credentials not found"), "no JSON"),
        (Some(r#"{"Username":"","Secret":"s"}"#), "no user"),
        (Some(long.as_str()), "more than"),
    ] {
        match text {
            Some(text) => fs::write(&path, text).unwrap(),
            None => drop(fs::remove_file(&path)),
        }
        let weir = Weir::start(&server.url(), &keys, &[TOKEN_HEADER]);
        let (status, body) = weir.get_as_ci("/v2/team/a/manifests/v1");
        assert!(status == 503 && body.contains("robot") && body.contains(said), "{said}: {status} {body}");
        assert!(weir.log().contains("cannot be read") && state(&weir, "unreadable"), "{said}: {}", weir.log());
    }
}

/// What anybody may read needs no account, though the one with the most left pays for it.
#[test]
fn what_anybody_may_read_is_pulled_while_an_account_has_no_credential() {
    let directory = tempfile::tempdir().unwrap();
    let (command, file) = (helper(directory.path()), directory.path().join("password"));
    let server = Server::start(|asked, url| {
        if asked.path() == "/token" {
            return answer(200, &[], r#"{"token":"anonymous"}"#);
        }
        match token(asked) {
            "anonymous" if !asked.path().contains("/team/") => index(),
            _ => answer(401, &[("WWW-Authenticate", &format!(r#"Bearer realm="{url}/token",service="s""#))], "{}"),
        }
    });
    for keys in [format!("command = [{command:?}, \"get\"]"), format!("password_file = {file:?}")] {
        fs::write(&file, "secret").unwrap();
        let weir = Weir::start(&server.url(), &account(&keys), &[TOKEN_HEADER]);
        fs::remove_file(&file).unwrap();
        for repository in ["a", "b"] {
            let (status, body) = weir.get(&format!("/v2/{repository}/c/manifests/v1"));
            assert_eq!(status, 200, "{keys}, {repository}: {body}");
        }
        let (status, body) = weir.get_as_ci("/v2/team/a/manifests/v1");
        assert!(status == 503 && body.contains("robot"), "{keys}: {status} {body}");
        assert!(state(&weir, "unreadable"), "{keys}");
    }
}

#[test]
fn an_account_that_cannot_work_is_refused_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let (file, config) = (directory.path().join("plain"), directory.path().join("weir.toml"));
    fs::write(&file, "secret").unwrap();
    for (keys, key) in [
        (format!("command = [{file:?}, \"get\"]"), "accounts[0].command"),
        ("command = [\"docker-credential-that-is-nowhere\", \"get\"]".to_owned(), "accounts[0].command"),
        (format!("command = [\"true\"], password_file = {file:?}"), "accounts[0].password_file"),
        ("repositories = [\"a/*\"]".to_owned(), "accounts[0].password_file"),
        ("provider = \"ibm\"".to_owned(), "accounts[0].provider"),
        ("provider = \"google\", identity_token = true".to_owned(), "accounts[0].identity_token"),
        (format!("password_file = {file:?}, repositories = []"), "accounts[0].repositories"),
        (format!("password_file = {file:?}, repositories = [\"r.example/a/*\"]"), "accounts[0].repositories"),
        (format!("password_file = {file:?}, shared = [\"\"]"), "accounts[0].shared"),
    ] {
        let text = format!("[[upstream]]\nname = \"r.example\"\nurl = \"https://r.example\"\n{}", account(&keys));
        fs::write(&config, text).unwrap();
        let output = weir(&["check", "--config", config.to_str().unwrap()]).current_dir(&directory).output().unwrap();
        let said = printed(&output);
        assert!(!output.status.success() && said.contains(&format!("upstream[0].{key}")), "{keys}: {said}");
    }
}

/// distribution, spec/auth/oauth.md; Azure/acr, docs/AAD-OAuth.md.
#[test]
fn an_identity_token_is_exchanged_by_a_post_for_each_token() {
    let server = Server::start(|asked, url| {
        let path = asked.path();
        if path == "/oauth2/moved" {
            return answer(307, &[("Location", "/oauth2/token")], "");
        }
        if path == "/oauth2/token" {
            let form: Vec<_> = url::form_urlencoded::parse(asked.body.as_bytes()).into_owned().collect();
            let field = |name: &str| form.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
            let good = asked.method == "POST"
                && asked.header("content-type") == Some("application/x-www-form-urlencoded")
                && asked.header("authorization").is_none()
                && field("grant_type") == Some("refresh_token")
                && field("service") == Some("r.example")
                && field("scope").is_some_and(|scope| scope.starts_with("repository:team/"))
                && field("client_id").is_some();
            return match field("refresh_token") {
                Some("identity one") if good => {
                    answer(200, &[], r#"{"access_token":"good","refresh_token":"identity one","expires_in":300}"#)
                }
                // An anonymous token, which is for nothing private.
                None if asked.method == "GET" => answer(200, &[], r#"{"token":"anonymous"}"#),
                _ => answer(400, &[], r#"{"error":"invalid_grant"}"#),
            };
        }
        if token(asked) == "good" {
            return index();
        }
        let realm = if path.contains("moved") { "moved" } else { "token" };
        let challenge = format!(r#"Bearer realm="{url}/oauth2/{realm}",service="r.example""#);
        answer(401, &[("WWW-Authenticate", &challenge)], "{}")
    });
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    fs::write(&file, "identity one\n").unwrap();
    let by_file = account(&format!("password_file = {file:?}, identity_token = true"));
    let command = helper(directory.path());
    fs::write(directory.path().join("answer"), r#"{"Username":"<token>","Secret":"identity one"}"#).unwrap();
    let by_command = account(&format!("command = [{command:?}, \"get\"]"));
    for keys in [by_file.clone(), by_command] {
        let weir = Weir::start(&server.url(), &keys, &[TOKEN_HEADER]);
        for name in ["team/a", "team/moved"] {
            let (status, body) = weir.get_as_ci(&format!("/v2/{name}/manifests/v1"));
            assert_eq!(status, 200, "{keys}: {name}: {body}");
        }
        assert_eq!(weir.get("/v2/team/a/manifests/v1").0, 404, "private to all others");
    }
    fs::write(&file, "identity two").unwrap();
    let weir = Weir::start(&server.url(), &by_file, &[TOKEN_HEADER]);
    let (status, body) = weir.get_as_ci("/v2/team/a/manifests/v1");
    assert!(status == 503 && body.contains("robot"), "a grant that is invalid is no absence: {status} {body}");
    assert!(weir.log().contains("an account was refused") && state(&weir, "refused"), "{}", weir.log());
    let (_, _, page) = ask(weir.admin, "GET", "/budget", "");
    assert!(page.contains("refused the credential of account"), "{page}");
}

/// Of the kind of A10: goharbor/harbor#23753.
#[test]
fn a_token_is_used_whatever_its_lifetime_says() {
    const LIFETIMES: [&str; 9] = ["0", "-5", "1e300", "null", "\"60\"", "\"soon\"", "[]", "{\"s\":1}", "0.5"];
    let server = Server::start(|asked, url| {
        if asked.path() == "/token" {
            let of = asked.target.split("scope=repository%3Ai").nth(1).unwrap_or("9");
            let expires = match LIFETIMES.get(of[..1].parse::<usize>().unwrap()) {
                Some(lifetime) => format!(r#","expires_in":{lifetime}"#),
                None => String::new(),
            };
            return answer(
                200,
                &[],
                format!(r#"{{"token":7,"token":null,"access_token":"good\n","issued_at":"1970-01-01"{expires}}}"#),
            );
        }
        match token(asked) {
            "good" => index(),
            _ => answer(401, &[("WWW-Authenticate", &format!(r#"Bearer realm="{url}/token""#))], "{}"),
        }
    });
    let weir = Weir::start(&server.url(), "", &[]);
    for number in 0..=LIFETIMES.len() {
        for tag in ["v1", "v2"] {
            let (status, body) = weir.get(&format!("/v2/i{number}/manifests/{tag}"));
            assert_eq!(status, 200, "{:?}: {body}", LIFETIMES.get(number));
        }
    }
    let tokens = server.asked().iter().filter(|asked| asked.path() == "/token").count();
    assert_eq!(tokens, LIFETIMES.len() + 1, "one token serves a repository, however soon it says that it expires");
}

#[test]
fn an_account_is_used_for_its_repositories_alone() {
    let server = by_basic(|sent, asked| {
        let owner = if asked.path().contains("/team/a/") { "alice:a" } else { "bob:b" };
        sent == basic(owner)
    });
    let directory = tempfile::tempdir().unwrap();
    let file = |password: &str| {
        let path = directory.path().join(password);
        fs::write(&path, password).unwrap();
        path
    };
    let keys = format!(
        "accounts = [{{ username = \"alice\", password_file = {:?}, repositories = [\"team/a/*\"] }}, \
         {{ username = \"bob\", password_file = {:?}, repositories = [\"team/b/*\", \"team/c\"] }}]\n{ACCOUNT}",
        file("a"),
        file("b"),
    );
    let weir = Weir::start(&server.url(), &keys, &[TOKEN_HEADER]);
    for (name, status) in [("team/a/x", 200), ("team/b/x", 200), ("team/c", 200), ("team/d", 404)] {
        assert_eq!(weir.get_as_ci(&format!("/v2/{name}/manifests/v1")).0, status, "{name}");
    }
    for asked in server.asked() {
        if let Some(sent) = asked.header("authorization") {
            let path = asked.path();
            let expected = if path.contains("/team/a/") { "alice:a" } else { "bob:b" };
            assert!(sent == basic(expected) && !path.contains("team/d"), "{asked:?}");
        }
    }
}

#[test]
fn what_is_shared_is_given_to_every_client_and_nothing_else_is() {
    let server = by_basic(|sent, _| sent == basic("robot:s3cret"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    fs::write(&file, "s3cret").unwrap();
    let weir = Weir::start(
        &server.url(),
        &account(&format!("password_file = {file:?}, shared = [\"team/open/*\"]")),
        &[TOKEN_HEADER],
    );
    assert!(weir.log().contains("given to every client"), "{}", weir.log());
    for _ in 0..2 {
        assert_eq!(weir.get("/v2/team/open/a/manifests/v1"), (200, INDEX.to_owned()));
        assert_eq!(weir.get("/v2/team/closed/a/manifests/v1").0, 404);
        assert_eq!(weir.get("/v2/team/open/manifests/v1").0, 404, "the pattern names what is below");
        assert_eq!(weir.get_as_ci("/v2/team/closed/a/manifests/v1").0, 200);
    }
    let (_, catalog) = weir.get("/v2/_catalog");
    assert!(catalog.contains("team/open/a") && !catalog.contains("team/closed"), "{catalog}");
    let weir = Weir::start(&server.url(), &account(&format!("password_file = {file:?}")), &[TOKEN_HEADER]);
    assert_eq!(weir.get("/v2/team/open/a/manifests/v1").0, 404, "nothing is shared by default");
}

#[test]
fn an_account_that_is_given_what_is_private_is_asked_first() {
    let server = by_basic(|sent, _| sent == basic("robot:s3cret"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    fs::write(&file, "s3cret").unwrap();
    let weir = Weir::start(&server.url(), &account(&format!("password_file = {file:?}")), &[TOKEN_HEADER]);
    for tag in ["v1", "v2", "v3"] {
        assert_eq!(weir.get_as_ci(&format!("/v2/team/a/manifests/{tag}")).0, 200);
    }
    let anonymous = server.asked().iter().filter(|asked| asked.header("authorization").is_none()).count();
    // As anonymous, and as the account that does not know yet what is asked for.
    assert_eq!(anonymous, 2, "{:?}", server.asked());
}
