//! Redirects, blobs, and listings.

use std::sync::OnceLock;

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    super::{Body, Error},
    server::{answer, head},
    *,
};

async fn read(mut body: Body) -> Result<String, Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(String::from_utf8(bytes).unwrap())
}

async fn blob(upstream: &Upstream, identity: &Identity, from: u64, to: Option<u64>) -> Result<Body, Error> {
    upstream.get_blob(identity, &name("a/b"), &digest("0123456789"), from, to).await
}

#[tokio::test]
async fn a_redirect_is_followed_without_the_credential_and_with_the_range() {
    let cdn = Server::start(|_| answer(206, &[("Content-Range", "bytes 4-9/10")], "456789")).await;
    let place = cdn.at("/signed?X-Amz-Signature=canary");
    let server = Server::start(move |asked| match asked.header("authorization") {
        Some(_) => answer(307, &[("Location", &place)], ""),
        None => answer(401, &[("WWW-Authenticate", "Basic")], ""),
    })
    .await;
    let body = blob(&with_account(&server), &me(), 4, None).await.unwrap();
    assert_eq!((body.size, body.start), (Some(10), 4));
    assert_eq!(read(body).await.unwrap(), "456789");
    let asked = &cdn.asked()[0];
    assert_eq!((asked.header("authorization"), asked.header("range")), (None, Some("bytes=4-")));
}

#[tokio::test]
async fn a_challenge_of_where_a_redirect_leads_is_not_answered() {
    let evil = Server::start(|_| answer(401, &[("WWW-Authenticate", "Basic")], "")).await;
    let place = evil.at("/v2/x");
    let server = Server::start(move |asked| match asked.header("authorization") {
        Some(_) => answer(307, &[("Location", &place)], ""),
        None => answer(401, &[("WWW-Authenticate", "Basic")], ""),
    })
    .await;
    let got = blob(&with_account(&server), &me(), 0, None).await;
    assert!(matches!(got, Err(Error::Malformed(_))), "{got:?}");
    assert_eq!(evil.asked().len(), 1);
    assert_eq!(evil.asked()[0].header("authorization"), None);
}

