//! 429s, failures, and who is asked afterwards.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Instant,
};

use futures_util::{FutureExt as _, future::join_all};

use super::{
    super::{Error, concurrency::Lane},
    server::answer,
    *,
};

const PULL_LIMIT: &str =
    r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}"#;
const METER: [(&str, &str); 2] = [("ratelimit-limit", "100;w=21600"), ("ratelimit-remaining", "20;w=21600")];

#[tokio::test]
async fn the_pull_limit_stops_gets_of_manifests_and_nothing_else() {
    let server = Server::start(|asked| match (asked.method.as_str(), asked.path().contains("/manifests/")) {
        ("GET", true) => answer(429, &[("Content-Type", "application/json")], PULL_LIMIT),
        _ => answer(200, &[OCI_INDEX], INDEX),
    })
    .await;
    let upstream = upstream(&server);
    let got = get(&upstream, &tag("latest")).await;
    assert!(matches!(got, Err(Error::PullLimit { .. })), "{got:?}");
    assert_eq!(upstream.breaker(), None);
    let left = ledger(&upstream).balance(&anonymous(), std::time::SystemTime::now());
    assert_eq!((left.limit, left.remaining), (None, Some(0)));
    upstream.head_manifest(&anonymous(), &name("a/b"), &tag("latest")).await.unwrap();
    upstream.get_blob(&anonymous(), &name("a/b"), &digest("x"), 0, None).await.unwrap();
}

#[tokio::test]
async fn the_abuse_limit_with_bare_line_feeds_is_read_and_stops_everything() {
    let raw = "HTTP/1.1 429 Too Many Requests\nCache-Control: no-cache\nConnection: close\nContent-Type: text/plain\n\
               Retry-After: 60\n\nToo Many Requests (HAP429).\n";
    let server = Server::start(move |_| raw.into()).await;
    let upstream = upstream(&server);
    for _ in 0..3 {
        match get(&upstream, &tag("latest")).await {
            Err(Error::AbuseLimit { retry_after, message }) => {
                assert!((55..=60).contains(&retry_after.as_secs()), "{retry_after:?}");
                assert_eq!(&*message, "Too Many Requests (HAP429).");
            }
            got => panic!("{got:?}"),
        }
    }
    assert!(upstream.tags(&anonymous(), &name("a/b")).await.is_err());
    assert!(upstream.breaker().is_some());
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn fifty_cold_images_under_the_abuse_limit_cost_a_few_requests() {
    let server = Server::start(|_| answer(429, &[("Retry-After", "7")], "Too Many Requests")).await;
    let upstream = upstream(&server);
    let names: Vec<_> = (0..50).map(|n| name(&format!("cold/{n}"))).collect();
    let (identity, reference) = (anonymous(), tag("latest"));
    for got in join_all(names.iter().map(|name| upstream.head_manifest(&identity, name, &reference))).await {
        assert!(matches!(got, Err(Error::AbuseLimit { .. })), "{got:?}");
    }
    assert!(server.asked().len() <= 5, "{}", server.asked().len());
}

#[tokio::test]
async fn a_reply_that_may_open_the_breaker_keeps_its_place_until_it_is_judged() {
    for (status, others) in [(429, 0), (503, 0), (200, 4)] {
        let server = Server::start(move |_| answer(status, &[], "the reason")).await;
        let upstream = upstream(&server);
        let (transport, breaker) =
            (&upstream.inner.exchange.endpoint.transport, &upstream.inner.exchange.endpoint.breaker);
        let (url, permit) = (Url::parse(&server.url()).unwrap(), breaker.admit(Instant::now()).unwrap());
        let host = url.host_str().unwrap();
        // As many as may wait for headers from rest.
        let send =
            || transport.send(&permit, reqwest::Request::new(reqwest::Method::GET, url.clone()), Lane::Short, || {});
        let mut replies = join_all((0..4).map(|_| send())).await;
        let mut places = Vec::new();
        while let Some(place) = transport.limiter.take(host, Lane::Short, Duration::from_secs(60)).now_or_never() {
            places.push(place.unwrap());
        }
        assert_eq!(places.len(), others, "{status}");
        drop((replies.pop(), places));
        let after = transport.limiter.take(host, Lane::Short, Duration::from_secs(60)).now_or_never();
        assert!(after.is_some_and(|place| place.is_ok()), "{status}");
    }
}

#[tokio::test]
async fn a_server_error_is_repeated_twice_and_paid_when_it_may_have_been_served() {
    let served = Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    let server = Server::start(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => answer(503, &[], ""),
        // Closed before a byte was answered.
        1 => Vec::new(),
        _ => answer(200, &[OCI_INDEX], INDEX),
    })
    .await;
    let upstream = upstream(&server);
    get(&upstream, &tag("latest")).await.unwrap();
    assert_eq!(server.asked().len(), 3);
    // The 503 was not served; of the silence it is unknown.
    assert_eq!(ledger(&upstream).spends(10).len(), 2);
}

