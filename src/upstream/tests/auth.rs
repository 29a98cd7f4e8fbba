//! Who gets a secret, and how often a token is asked for.

use std::sync::{
    Mutex, OnceLock,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::{super::Error, server::answer, *};

/// A registry with a token service on its own address; `authorized` says which `Authorization` it takes.
async fn registry(authorized: impl Fn(&str) -> bool + Send + Sync + 'static) -> Server {
    let realm = Arc::new(OnceLock::new());
    let place = realm.clone();
    let server = Server::start(move |asked| {
        let realm: &String = place.get().unwrap();
        match asked.path() {
            "/token" => answer(200, &[], TOKEN),
            _ if asked.header("authorization").is_some_and(&authorized) => answer(200, &[OCI_INDEX], INDEX),
            _ => answer(401, &[("WWW-Authenticate", &bearer(realm))], "{}"),
        }
    })
    .await;
    realm.set(server.at("/token")).unwrap();
    server
}

#[tokio::test]
async fn one_token_serves_all_of_a_repository_and_the_challenge_is_learned_for_the_next() {
    let server = registry(|sent| sent == "Bearer good").await;
    let upstream = upstream(&server);
    upstream.head_manifest(&anonymous(), &name("a/b"), &tag("latest")).await.unwrap();
    get(&upstream, &tag("latest")).await.unwrap();
    upstream.get_blob(&anonymous(), &name("a/b"), &digest("x"), 0, None).await.unwrap();
    assert_eq!((server.count("/token"), server.asked().len()), (1, 5));
    let asked = server.asked().into_iter().find(|asked| asked.path() == "/token").unwrap();
    assert_eq!(asked.target, "/token?service=registry.test&scope=repository%3Aa%2Fb%3Apull");
    assert_eq!(asked.header("authorization"), None);
    upstream.head_manifest(&anonymous(), &name("c"), &tag("latest")).await.unwrap();
    assert_eq!((server.count("/token"), server.asked().len()), (2, 7));
}

#[tokio::test]
async fn however_many_ask_one_token_is_fetched() {
    let server = registry(|sent| sent == "Bearer good").await;
    let upstream = upstream(&server);
    let (identity, repository, reference) = (anonymous(), name("a/b"), tag("latest"));
    let heads = (0..60).map(|_| upstream.head_manifest(&identity, &repository, &reference));
    for head in futures_util::future::join_all(heads).await {
        head.unwrap();
    }
    assert_eq!(server.count("/token"), 1);
}

#[tokio::test]
async fn a_password_goes_to_the_token_service_and_never_to_a_registry_that_did_not_ask() {
    let server = registry(|sent| sent == "Bearer good").await;
    let upstream = with_account(&server);
    upstream.head_manifest(&me(), &name("a/b"), &tag("latest")).await.unwrap();
    // me:canary
    for asked in server.asked() {
        let basic = asked.header("authorization") == Some("Basic bWU6Y2FuYXJ5");
        assert_eq!(basic, asked.path() == "/token", "{asked:?}");
    }
}

#[tokio::test]
async fn a_token_that_is_no_longer_good_is_fetched_anew_once() {
    let expired = Arc::new(AtomicBool::new(false));
    let flag = expired.clone();
    let server = registry(move |_| !flag.load(Ordering::Relaxed)).await;
    let upstream = upstream(&server);
    get(&upstream, &tag("latest")).await.unwrap();
    expired.store(true, Ordering::Relaxed);
    assert_eq!(get(&upstream, &tag("latest")).await, Err(Error::Denied));
    // The old token, the new one, and no more: 401 after a good token is a refusal.
    assert_eq!((server.count("/token"), server.count("/v2/")), (2, 4));
}

/// A token says what was granted when it was issued (distribution/distribution#973): so each change shows with the next request.
#[tokio::test]
async fn a_refusal_says_what_is_granted_when_the_request_came() {
    for refusal in [401, 403, 400] {
        let realm = Arc::new(OnceLock::<String>::new());
        let (place, granted, issued) = (realm.clone(), Arc::new(AtomicBool::new(false)), AtomicUsize::new(0));
        let grant = granted.clone();
        let server = Server::start(move |asked| match (asked.path(), asked.header("authorization")) {
            ("/token", _) => {
                let grant = if grant.load(Ordering::Relaxed) { "all" } else { "nothing" };
                let number = issued.fetch_add(1, Ordering::Relaxed);
                answer(200, &[], format!(r#"{{"token":"{grant}-{number}","expires_in":3600}}"#))
            }
            (_, Some(token)) if token.starts_with("Bearer all") && grant.load(Ordering::Relaxed) => {
                answer(200, &[OCI_INDEX], INDEX)
            }
            (_, Some(_)) if refusal != 401 => answer(refusal, &[], "{}"),
            _ => {
                let challenge = format!(r#"{},error="insufficient_scope""#, bearer(place.get().unwrap()));
                answer(401, &[("WWW-Authenticate", &challenge)], "{}")
            }
        })
        .await;
        realm.set(server.at("/token")).unwrap();
        let upstream = upstream(&server);
        for (number, now) in [false, true, false, true, true].into_iter().enumerate() {
            granted.store(now, Ordering::Relaxed);
            let got = get(&upstream, &tag(&format!("v{number}"))).await;
            assert_eq!(got.is_ok(), now, "{refusal}, {number}: {got:?}");
        }
        assert_eq!(server.count("/token"), 4, "{refusal}: a token for each change");
    }
}

#[tokio::test]
async fn a_token_service_is_asked_a_bounded_number_of_times_for_what_is_refused() {
    let realm = Arc::new(OnceLock::<String>::new());
    let (place, issued) = (realm.clone(), AtomicUsize::new(0));
    let server = Server::start(move |asked| match asked.path() {
        "/token" => {
            let number = issued.fetch_add(1, Ordering::Relaxed);
            answer(200, &[], format!(r#"{{"token":"{number}"}}"#))
        }
        _ => answer(401, &[("WWW-Authenticate", &bearer(place.get().unwrap()))], ""),
    })
    .await;
    realm.set(server.at("/token")).unwrap();
    let upstream = upstream(&server);
    let began = std::time::Instant::now();
    let head = |reference: String| {
        let upstream = upstream.clone();
        async move { upstream.head_manifest(&anonymous(), &name("a/b"), &tag(&reference)).await }
    };
    for number in 0..6 {
        assert_eq!(head(format!("one-{number}")).await, Err(Error::Denied));
    }
    for refused in futures_util::future::join_all((0..60).map(|number| head(format!("many-{number}")))).await {
        assert_eq!(refused, Err(Error::Denied));
    }
    // The first, four more at once, and one in two seconds.
    let most = 5 + began.elapsed().as_secs() / 2;
    assert!(server.count("/token") as u64 <= most, "{} of {most}", server.count("/token"));
}

#[tokio::test]
async fn a_foreign_realm_gets_no_credential_and_a_good_one_beside_it_is_used() {
    let evil = Server::start(|_| answer(200, &[], TOKEN)).await;
    let port = evil.url().rsplit_once(':').unwrap().1.to_owned();
    for realm in [
        format!("http://localhost:{port}/token"),
        format!("http://127.0.0.2:{port}/token"),
        format!("http://127.0.0.1@localhost:{port}/token"),
        format!("http://user@127.0.0.1:{port}/token"),
        format!("http://[::1]:{port}/token"),
        "http://169.254.169.254/token".to_owned(),
        "https://evil.example/token".to_owned(),
        String::new(),
    ] {
        let challenge = bearer(&realm);
        let server = Server::start(move |_| answer(401, &[("WWW-Authenticate", &challenge)], "")).await;
        let got = with_account(&server).head_manifest(&me(), &name("a/b"), &tag("latest")).await;
        assert!(matches!(got, Err(Error::Malformed(_))), "{realm}: {got:?}");
        assert_eq!(server.asked().len(), 1);
    }
    assert_eq!(evil.asked().len(), 0);

    let realm = Arc::new(OnceLock::<String>::new());
    let place = realm.clone();
    let server = Server::start(move |asked| match asked.header("authorization") {
        _ if asked.path() == "/token" => answer(200, &[], TOKEN),
        Some("Bearer good") => answer(200, &[OCI_INDEX], INDEX),
        _ => {
            let bad = bearer("https://evil.example/token");
            let good = bearer(place.get().unwrap());
            answer(401, &[("WWW-Authenticate", &bad), ("www-authenticate", &format!("Negotiate, {good}"))], "")
        }
    })
    .await;
    realm.set(server.at("/token")).unwrap();
    with_account(&server).head_manifest(&me(), &name("a/b"), &tag("latest")).await.unwrap();
}

#[tokio::test]
async fn basic_is_sent_after_it_was_asked_for_and_then_remembered() {
    let server = Server::start(|asked| match asked.header("authorization") {
        Some("Basic bWU6Y2FuYXJ5") => answer(200, &[OCI_INDEX], INDEX),
        _ => answer(401, &[("WWW-Authenticate", r#"Basic realm="ecr",service="ecr.test""#)], ""),
    })
    .await;
    let upstream = with_account(&server);
    for _ in 0..2 {
        upstream.head_manifest(&me(), &name("a/b"), &tag("latest")).await.unwrap();
    }
    assert_eq!(server.asked().len(), 3);
    assert_eq!(upstream.head_manifest(&anonymous(), &name("a/b"), &tag("latest")).await, Err(Error::Denied));
    assert_eq!(upstream.identities().len(), 2);
}

#[tokio::test]
async fn an_account_that_is_refused_is_parked() {
    let challenge = r#"Basic realm="x""#;
    let basic = Server::start(move |_| answer(401, &[("WWW-Authenticate", challenge)], "")).await;
    let realm = Arc::new(OnceLock::<String>::new());
    let place = realm.clone();
    let token = Server::start(move |asked| match asked.path() {
        "/token" => answer(401, &[], ""),
        _ => answer(401, &[("WWW-Authenticate", &bearer(place.get().unwrap()))], ""),
    })
    .await;
    realm.set(token.at("/token")).unwrap();
    for server in [basic, token] {
        let upstream = with_account(&server);
        for _ in 0..5 {
            // To be refused as a whole is no absence of what was asked for.
            let got = upstream.head_manifest(&me(), &name("a/b"), &tag("latest")).await;
            assert!(matches!(got, Err(Error::Unavailable { retry_after: Some(_), .. })), "{got:?}");
        }
        assert_eq!(upstream.identities(), [anonymous()]);
        assert_eq!(upstream.sources(|_| true), [anonymous(), me()]);
        // One without, one with the password, one that asks a registry whether it is the name or the password.
        assert!(server.asked().len() <= 3, "{:?}", server.asked());
    }
}

#[tokio::test]
async fn a_token_service_that_is_down_is_unavailable_and_the_failure_is_shared() {
    let realm = Arc::new(OnceLock::<String>::new());
    let place = realm.clone();
    let server = Server::start(move |asked| match asked.path() {
        "/token" => answer(500, &[], "oops"),
        _ => answer(401, &[("WWW-Authenticate", &bearer(place.get().unwrap()))], ""),
    })
    .await;
    realm.set(server.at("/token")).unwrap();
    let upstream = upstream(&server);
    let (identity, repository, reference) = (anonymous(), name("a/b"), tag("latest"));
    let heads = (0..4).map(|_| upstream.head_manifest(&identity, &repository, &reference));
    for head in futures_util::future::join_all(heads).await {
        assert!(matches!(head, Err(Error::Unavailable { .. })), "{head:?}");
    }
    assert!(server.count("/token") <= 4);
}

#[tokio::test]
async fn a_token_service_that_limits_us_stops_everything() {
    let realm = Arc::new(OnceLock::<String>::new());
    let place = realm.clone();
    let server = Server::start(move |asked| match asked.path() {
        "/token" => answer(429, &[("Retry-After", "7")], "Too Many Requests"),
        _ => answer(401, &[("WWW-Authenticate", &bearer(place.get().unwrap()))], ""),
    })
    .await;
    realm.set(server.at("/token")).unwrap();
    let upstream = upstream(&server);
    for repository in ["a/b", "c", "d"] {
        let got = upstream.head_manifest(&anonymous(), &name(repository), &tag("latest")).await;
        assert!(matches!(got, Err(Error::AbuseLimit { retry_after, .. }) if retry_after.as_secs() <= 7), "{got:?}");
    }
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn two_upstreams_never_share_a_secret() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let server = Server::start(move |asked| {
        log.lock().unwrap().extend(asked.header("authorization").map(ToOwned::to_owned));
        match asked.header("authorization") {
            Some(_) => answer(200, &[OCI_INDEX], INDEX),
            None => answer(401, &[("WWW-Authenticate", "Basic")], ""),
        }
    })
    .await;
    for (user, password) in [("a", "1"), ("b", "2")] {
        let account = Account::with_password(user, password);
        let settings = Settings { accounts: vec![account], ..settings(&server.url()) };
        let upstream = Upstream::new(settings, Ledger::unkept()).unwrap();
        let identity = Identity { upstream: "test".into(), account: Some(user.into()) };
        upstream.head_manifest(&identity, &name("a/b"), &tag("latest")).await.unwrap();
    }
    assert_eq!(*seen.lock().unwrap(), ["Basic YTox", "Basic Yjoy"]);
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_stop_the_token_of_the_others() {
    let tokens = Arc::new(AtomicUsize::new(0));
    let count = tokens.clone();
    let server = registry(move |sent| {
        count.fetch_add(1, Ordering::Relaxed);
        sent == "Bearer good"
    })
    .await;
    let upstream = upstream(&server);
    let (identity, repository, reference) = (anonymous(), name("a/b"), tag("latest"));
    let mut first = Box::pin(upstream.head_manifest(&identity, &repository, &reference));
    // Until the token is being asked for, and then no longer.
    while server.count("/token") == 0 {
        let _ = futures_util::poll!(&mut first);
        tokio::task::yield_now().await;
    }
    drop(first);
    upstream.head_manifest(&identity, &repository, &reference).await.unwrap();
    assert_eq!(server.count("/token"), 1);
}