#[tokio::test]
async fn a_registry_that_was_redirected_to_gets_an_anonymous_token_of_its_own() {
    let realm = Arc::new(OnceLock::<String>::new());
    let place = realm.clone();
    let other = Server::start(move |asked| match asked.header("authorization") {
        _ if asked.path() == "/token" => answer(200, &[], r#"{"access_token":"theirs"}"#),
        Some("Bearer theirs") => answer(200, &[OCI_INDEX], INDEX),
        _ => answer(401, &[("WWW-Authenticate", &bearer(place.get().unwrap()))], ""),
    })
    .await;
    realm.set(other.at("/token")).unwrap();
    let target = other.at("/v2/elsewhere/manifests/latest");
    let server = Server::start(move |_| answer(307, &[("Location", &target)], "")).await;
    let upstream = with_account(&server);
    upstream.head_manifest(&me(), &name("a/b"), &tag("latest")).await.unwrap();
    for asked in other.asked() {
        assert!(!asked.header("authorization").is_some_and(|sent| sent.starts_with("Basic")), "{asked:?}");
    }
    assert_eq!(other.count("/token"), 1);
}

/// Of the kinds of A4 and A14.
#[tokio::test]
async fn a_revoked_token_of_a_registry_that_was_redirected_to_is_fetched_anew() {
    let (issued, realm) = (Arc::new(AtomicUsize::new(0)), Arc::new(OnceLock::<String>::new()));
    let (current, place) = (issued.clone(), realm.clone());
    let other = Server::start(move |asked| match (asked.path(), asked.header("authorization")) {
        ("/token", _) => answer(200, &[], format!(r#"{{"token":"t{}"}}"#, current.load(Ordering::Relaxed))),
        (_, Some(token)) if token == format!("Bearer t{}", current.load(Ordering::Relaxed)) => {
            answer(200, &[OCI_INDEX], INDEX)
        }
        _ => answer(401, &[("WWW-Authenticate", &bearer(place.get().unwrap()))], ""),
    })
    .await;
    realm.set(other.at("/token")).unwrap();
    let target = other.at("/v2/real/b/manifests/latest");
    let server = Server::start(move |_| answer(307, &[("Location", &target)], "")).await;
    let upstream = upstream(&server);
    for revoked in 0..3 {
        issued.store(revoked, Ordering::Relaxed);
        get(&upstream, &tag("latest")).await.unwrap_or_else(|error| panic!("{revoked}: {error}"));
    }
    assert_eq!(other.count("/token"), 3);
}

#[tokio::test]
async fn redirects_to_where_we_do_not_go_are_malformed_and_end() {
    let loopback = Server::start(|_| answer(200, &[], "secret")).await;
    let port = loopback.url().rsplit_once(':').unwrap().1.to_owned();
    for location in [
        "http://169.254.169.254/latest/meta-data".to_owned(),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://0.0.0.0:{port}/"),
        "http://10.0.0.1/".to_owned(),
        "http://1.1.1.1/".to_owned(),
        "ftp://127.0.0.1/".to_owned(),
        format!("http://user:pass@127.0.0.1:{port}/"),
        "/again".to_owned(),
    ] {
        let target = location.clone();
        let server = Server::start(move |_| answer(302, &[("Location", &target)], "")).await;
        let got = blob(&upstream(&server), &anonymous(), 0, None).await;
        assert!(matches!(got, Err(Error::Malformed(_))), "{location}: {got:?}");
        assert!(server.asked().len() <= 11);
    }
    let server = Server::start(|_| answer(302, &[], "")).await;
    assert!(matches!(blob(&upstream(&server), &anonymous(), 0, None).await, Err(Error::Malformed(_))));
    assert_eq!(loopback.asked().len(), 0);
}

#[tokio::test]
async fn a_public_upstream_may_not_lead_here() {
    // A name that resolves to loopback, asked by an upstream that is somewhere else.
    let secret = Server::start(|_| answer(200, &[], "secret")).await;
    let upstream = Upstream::new(settings("http://192.0.2.1"), Ledger::unkept()).unwrap();
    let url = Url::parse(&secret.url().replace("127.0.0.1", "localhost")).unwrap();
    let permit = upstream.inner.exchange.endpoint.breaker.admit(std::time::Instant::now()).unwrap();
    let sent = upstream
        .inner
        .exchange
        .endpoint
        .transport
        .send(&permit, reqwest::Request::new(reqwest::Method::GET, url), super::super::concurrency::Lane::Short, || {})
        .await;
    assert!(matches!(sent, Err(super::super::transport::TransportError::Rejected(Error::Malformed(_)))));
    assert_eq!(secret.asked().len(), 0);
}

#[tokio::test]
async fn a_blob_comes_from_where_it_was_asked_or_from_the_start() {
    let whole = "0123456789";
    for (reply, from, to, expected) in [
        (answer(200, &[], whole), 0, None, Some((Some(10), 0, whole))),
        (answer(200, &[], whole), 4, None, Some((Some(10), 0, whole))),
        (answer(206, &[("Content-Range", "bytes 4-9/10")], "456789"), 4, None, Some((Some(10), 4, "456789"))),
        (answer(206, &[("Content-Range", "bytes 4-5/*")], "45"), 4, Some(6), Some((None, 4, "45"))),
        (answer(206, &[("Content-Range", "bytes 3-9/10")], "3456789"), 4, None, None),
        (answer(206, &[], "456789"), 4, None, None),
        (answer(416, &[("Content-Range", "bytes */10")], ""), 10, None, Some((Some(10), 10, ""))),
        (answer(416, &[("Content-Range", "bytes */9")], ""), 10, None, None),
        (answer(416, &[], ""), 10, None, None),
        // A coding may encode nothing, so that the length says nothing of the blob; a part of an encoded body is no part of it.
        (answer(200, &[("Content-Encoding", "gzip")], whole), 0, None, Some((None, 0, whole))),
        (answer(206, &[("Content-Range", "bytes 4-5/10"), ("Content-Encoding", "gzip")], "45"), 4, Some(6), None),
        // Less than the range that it names.
        (answer(206, &[("Content-Range", "bytes 4-9/10")], "456"), 4, None, None),
        (answer(204, &[], ""), 0, None, None),
    ] {
        let server = Server::start(move |_| reply.clone()).await;
        let got = blob(&upstream(&server), &anonymous(), from, to).await;
        match expected {
            Some((size, start, text)) => {
                let body = got.unwrap();
                assert_eq!((body.size, body.start), (size, start));
                assert_eq!(read(body).await.unwrap(), text);
            }
            None => assert!(matches!(got, Err(Error::Malformed(_) | Error::Status(204))), "{got:?}"),
        }
    }
}

#[tokio::test]
async fn a_body_that_is_cut_or_stalls_says_so() {
    let server = Server::start(|_| [head(200, &[], 10), b"01234".to_vec()].concat()).await;
    let body = blob(&upstream(&server), &anonymous(), 0, None).await.unwrap();
    assert!(matches!(read(body).await, Err(Error::Unavailable { .. })));

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // What comes before the request was sent would be no answer to it.
        let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1024]).await;
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &head(200, &[], 10)).await;
        std::future::pending::<()>().await;
    });
    let settings = Settings { idle_timeout: Duration::from_millis(50), ..settings(&url) };
    let upstream = Upstream::new(settings, Ledger::unkept()).unwrap();
    let body = blob(&upstream, &anonymous(), 0, None).await.unwrap();
    assert!(matches!(read(body).await, Err(Error::Unavailable { .. })));
}