/// A redirect that leads back to the counted host is another counted request there (invariant 10).
#[tokio::test]
async fn a_get_that_is_redirected_back_home_is_paid_twice_and_sent_once_when_one_pull_is_left() {
    for (before, between, served) in [("20", "19", true), ("1", "0", false)] {
        let server = Server::start(move |asked| {
            let left = |remaining| [METER[0], ("ratelimit-remaining", remaining)];
            match (asked.method.as_str(), asked.path()) {
                ("HEAD", _) => answer(200, &left(before), ""),
                (_, "/v2/a/b/manifests/latest") => {
                    let [limit, remaining] = left(between);
                    answer(307, &[("Location", "/v2/a/b/manifests/moved"), limit, remaining], "")
                }
                _ => answer(200, &[OCI_INDEX, METER[0], ("ratelimit-remaining", "18")], INDEX),
            }
        })
        .await;
        let upstream = upstream(&server);
        let ledger = ledger(&upstream).clone();
        upstream.head_manifest(&anonymous(), &name("a/b"), &tag("latest")).await.unwrap();
        let got = get(&upstream, &tag("latest")).await;
        let paid: Vec<_> = ledger.spends(10).iter().filter_map(|spend| spend.remaining).collect();
        let left = ledger.balance(&anonymous(), std::time::SystemTime::now());
        assert_eq!(left.external, 0, "no one else is blamed for it");
        match served {
            true => {
                got.unwrap();
                assert_eq!((paid, left.remaining), (vec![18, 19], Some(18)));
            }
            false => {
                assert!(matches!(got, Err(Error::PullLimit { .. })), "{got:?}");
                assert_eq!((paid, server.count("moved")), (vec![0], 0));
            }
        }
    }
}

