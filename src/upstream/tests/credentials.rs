//! Credentials that change, and registries that ask for them in their own ways.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::{
    super::Error,
    server::{Asked, answer},
    *,
};

type Realm = Arc<OnceLock<String>>;

/// A registry that knows its own address, for its challenges.
async fn registry(respond: impl Fn(&Asked, &str) -> Vec<u8> + Send + Sync + 'static) -> Server {
    let url: Realm = Arc::default();
    let own = url.clone();
    let server = Server::start(move |asked| respond(asked, own.get().unwrap())).await;
    url.set(server.url()).unwrap();
    server
}

fn unauthorized(challenge: &str) -> Vec<u8> {
    answer(401, &[("WWW-Authenticate", challenge)], "{}")
}

async fn head(upstream: &Upstream, identity: &Identity, repository: &str) -> Result<crate::upstream::Head, Error> {
    upstream.head_manifest(identity, &name(repository), &tag("latest")).await
}

/// Source: bazel-contrib/rules_img#715, kcl-lang/kpm#698 (ECR answers 403 to a password that is older than 12 h).
#[tokio::test]
async fn a_rotated_password_file_is_read_again_after_a_refusal() {
    for refusal in [401, 403, 400] {
        let server = Server::start(move |asked| match asked.header("authorization") {
            None => unauthorized(r#"Basic realm="ecr""#),
            // me:one before, me:two after.
            Some("Basic bWU6b25l") if !asked.target.contains("rotated") => answer(200, &[OCI_INDEX], INDEX),
            Some("Basic bWU6dHdv") => answer(200, &[OCI_INDEX], INDEX),
            Some(_) => answer(refusal, &[], r#"{"errors":[{"code":"DENIED"}]}"#),
        })
        .await;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "one\n").unwrap();
        let mut account = Account::with_password("me", "");
        (account.password, account.password_file) = (None, Some(file.path().to_owned()));
        let settings = Settings { accounts: vec![account], ..settings(&server.url()) };
        let upstream = Upstream::new(settings, Ledger::unkept()).unwrap();
        head(&upstream, &me(), "a/b").await.unwrap();
        std::fs::write(file.path(), "two\n").unwrap();
        head(&upstream, &me(), "rotated").await.unwrap();
        assert_eq!(upstream.identities().len(), 2, "not parked");
    }
}

/// Source: earthly/earthly#1017, containerd/containerd#6339 (Artifactory names a realm for each repository key).
#[tokio::test]
async fn a_realm_or_service_that_differs_by_repository_is_asked_for_each() {
    for by_service in [false, true] {
        let server = registry(move |asked, url| {
            let key = asked.path().trim_start_matches("/v2/").split('/').next().unwrap().to_owned();
            if let Some(realm) = asked.path().strip_suffix("/token") {
                let service = asked.target.split("service=").nth(1).unwrap_or_default().split('&').next().unwrap();
                let of = if by_service { service } else { realm.trim_start_matches('/') };
                return answer(200, &[], format!(r#"{{"token":"{of}","expires_in":300}}"#));
            }
            if asked.header("authorization") == Some(&format!("Bearer {key}")) {
                return answer(200, &[OCI_INDEX], INDEX);
            }
            match by_service {
                true => unauthorized(&format!(r#"Bearer realm="{url}/token",service="{key}""#)),
                false => unauthorized(&format!(r#"Bearer realm="{url}/{key}/token",service="art""#)),
            }
        })
        .await;
        let upstream = upstream(&server);
        for repository in ["docker-a/img", "docker-b/img", "docker-a/img", "docker-b/img"] {
            head(&upstream, &anonymous(), repository).await.unwrap();
        }
        assert!(server.count("token?") <= 3, "{}", server.count("token?"));
    }
}

/// Source: renovatebot/renovate#14708, Azure/acr#600 (ACR wants `metadata_read` for tags/list).
#[tokio::test]
async fn a_listing_is_asked_with_the_reading_scope_that_its_challenge_names() {
    for (wanted, works) in [
        ("repository:a/b:metadata_read", true),
        ("repository:a/b:pull,metadata_read", true),
        ("registry:catalog:* repository:a/b:content_read", true),
        ("repository:a/b:pull,push", false),
        ("repository:a/b:delete", false),
        ("repository:other:metadata_read", false),
    ] {
        let server = registry(move |asked, url| {
            let scope = if asked.target.contains("tags") { wanted } else { "repository:a/b:pull" };
            match asked.path() {
                "/token" => {
                    answer(200, &[], format!(r#"{{"token":"{}"}}"#, asked.target.split("scope=").nth(1).unwrap()))
                }
                _ => {
                    let last = scope.split(' ').next_back().unwrap();
                    let last = last.replace(':', "%3A").replace('/', "%2F").replace(',', "%2C");
                    match asked.header("authorization") == Some(&format!("Bearer {last}")) {
                        true => answer(200, &[OCI_INDEX], r#"{"tags":["a"]}"#),
                        false => unauthorized(&format!(r#"Bearer realm="{url}/token",scope="{scope}""#)),
                    }
                }
            }
        })
        .await;
        let upstream = upstream(&server);
        head(&upstream, &anonymous(), "a/b").await.unwrap();
        let tags = upstream.tags(&anonymous(), &name("a/b")).await;
        assert_eq!(tags, if works { Ok(vec!["a".to_owned()]) } else { Err(Error::Denied) }, "{wanted}");
        assert!(!server.asked().iter().any(|asked| asked.target.contains("push") || asked.target.contains("delete")));
        head(&upstream, &anonymous(), "a/b").await.unwrap();
    }
}

/// Source: oras-project/oras-go#650, oras-project/oras-dotnet#415 (nvcr.io names another realm to a bad token).
#[tokio::test]
async fn a_revoked_token_is_dropped_whatever_the_refusal_says() {
    for (status, challenge) in [
        (401, Some(r#"Bearer realm="https://authn.elsewhere.example/token""#)),
        (401, Some(r#"Negotiate"#)),
        (401, None),
        (401, Some("Bearer nonsense")),
    ] {
        let revoked = Arc::new(AtomicBool::new(false));
        let (flag, tokens) = (revoked.clone(), AtomicUsize::new(0));
        let server = registry(move |asked, url| match (asked.path(), asked.header("authorization")) {
            ("/token", _) => {
                let token = tokens.fetch_add(1, Ordering::Relaxed);
                answer(200, &[], format!(r#"{{"token":"t{token}","expires_in":300}}"#))
            }
            (_, None) => unauthorized(&bearer(&format!("{url}/token"))),
            (_, Some("Bearer t0")) if flag.load(Ordering::Relaxed) => {
                let headers: Vec<_> = challenge.map(|text| ("WWW-Authenticate", text)).into_iter().collect();
                answer(status, &headers, "{}")
            }
            _ => answer(200, &[OCI_INDEX], INDEX),
        })
        .await;
        let upstream = upstream(&server);
        head(&upstream, &anonymous(), "a/b").await.unwrap();
        revoked.store(true, Ordering::Relaxed);
        head(&upstream, &anonymous(), "a/b").await.unwrap_or_else(|error| panic!("{status} {challenge:?}: {error}"));
        assert_eq!(server.count("/token"), 2);
    }
}

/// A token that is revoked between its arrival and its use, as a registry that was started again does, is no absence.
#[tokio::test]
async fn a_new_token_that_is_called_invalid_is_replaced_once() {
    for (error, dead, expected, tokens) in
        [("invalid_token", 1, true, 2), ("invalid_token", usize::MAX, false, 2), ("insufficient_scope", 1, false, 1)]
    {
        let given = AtomicUsize::new(0);
        let server = registry(move |asked, url| {
            if asked.path() == "/token" {
                return answer(200, &[], format!(r#"{{"token":"{}"}}"#, given.fetch_add(1, Ordering::Relaxed)));
            }
            let token = asked.header("authorization").and_then(|header| header.strip_prefix("Bearer ")?.parse().ok());
            match token {
                Some(token) if dead <= token => answer(200, &[OCI_INDEX], INDEX),
                Some::<usize>(_) => unauthorized(&format!(r#"Bearer realm="{url}/token",error="{error}""#)),
                None => unauthorized(&format!(r#"Bearer realm="{url}/token""#)),
            }
        })
        .await;
        let found = head(&upstream(&server), &anonymous(), "a/b").await;
        assert!(if expected { found.is_ok() } else { found == Err(Error::Denied) }, "{found:?}");
        assert_eq!(server.count("/token"), tokens, "{:?}", server.asked());
    }
}

/// Source: getwud/wud#143, linkerd/linkerd2#5959 (lscr.io and cr.l5d.io name ghcr.io/token).
#[tokio::test]
async fn a_token_service_elsewhere_is_named_with_the_setting_that_trusts_it() {
    let server = Server::start(|_| unauthorized(r#"Bearer realm="http://tokens.other.example/token""#)).await;
    let error = head(&upstream(&server), &anonymous(), "a/b").await.unwrap_err().to_string();
    assert!(error.contains("tokens.other.example") && error.contains("token_hosts"), "{error}");
}

#[tokio::test]
async fn a_name_that_is_refused_does_not_park_an_account_that_works() {
    // By Basic: the registry answers end-1 with the same credential.
    let server = Server::start(|asked| match asked.header("authorization") {
        Some("Basic bWU6Y2FuYXJ5") if !asked.target.contains("forbidden") => answer(200, &[OCI_INDEX], INDEX),
        _ => unauthorized("Basic"),
    })
    .await;
    let by_basic = with_account(&server);
    assert_eq!(head(&by_basic, &me(), "forbidden/x").await, Err(Error::Denied));
    head(&by_basic, &me(), "fine/x").await.unwrap();
    assert_eq!(head(&by_basic, &me(), "forbidden/y").await, Err(Error::Denied));
    head(&by_basic, &me(), "fine/y").await.unwrap();

    // By a token service, once it accepted the password.
    let server = registry(|asked, url| match (asked.path(), asked.header("authorization")) {
        ("/token", Some(_)) if !asked.target.contains("forbidden") => answer(200, &[], TOKEN),
        ("/token", _) => answer(401, &[], "{}"),
        (path, Some("Bearer good")) if !path.contains("forbidden") => answer(200, &[OCI_INDEX], INDEX),
        _ => unauthorized(&bearer(&format!("{url}/token"))),
    })
    .await;
    let by_token = with_account(&server);
    head(&by_token, &me(), "fine/x").await.unwrap();
    assert_eq!(head(&by_token, &me(), "forbidden/x").await, Err(Error::Denied));
    head(&by_token, &me(), "fine/y").await.unwrap();
}

#[tokio::test]
async fn a_token_service_redirects_once_to_where_a_realm_may_be() {
    let server = registry(|asked, url| match (asked.path(), asked.header("authorization")) {
        ("/token", _) => answer(307, &[("Location", "/real?x=1")], ""),
        ("/away", _) => answer(307, &[("Location", "http://localhost:1/real")], ""),
        ("/real", Some("Basic bWU6Y2FuYXJ5")) => answer(200, &[], TOKEN),
        (_, Some("Bearer good")) => answer(200, &[OCI_INDEX], INDEX),
        (path, _) => {
            let realm = if path.contains("foreign") { "away" } else { "token" };
            unauthorized(&bearer(&format!("{url}/{realm}")))
        }
    })
    .await;
    let upstream = with_account(&server);
    head(&upstream, &me(), "a/b").await.unwrap();
    // Another client, which has not learned the good realm.
    let refused = head(&with_account(&server), &me(), "foreign").await;
    assert!(matches!(&refused, Err(Error::Malformed(why)) if why.contains("localhost")), "{refused:?}");
}

#[tokio::test]
async fn a_silent_token_service_is_asked_once() {
    let realm: Realm = Arc::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    realm.set(format!("http://{}/token", listener.local_addr().unwrap())).unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            open.push(stream);
        }
    });
    let server = Server::start(move |_| unauthorized(&bearer(realm.get().unwrap()))).await;
    let brief = Duration::from_millis(100);
    let settings = Settings { first_byte_timeout: brief, connect_timeout: brief, ..settings(&server.url()) };
    let upstream = Upstream::new(settings, Ledger::unkept()).unwrap();
    let failed = head(&upstream, &anonymous(), "a/b").await;
    assert!(matches!(failed, Err(Error::Unavailable { .. })), "{failed:?}");
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}
