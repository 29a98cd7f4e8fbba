//! What is accepted as a manifest, and what is not.

use super::{
    super::{Error, Head},
    server::{answer, head},
    *,
};

#[tokio::test]
async fn a_manifest_is_verified_and_named_by_the_digest_that_was_asked_for() {
    let server = Server::start(|_| answer(200, &[OCI_INDEX], INDEX)).await;
    let upstream = upstream(&server);
    let manifest = get(&upstream, &tag("latest")).await.unwrap();
    assert_eq!((manifest.digest, manifest.bytes.as_ref()), (digest(INDEX), INDEX.as_bytes()));
    let long = Algorithm::Sha512.digest(INDEX.as_bytes());
    assert_eq!(get(&upstream, &Reference::Digest(long.clone())).await.unwrap().digest, long);
    let asked = &server.asked()[0];
    assert_eq!(asked.header("accept"), Some(crate::oci::MANIFEST_ACCEPT));
    assert_eq!(asked.header("accept-encoding"), Some("identity"));
    assert!(asked.header("user-agent").unwrap().starts_with("weir/"));
    assert_eq!(asked.header("authorization"), None);
}

#[tokio::test]
async fn what_is_no_manifest_is_malformed() {
    let schema1 = r#"{"schemaVersion":1,"fsLayers":[]}"#;
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let good = digest(INDEX).to_string();
    let bad = digest("other").to_string();
    let too_long = format!(r#"{{"manifests":[],"annotations":{{"a":"{}"}}}}"#, "x".repeat(4 << 20));
    for (headers, body, fine) in [
        (vec![OCI_INDEX], INDEX, true),
        (vec![OCI_INDEX, ("Docker-Content-Digest", good.as_str())], INDEX, true),
        (vec![OCI_INDEX, ("Content-Encoding", "identity")], INDEX, true),
        (vec![("Content-Type", "text/plain; charset=utf-8")], INDEX, true),
        (vec![("Content-Type", "application/json")], r#"{"manifests":[]}"#, true),
        (
            vec![],
            r#"{"config":{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},"layers":[]}"#,
            true,
        ),
        (vec![], schema1, true),
        (vec![OCI_INDEX, ("Docker-Content-Digest", bad.as_str())], INDEX, false),
        (vec![OCI_INDEX, ("Docker-Content-Digest", "sha256:xyz")], INDEX, false),
        (vec![OCI_INDEX, ("Content-Encoding", "gzip")], INDEX, false),
        (vec![("Content-Type", docker)], INDEX, false),
        (vec![("Content-Type", "text/html")], "<html>log in</html>", false),
        (vec![OCI_INDEX], "<html>log in</html>", false),
        (vec![OCI_INDEX], r#"{"manifests":[],"layers":[]}"#, false),
        (vec![], "{}", false),
        (vec![], "[]", false),
        (vec![OCI_INDEX], &too_long, false),
    ] {
        let reply = answer(200, &headers, body);
        let server = Server::start(move |_| reply.clone()).await;
        let got = get(&upstream(&server), &tag("latest")).await;
        match fine {
            true => assert!(got.is_ok(), "{headers:?} {got:?}"),
            false => assert!(matches!(got, Err(Error::Malformed(_))), "{headers:?} {got:?}"),
        }
    }
}

#[tokio::test]
async fn other_bytes_than_the_digest_names_are_never_returned() {
    let server = Server::start(|_| answer(200, &[OCI_INDEX], INDEX)).await;
    let got = get(&upstream(&server), &Reference::Digest(digest("other"))).await;
    assert!(matches!(got, Err(Error::Malformed(_))), "{got:?}");
}

#[tokio::test]
async fn a_manifest_that_is_cut_short_is_unavailable() {
    let server = Server::start(|_| [head(200, &[OCI_INDEX], 500), INDEX.into()].concat()).await;
    let got = get(&upstream(&server), &tag("latest")).await;
    assert!(matches!(got, Err(Error::Unavailable { .. })), "{got:?}");
}

#[tokio::test]
async fn a_head_tells_what_it_knows() {
    let named = digest(INDEX).to_string();
    let told = move |headers: &[(&str, &str)]| head(200, headers, 77);
    for (headers, expected) in [
        (
            vec![OCI_INDEX, ("Docker-Content-Digest", named.as_str())],
            Some(Head { digest: Some(digest(INDEX)), media_type: OCI_INDEX.1.parse().ok(), size: Some(77) }),
        ),
        (vec![], Some(Head { digest: None, media_type: None, size: Some(77) })),
        (vec![("Content-Type", "text/html; charset=utf-8")], None),
        (vec![OCI_INDEX, ("Docker-Content-Digest", "latest")], None),
    ] {
        let reply = told(&headers);
        let server = Server::start(move |_| reply.clone()).await;
        let got = upstream(&server).head_manifest(&anonymous(), &name("a/b"), &tag("latest")).await;
        match expected {
            Some(expected) => assert_eq!(got.unwrap(), expected),
            None => assert!(matches!(got, Err(Error::Malformed(_))), "{got:?}"),
        }
        assert_eq!(server.asked()[0].method, "HEAD");
    }
}

#[tokio::test]
async fn a_refused_head_is_learned_for_the_repository() {
    let server = Server::start(|_| answer(405, &[], "")).await;
    let upstream = upstream(&server);
    for repository in ["a/b", "a/b", "a/b", "c"] {
        let got = upstream.head_manifest(&anonymous(), &name(repository), &tag("latest")).await;
        assert_eq!(got, Err(Error::HeadRefused));
    }
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn statuses_mean_what_they_say() {
    for (status, expected) in [(404, Error::NotFound), (403, Error::Denied), (401, Error::Denied)] {
        let server = Server::start(move |_| answer(status, &[], "")).await;
        let upstream = upstream(&server);
        for _ in 0..10 {
            assert_eq!(get(&upstream, &tag("latest")).await, Err(expected.clone()));
        }
        assert_eq!(upstream.breaker(), None);
        assert_eq!(server.asked().len(), 10);
    }
}
