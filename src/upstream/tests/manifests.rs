//! What is accepted as a manifest, and what is not.

use super::{
    super::{Error, Head},
    server::{answer, head},
    *,
};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::SystemTime,
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
    let (quoted, quoted_bad) = (format!("\"{good}\""), format!("\"{bad}\""));
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
        // What cannot be read in a header that is not needed is nothing.
        (vec![OCI_INDEX, ("Docker-Content-Digest", "sha256:xyz")], INDEX, true),
        (vec![OCI_INDEX, ("Docker-Content-Digest", "")], INDEX, true),
        (vec![OCI_INDEX, ("Docker-Content-Digest", quoted.as_str())], INDEX, true),
        (vec![OCI_INDEX, ("Docker-Content-Digest", quoted_bad.as_str())], INDEX, false),
        // A coding that encodes nothing.
        (vec![OCI_INDEX, ("Content-Encoding", "gzip")], INDEX, true),
        (vec![OCI_INDEX, ("Content-Encoding", "aws-chunked")], INDEX, true),
        // The body says what it is.
        (vec![("Content-Type", docker)], INDEX, true),
        (vec![("Content-Type", "text/html")], INDEX, true),
        (vec![OCI_INDEX], r#"{"mediaType":"","manifests":[]}"#, true),
        (vec![OCI_INDEX], r#"{"mediaType":null,"manifests":[],"layers":null,"config":null}"#, true),
        (vec![OCI_INDEX], r#"{"mediaType":"application/x","mediaType":"","manifests":[]}"#, true),
        (vec![OCI_INDEX], r#"{"manifests":[{"digest":"sha256:x","size":-1.5},null]}"#, true),
        (vec![("Content-Type", "application/vnd.cncf.oras.artifact.manifest.v1+json")], r#"{"blobs":[]}"#, true),
        (vec![("Content-Type", "application/vnd.acme.thing.manifest.v1+json; charset=utf-8")], "{}", true),
        (vec![], r#"{"mediaType":"application/vnd.acme.thing.manifest.v1+json"}"#, true),
        (vec![OCI_INDEX], r#"{"mediaType":"text/html","manifests":[]}"#, true),
        (vec![], r#"{"mediaType":" ","manifests":[]}"#, true),
        (vec![], r#"{"mediaType":"application/json","layers":[],"layers":null,"manifests":[]}"#, true),
        (vec![], r#"{"mediaType":"application/x.thing+json"}"#, true),
        (vec![], r#"{"mediaType":"text/html"}"#, false),
        // Half a surrogate pair, and a number without end.
        (vec![OCI_INDEX], r#"{"manifests":[],"annotations":{"a":"\ud800"},"b":1e999}"#, true),
        (vec![OCI_INDEX], r#"{"manifests":[],"b":1e}"#, false),
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
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn a_manifest_that_is_cut_once_is_asked_for_again_and_paid_again() {
    let cut = AtomicBool::new(false);
    let server = Server::start(move |_| match cut.swap(true, Ordering::Relaxed) {
        false => [head(200, &[OCI_INDEX], 500), INDEX.into()].concat(),
        true => answer(200, &[OCI_INDEX], INDEX),
    })
    .await;
    let upstream = upstream(&server);
    get(&upstream, &tag("latest")).await.unwrap();
    assert_eq!((server.asked().len(), ledger(&upstream).spends(10).len()), (2, 2));
}

/// Source: neuvector/neuvector#1292 and others: containerd asks five times for what it cannot use.
#[tokio::test]
async fn content_that_cannot_be_used_is_asked_for_once() {
    let server = Server::start(|_| answer(200, &[OCI_INDEX], "not JSON")).await;
    let upstream = upstream(&server);
    let reference = Reference::Digest(digest("not JSON"));
    for _ in 0..5 {
        let got = get(&upstream, &reference).await;
        assert!(matches!(got, Err(Error::Malformed(_))), "{got:?}");
    }
    assert_eq!((server.asked().len(), ledger(&upstream).balance(&anonymous(), SystemTime::now()).spent), (1, 1));
}

/// Source: pulp/pulp_container#1130, giantswarm/retagger#1233: the digest of a signed manifest is that of its payload.
#[tokio::test]
async fn a_signed_schema_1_manifest_is_verified_by_its_payload() {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let (open, close) = (r#"{"schemaVersion":1,"fsLayers":[]"#, "\n}");
    let protected = format!(r#"{{"formatLength":{},"formatTail":"{}"}}"#, open.len(), URL_SAFE_NO_PAD.encode(close));
    let protected = URL_SAFE_NO_PAD.encode(protected);
    let signed = format!(r#"{open},"signatures":[{{"protected":"{protected}"}}]}}"#);
    let named = digest(&format!("{open}{close}"));
    let body = signed.clone();
    let jws = ("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws");
    let server = Server::start(move |_| answer(200, &[jws], &body)).await;
    let manifest = get(&upstream(&server), &Reference::Digest(named.clone())).await.unwrap();
    assert_eq!((manifest.digest, manifest.bytes.as_ref()), (named, signed.as_bytes()));
    assert_eq!(manifest.media_type.as_str(), jws.1);
    let got = get(&upstream(&server), &Reference::Digest(digest(open))).await;
    assert!(matches!(got, Err(Error::Malformed(_))), "{got:?}");
}

#[tokio::test]
async fn a_manifest_that_came_compressed_is_what_its_digest_names() {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(INDEX.as_bytes()).unwrap();
    let body = encoder.finish().unwrap();
    let server = Server::start(move |_| answer(200, &[OCI_INDEX, ("Content-Encoding", "gzip")], &body)).await;
    for reference in [Reference::Digest(digest(INDEX)), tag("latest")] {
        assert_eq!(get(&upstream(&server), &reference).await.unwrap().bytes, INDEX.as_bytes());
    }
}

/// Source: crazy-max/diun#1614, nicholas-fedor/watchtower#667, andrey-pohilko/registry-cli#43.
#[tokio::test]
async fn a_head_that_is_refused_is_no_absence_where_pulls_are_not_counted() {
    for status in [400, 404, 405, 406, 410, 411, 415, 422, 501] {
        let server = Server::start(move |_| answer(status, &[], "")).await;
        let got = upstream(&server).head_manifest(&anonymous(), &name("a/b"), &tag("latest")).await;
        assert_eq!(got, Err(Error::HeadRefused), "{status}");
    }
    let meter = [("ratelimit-limit", "100;w=21600"), ("ratelimit-remaining", "20;w=21600")];
    for (status, expected) in [(404, Error::NotFound), (400, Error::Status(400)), (406, Error::Status(406))] {
        let server = Server::start(move |_| answer(status, &meter, "")).await;
        let got = upstream(&server).head_manifest(&anonymous(), &name("a/b"), &tag("latest")).await;
        assert_eq!(got, Err(expected));
    }
}

#[tokio::test]
async fn a_head_tells_what_it_knows() {
    let named = digest(INDEX).to_string();
    let answering = move |headers: &[(&str, &str)]| head(200, headers, 77);
    for (headers, expected) in [
        (
            vec![OCI_INDEX, ("Docker-Content-Digest", named.as_str())],
            Some(Head { digest: Some(digest(INDEX)), media_type: OCI_INDEX.1.parse().ok(), size: Some(77) }),
        ),
        (vec![], Some(Head { digest: None, media_type: None, size: Some(77) })),
        (vec![("Content-Type", "text/html; charset=utf-8")], None),
        (
            vec![OCI_INDEX, ("Docker-Content-Digest", "latest")],
            Some(Head { digest: None, media_type: OCI_INDEX.1.parse().ok(), size: Some(77) }),
        ),
    ] {
        let reply = answering(&headers);
        let server = Server::start(move |_| reply.clone()).await;
        let got = upstream(&server).head_manifest(&anonymous(), &name("a/b"), &tag("latest")).await;
        match expected {
            Some(expected) => assert_eq!(got.unwrap(), expected),
            // Where pulls are not counted, a GET may know better.
            None => assert_eq!(got, Err(Error::HeadRefused)),
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