#[tokio::test]
async fn a_blob_that_redirects_its_head_exists_even_if_the_target_refuses_heads() {
    let cdn = Server::start(|_| answer(403, &[], "")).await;
    let place = cdn.at("/signed");
    let server = Server::start(move |_| answer(307, &[("Location", &place)], "")).await;
    let got = upstream(&server).head_blob(&anonymous(), &name("a/b"), &digest("x"), false).await;
    assert_eq!(got, Ok(None));
    let server = Server::start(|_| head(200, &[], 42)).await;
    let got = upstream(&server).head_blob(&anonymous(), &name("a/b"), &digest("x"), false).await;
    assert_eq!(got, Ok(Some(42)));
}

#[tokio::test]
async fn tags_are_collected_over_pages_cleaned_and_sorted() {
    let server = Server::start(|asked| match asked.target.as_str() {
        "/v2/a/b/tags/list?n=1000" => {
            answer(200, &[("Link", r#"</v2/a/b/tags/list?last=b>; rel="next""#)], r#"{"tags":["b","B","../x","b"]}"#)
        }
        "/v2/a/b/tags/list?last=b" => answer(200, &[], r#"{"name":"a/b","tags":["a","latest"]}"#),
        _ => answer(200, &[], r#"{"name":"a/b","tags":null}"#),
    })
    .await;
    let upstream = upstream(&server);
    assert_eq!(upstream.tags(&anonymous(), &name("a/b")).await.unwrap(), ["B", "a", "b", "latest"]);
    assert_eq!(upstream.tags(&anonymous(), &name("c")).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn pages_end_when_they_circle_lead_away_or_never_end() {
    let evil = Server::start(|_| answer(200, &[], r#"{"tags":["evil"]}"#)).await;
    let away = format!(r#"<{}>; rel="next""#, evil.at("/v2/a/b/tags/list"));
    let server = Server::start(move |asked| match asked.path() {
        "/v2/circle/tags/list" => answer(200, &[("Link", r#"<?n=1000>; rel="next""#)], r#"{"tags":["a"]}"#),
        "/v2/away/tags/list" => answer(200, &[("Link", &away)], r#"{"tags":["a"]}"#),
        _ => {
            let page: u32 = asked.target.rsplit('=').next().unwrap().parse().unwrap();
            let next = format!(r#"<?last={}>; rel="next""#, page + 1);
            answer(200, &[("Link", &next)], format!(r#"{{"tags":["t{page}"]}}"#))
        }
    })
    .await;
    let upstream = upstream(&server);
    for repository in ["circle", "away"] {
        let got = upstream.tags(&anonymous(), &name(repository)).await;
        assert!(matches!(got, Err(Error::Malformed(_))), "{repository}: {got:?}");
    }
    assert_eq!(upstream.tags(&anonymous(), &name("endless")).await.unwrap().len(), 100);
    assert_eq!((server.count("/circle/"), server.count("/endless/"), evil.asked().len()), (1, 100, 0));
}

#[tokio::test]
async fn referrers_are_an_index_or_are_not_offered() {
    let good = r#"{"manifests":[{"digest":"sha256:x"},7]}"#;
    for (reply, expected) in [
        (answer(200, &[OCI_INDEX], good), Ok(Some(1))),
        (answer(404, &[], ""), Ok(None)),
        (answer(405, &[], ""), Ok(None)),
        (answer(501, &[], ""), Ok(None)),
        (answer(400, &[], ""), Ok(None)),
        (answer(406, &[], ""), Ok(None)),
        (answer(410, &[], ""), Ok(None)),
        (answer(415, &[], ""), Ok(None)),
        (answer(422, &[], ""), Ok(None)),
        (answer(200, &[OCI_INDEX], r#"{"manifests":[],"manifests":[{"digest":"sha256:x"}]}"#), Ok(Some(1))),
        (answer(200, &[OCI_INDEX], r#"{"manifests":null}"#), Ok(Some(0))),
        // A coding that encodes nothing.
        (answer(200, &[OCI_INDEX, ("Content-Encoding", "br")], good), Ok(Some(1))),
        (answer(200, &[("Content-Type", "text/html")], "<html>log in</html>"), Ok(None)),
        (answer(200, &[], "{}"), Ok(None)),
        (answer(500, &[], ""), Err(())),
        (answer(418, &[], ""), Err(())),
        (answer(200, &[("Content-Type", "application/json")], good), Ok(None)),
        (answer(200, &[OCI_INDEX], "<html>"), Err(())),
        (answer(200, &[OCI_INDEX], "[]"), Err(())),
        (answer(200, &[OCI_INDEX], r#"{"manifests":{}}"#), Err(())),
    ] {
        let server = Server::start(move |_| reply.clone()).await;
        let got = upstream(&server).referrers(&anonymous(), &name("a/b"), &digest("x")).await;
        let got = got.map(|found| found.map(|descriptors| descriptors.len()));
        match expected {
            Ok(expected) => assert_eq!(got, Ok(expected)),
            Err(()) => assert!(got.is_err(), "{got:?}"),
        }
    }
}

/// Source: renovatebot/renovate#15080 (Artifactory), sonatype/nexus-public#1011, distribution/distribution#355.
#[tokio::test]
async fn the_next_page_is_the_same_listing_whatever_path_or_host_the_link_names() {
    for next in [
        "</v2/px/img/tags/list?last=a&n=1>; rel=\"next\"",
        "<http://h/repository/docker-proxy/v2/l/nexus/tags/list?n=1&last=a>; rel=\"next\"",
        "<https://127.0.0.1:1/v2/a/b/tags/list?last=a>; rel=next",
        "<http://registry.internal:8080/v2/a/b/tags/list?last=a>; rel='next'",
        "/v2/a/b/tags/list?last=a; rel=\"next\"",
    ] {
        let server = Server::start(move |asked| match asked.target.contains("last=a") {
            false => answer(200, &[("Link", next)], r#"{"tags":["a"]}"#),
            true => answer(200, &[], r#"{"tags":["b"]}"#),
        })
        .await;
        let settings = settings(&server.at("/artifactory/api/docker/remote"));
        let upstream = Upstream::new(settings, Ledger::unkept()).unwrap();
        assert_eq!(upstream.tags(&anonymous(), &name("a/b")).await.unwrap(), ["a", "b"], "{next}");
        let paths: Vec<_> = server.asked().iter().map(|asked| asked.path().to_owned()).collect();
        assert_eq!(paths, ["/artifactory/api/docker/remote/v2/a/b/tags/list"; 2]);
    }
}

/// Source: google/go-containerregistry#1091 (ECR refuses a page that is too long).
#[tokio::test]
async fn a_page_that_is_refused_for_its_length_is_asked_for_shorter() {
    for (most, status) in [(500, 400), (100, 422), (99, 416), (999, 405), (100, 414), (50, 413)] {
        let server = Server::start(move |asked| {
            let n = asked.target.split("n=").nth(1).and_then(|n| n.parse::<u32>().ok());
            match n.is_some_and(|n| n > most) {
                true => answer(status, &[], r#"{"errors":[{"code":"PAGINATION_NUMBER_INVALID"}]}"#),
                false => answer(200, &[], r#"{"tags":["a"]}"#),
            }
        })
        .await;
        assert_eq!(upstream(&server).tags(&anonymous(), &name("a/b")).await.unwrap(), ["a"], "{most}");
    }
}

/// Source: dragonflyoss/dragonfly#4573, goharbor/harbor#23373 (Harbor's proxy cache sends every blob chunked).
#[tokio::test]
async fn a_blob_whose_size_is_not_said_is_had_with_its_size() {
    // What can be read at once is, and a manifest's word is taken; only then is there another request.
    let (few, many) = ("0123456789".to_owned(), "x".repeat(5 << 20));
    for (content, named, head_says, requests) in [
        (&few, None, Some(10), 1),
        (&few, None, None, 1),
        (&many, Some(5 << 20), None, 1),
        (&many, None, Some(5 << 20), 2),
        (&many, None, Some(0), 3),
        (&many, None, None, 3),
    ] {
        for chunked in [true, false] {
            let answer = match chunked {
                true => format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{content}\r\n0\r\n\r\n", content.len()),
                false => format!("\r\n{content}"),
            };
            let server = Server::start(move |asked| match (asked.method.as_str(), head_says) {
                ("HEAD", Some(size)) => head(200, &[], size),
                ("HEAD", None) => b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec(),
                _ => format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{answer}").into_bytes(),
            })
            .await;
            let body = upstream(&server).get_whole_blob(&anonymous(), &name("a/b"), &digest("x"), named).await.unwrap();
            assert_eq!(body.size, Some(content.len() as u64));
            assert!(read(body).await.unwrap() == **content);
            assert_eq!(server.asked().len(), requests, "{named:?} {head_says:?} {chunked}");
        }
    }
}

/// Source: goharbor/harbor#22609 (the HEAD of a blob that a proxy cache has not cached is 404).
#[tokio::test]
async fn a_get_decides_membership_where_a_head_is_refused() {
    for status in [404, 405, 400, 406, 401, 403, 410] {
        let server = Server::start(move |asked| match asked.method.as_str() {
            "HEAD" => head(status, &[], 0),
            _ if asked.path().contains("absent") => answer(404, &[], ""),
            _ => answer(200, &[], "0123456789"),
        })
        .await;
        let upstream = upstream(&server);
        // A refusal is one, unless a manifest of the repository names the blob.
        let named = matches!(status, 401 | 403);
        assert_eq!(upstream.head_blob(&anonymous(), &name("a/b"), &digest("x"), named).await, Ok(Some(10)), "{status}");
        let absent = upstream.head_blob(&anonymous(), &name("absent"), &digest("x"), named).await;
        assert_eq!(absent, Err(Error::NotFound), "{status}");
    }
}

#[tokio::test]
async fn a_content_network_that_refuses_once_is_no_absence_and_the_origin_is_asked_again() {
    for status in [400, 401, 403, 404, 410] {
        for good_at in [1, 9] {
            let times = Arc::new(AtomicUsize::new(0));
            let cdn = Server::start(move |_| match times.fetch_add(1, Ordering::Relaxed) < good_at {
                true => answer(status, &[], "expired"),
                false => answer(200, &[], "0123456789"),
            })
            .await;
            let place = cdn.at("/signed?naïve=1");
            let server = Server::start(move |_| answer(307, &[("Location", &place)], "")).await;
            let got = blob(&upstream(&server), &anonymous(), 0, None).await;
            match good_at {
                1 => assert_eq!(read(got.unwrap()).await.unwrap(), "0123456789"),
                _ => assert!(matches!(got, Err(Error::Unavailable { .. })), "{got:?}"),
            }
            assert_eq!(server.asked().len(), 2, "once more, and no oftener");
        }
    }
}