#[tokio::test]
async fn an_abuse_limit_where_a_redirect_leads_back_home_stops_everything_too() {
    let server = Server::start(|asked| match asked.path() {
        "/v2/a/b/manifests/latest" => answer(307, &[("Location", "/v2/a/b/manifests/moved")], ""),
        _ => answer(429, &[("Retry-After", "60")], "Too Many Requests"),
    })
    .await;
    let upstream = upstream(&server);
    for _ in 0..3 {
        let got = get(&upstream, &tag("latest")).await;
        assert!(matches!(got, Err(Error::AbuseLimit { .. })), "{got:?}");
    }
    assert!(upstream.breaker().is_some());
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn a_second_get_that_was_not_served_is_refunded_and_the_first_is_not() {
    let server = Server::start(|asked| match asked.path() {
        "/v2/a/b/manifests/latest" => answer(307, &[("Location", "/v2/a/b/manifests/moved")], ""),
        _ => answer(404, &[], ""),
    })
    .await;
    let upstream = upstream(&server);
    let mut reservation = reserved(&upstream, &tag("latest")).await;
    let got = upstream.get_manifest(&mut reservation, &name("a/b"), &tag("latest")).await;
    assert_eq!(got, Err(Error::NotFound));
    assert!(!reservation.is_refunded());
    drop(reservation);
    assert_eq!(ledger(&upstream).spends(10).len(), 1);
}

#[tokio::test]
async fn an_upstream_that_stays_down_is_left_alone_and_probed_once() {
    let up = Arc::new(AtomicBool::new(false));
    let flag = up.clone();
    let server = Server::start(move |_| match flag.load(Ordering::Relaxed) {
        true => answer(200, &[OCI_INDEX], INDEX),
        false => answer(500, &[], ""),
    })
    .await;
    let upstream = upstream(&server);
    let (identity, repository, reference) = (anonymous(), name("a/b"), tag("latest"));
    // Of several repositories: what one answers says nothing about others.
    for number in 0..20 {
        let repository = name(&format!("a/{}", number % 2));
        let got = upstream.head_manifest(&identity, &repository, &reference).await;
        assert!(matches!(got, Err(Error::Unavailable { .. })), "{got:?}");
    }
    assert_eq!(server.asked().len(), 5);
    let (until, _) = upstream.breaker().unwrap();
    up.store(true, Ordering::Relaxed);
    let wait = until.and_then(|until| until.duration_since(std::time::SystemTime::now()).ok());
    tokio::time::sleep(wait.unwrap_or_default()).await;
    let heads = (0..10).map(|_| upstream.head_manifest(&identity, &repository, &reference));
    let good = join_all(heads).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(good, server.asked().len() - 5);
    assert!(good >= 1);
    assert_eq!(upstream.breaker(), None);
    upstream.head_manifest(&identity, &repository, &reference).await.unwrap();
}

#[tokio::test]
async fn a_get_that_never_left_is_refunded() {
    let server = Server::start(|_| Vec::new()).await;
    let url = server.url();
    drop(server);
    tokio::task::yield_now().await;
    let upstream = Upstream::new(settings(&url), Ledger::unkept()).unwrap();
    let got = get(&upstream, &tag("latest")).await;
    assert!(matches!(got, Err(Error::Unavailable { .. })), "{got:?}");
    assert_eq!(ledger(&upstream).spends(10).len(), 0);
    assert_eq!(ledger(&upstream).balance(&anonymous(), std::time::SystemTime::now()).spent, 0);
}

#[tokio::test]
async fn what_is_left_is_read_from_heads_and_gets() {
    let server = Server::start(|_| answer(200, &[OCI_INDEX, METER[0], METER[1]], INDEX)).await;
    let upstream = upstream(&server);
    let ledger = ledger(&upstream).clone();
    let left = || ledger.balance(&anonymous(), std::time::SystemTime::now());
    assert_eq!((left().limit, left().remaining), (None, None));
    upstream.head_manifest(&anonymous(), &name("a/b"), &tag("latest")).await.unwrap();
    assert_eq!((left().limit, left().remaining, left().spent), (Some(100), Some(20), 0));
    get(&upstream, &tag("latest")).await.unwrap();
    assert_eq!((left().remaining, left().spent), (Some(20), 1));
    assert_eq!(ledger.spends(1)[0].remaining, Some(20));
}

#[tokio::test]
async fn silence_is_unavailable_after_the_first_byte_time_out() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let short = Duration::from_millis(50);
    let settings = Settings { first_byte_timeout: short, connect_timeout: short, ..settings(&url) };
    let upstream = Upstream::new(settings, Ledger::unkept()).unwrap();
    let got = get(&upstream, &tag("latest")).await;
    assert!(matches!(&got, Err(Error::Unavailable { reason, .. }) if reason.contains("in time")), "{got:?}");
}

#[tokio::test]
async fn the_next_url_serves_when_the_one_before_is_down_or_answers_5xx() {
    let good = Server::start(|_| answer(200, &[OCI_INDEX], INDEX)).await;
    let absent = Server::start(|_| answer(404, &[], "")).await;
    let broken = Server::start(|_| answer(500, &[], "")).await;
    for (first, served) in [("http://127.0.0.1:1".to_owned(), true), (broken.url(), true), (absent.url(), false)] {
        let settings = Settings { urls: vec![Url::parse(&good.url()).unwrap()], ..settings(&first) };
        let upstream = Upstream::new(settings, Ledger::unkept()).unwrap();
        let before = good.asked().len();
        // More often than it takes to leave the first alone.
        for _ in 0..8 {
            assert_eq!(get(&upstream, &tag("latest")).await.is_ok(), served, "{first}");
        }
        assert_eq!(good.asked().len() - before, if served { 8 } else { 0 });
    }
}

#[tokio::test]
async fn a_credential_that_was_refused_is_not_shown_to_the_next_url() {
    let challenge = [("WWW-Authenticate", "Basic")];
    let first = Server::start(move |_| answer(401, &challenge, "")).await;
    let next = Server::start(move |_| answer(401, &challenge, "")).await;
    let (mut unread, good) = (Account::with_password("me", ""), Account::with_password("me", "canary"));
    (unread.password, unread.password_file) = (None, Some("/nowhere".into()));
    for account in [good, unread] {
        let settings = Settings {
            accounts: vec![account],
            urls: vec![Url::parse(&next.url()).unwrap()],
            ..settings(&first.url())
        };
        let upstream = Upstream::new(settings, Ledger::unkept()).unwrap();
        for _ in 0..2 {
            let got = upstream.head_manifest(&me(), &name("a/b"), &tag("latest")).await;
            assert!(matches!(got, Err(Error::Unavailable { .. })), "{got:?}");
        }
    }
    assert_eq!(next.asked().len(), 0, "{:?}", next.asked());
}
