//! Pushes to what lives here, byte by byte: every form of them, what is refused, and what a fault leaves behind.

use weir_storage::{Call, Faults};

use super::*;
use crate::oci::{Algorithm, Digest};

const IMAGE: &str = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n";

/// Anybody may push to `local/*`.
async fn open(faults: Faults, body_stall: Option<Duration>) -> World {
    let settings = hosted::Settings { anonymous_push: true, ..hosted::Settings::default() };
    let hosts = Hosting { namespaces: vec!["local/*".into()], settings, faults, body_stall, ..Hosting::default() };
    hosting(patient(), Vec::new(), hosts).await
}

fn digest(bytes: &[u8]) -> Digest {
    Algorithm::Sha256.digest(bytes)
}

fn content(length: usize) -> Vec<u8> {
    (0..length as u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn location(response: &RawResponse) -> String {
    response.header("location").unwrap_or_else(|| panic!("{}", response.head)).to_owned()
}

/// Pushes the config of [`image`].
async fn push_config(world: &World, repository: &str) {
    let line = format!("POST /v2/{repository}/blobs/uploads/?digest={}", digest(b"{}"));
    assert_eq!(Raw::to(&world.serving).await.push(&line, "", b"{}").await.status, 201);
}

/// An image manifest of one config.
fn image(subject: &str, more: &str) -> Vec<u8> {
    let config = digest(b"{}");
    format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{config}","size":2}},"layers":[]{subject}{more}}}"#
    )
    .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_a_push_ends_in_the_same_blob_and_all_of_them_on_one_connection() {
    let world = open(Faults::default(), None).await;
    let mut client = Raw::to(&world.serving).await;
    let begin = "/v2/local/a/blobs/uploads/";
    for (number, length) in [0, 1, 70_000, 3_000_000].into_iter().enumerate() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for form in 0..5 {
                let mut bytes = content(length);
                bytes.extend(if length == 0 { vec![] } else { vec![number as u8, form] });
                let digest = algorithm.digest(&bytes);
                let put = |at: &str| format!("PUT {at}?digest={digest}");
                let done = match form {
                    0 => client.push(&format!("POST {begin}?digest={digest}"), "", &bytes).await,
                    1 => {
                        let at = location(&client.push(&format!("POST {begin}"), "", b"").await);
                        client.push(&put(&at), "", &bytes).await
                    }
                    2 => {
                        let hint = format!("?digest-algorithm={}", algorithm.as_str());
                        let at = location(&client.push(&format!("POST {begin}{hint}"), "", b"").await);
                        let half = bytes.len() / 2;
                        for (start, piece) in [(0, &bytes[..half]), (half, &bytes[half..])] {
                            if !piece.is_empty() {
                                let range = format!("Content-Range: {start}-{}\r\n", start + piece.len() - 1);
                                let response = client.push(&format!("PATCH {at}"), &range, piece).await;
                                let end = format!("0-{}", start + piece.len() - 1);
                                assert_eq!((response.status, response.header("range")), (202, Some(&*end)));
                            }
                        }
                        client.push(&put(&at), "", b"").await
                    }
                    3 => {
                        let at = location(&client.push(&format!("POST {begin}"), "", b"").await);
                        let line = format!("PATCH {at}");
                        let head = format!("{line} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
                        client.send(&head).await;
                        for piece in bytes.chunks(9_999) {
                            client.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()).await;
                        }
                        // The next request comes with the end of this one, and waits for its answer.
                        client.send(format!("0\r\n\r\nGET {at} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
                        assert_eq!(client.response(&line).await.status, 202);
                        let status = client.response("GET").await;
                        assert_eq!(status.status, 204);
                        assert_eq!(status.header("range"), Some(&*format!("0-{}", bytes.len().saturating_sub(1))));
                        client.push(&put(&at), "", b"").await
                    }
                    _ => {
                        let source = format!("POST /v2/local/b/blobs/uploads/?digest={digest}");
                        assert_eq!(client.push(&source, "", &bytes).await.status, 201);
                        client.push(&format!("POST {begin}?mount={digest}&from=local/b"), "", b"").await
                    }
                };
                assert_eq!(done.status, 201, "{form}: {}", done.head);
                assert_eq!(done.header("docker-content-digest"), Some(&*digest.to_string()));
                assert_eq!(location(&done), format!("/v2/local/a/blobs/{digest}"));
                let got = client.ask(&format!("GET {}", location(&done)), "").await;
                assert!(got.status == 200 && got.body == bytes, "{form} {length}");
                let gone = client.push(&format!("DELETE {}", location(&done)), "", b"").await;
                assert_eq!(gone.status, 202);
                assert_eq!(client.ask(&format!("HEAD {}", location(&done)), "").await.status, 404);
            }
        }
    }
}

/// Without a Content-Length the length of a chunk is known at its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_not_as_long_as_its_range_is_refused_and_leaves_nothing() {
    let world = open(Faults::default(), None).await;
    let mut client = Raw::to(&world.serving).await;
    let bytes = content(10);
    let at = location(&client.push("POST /v2/local/a/blobs/uploads/", "", b"").await);
    assert_eq!(client.push(&format!("PATCH {at}"), "Content-Range: 0-4\r\n", &bytes[..5]).await.status, 202);
    let line = format!("PATCH {at}");
    for range in ["5-9", "5-6"] {
        let chunked = format!("Content-Range: {range}\r\nTransfer-Encoding: chunked");
        client.send(format!("{line} HTTP/1.1\r\nHost: x\r\n{chunked}\r\n\r\n3\r\nabc\r\n0\r\n\r\n")).await;
        let refused = client.response(&line).await;
        assert_eq!((refused.status, &*refused.code()), (400, "BLOB_UPLOAD_INVALID"), "{range}");
        let status = client.ask(&format!("GET {at}"), "").await;
        assert_eq!((status.status, status.header("range")), (204, Some("0-4")), "{range}");
    }
    let put = format!("PUT {at}?digest={}", digest(&bytes));
    assert_eq!(client.push(&put, "Content-Range: 5-9\r\n", &bytes[5..]).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_out_of_order_is_refused_and_the_session_goes_on() {
    let world = open(Faults::default(), None).await;
    let push =
        async |line: &str, headers: &str, body: &[u8]| Raw::to(&world.serving).await.push(line, headers, body).await;
    let at = location(&push("POST /v2/local/a/blobs/uploads/", "", b"").await);
    let bytes = content(10);
    let whole = digest(&bytes);
    assert_eq!(push(&format!("PATCH {at}"), "Content-Range: 0-4\r\n", &bytes[..5]).await.status, 202);
    for (line, range, status) in [
        (format!("PATCH {at}"), "6-9", 416),
        (format!("PATCH {at}"), "0-3", 416),
        (format!("PUT {at}?digest={whole}"), "6-9", 416),
        (format!("PATCH {at}"), "5-9", 400),
        (format!("PATCH {at}"), "nonsense", 400),
        (format!("PUT {at}"), "5-8", 400),
        (format!("PUT {at}?digest=md5:0"), "5-8", 400),
    ] {
        let response = push(&line, &format!("Content-Range: {range}\r\n"), &bytes[..4]).await;
        assert_eq!(response.status, status, "{line} {range}");
        if status == 416 {
            assert_eq!((response.header("range"), location(&response)), (Some("0-4"), at.clone()));
        }
    }
    let status = push(&format!("GET {at}"), "", b"").await;
    assert_eq!((status.status, status.header("range")), (204, Some("0-4")));
    let done = push(&format!("PUT {at}?digest={whole}"), "Content-Range: 5-9\r\n", &bytes[5..]).await;
    assert_eq!(done.status, 201);
    assert_eq!(push(&format!("GET {at}"), "", b"").await.code(), "BLOB_UPLOAD_UNKNOWN");
    // A wrong digest ends the session, and so does the client's wish.
    for (method, status) in [("PUT", 400), ("DELETE", 204)] {
        let at = location(&push("POST /v2/local/a/blobs/uploads/", "", b"").await);
        assert_eq!(push(&format!("{method} {at}?digest={whole}"), "", b"other").await.status, status);
        assert_eq!(push(&format!("GET {at}"), "", b"").await.status, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_could_be_two_things_or_is_too_large_is_refused() {
    let world = open(Faults::default(), None).await;
    push_config(&world, "local/a").await;
    let put = async |headers: &str, body: &[u8]| {
        Raw::to(&world.serving).await.push("PUT /v2/local/a/manifests/x", headers, body).await
    };
    let both = image("", r#","manifests":[]"#);
    let twice = image("", r#","layers":[]"#);
    let trailing = [image("", ""), b"{}".to_vec()].concat();
    let first = String::from_utf8(image("", "")).unwrap().replace(r#""schemaVersion":2"#, r#""schemaVersion":1"#);
    let deep = image("", &format!(r#","x":{}"#, "[".repeat(100_000)));
    for bad in [both, twice, trailing, first.into_bytes(), deep, b"".to_vec(), b"[]".to_vec()] {
        let response = put(IMAGE, &bad).await;
        assert_eq!(
            (response.status, response.code()),
            (400, "MANIFEST_INVALID".into()),
            "{:.80}",
            String::from_utf8_lossy(&bad)
        );
    }
    let index = "Content-Type: application/vnd.oci.image.index.v1+json\r\n";
    assert_eq!(put(index, &image("", "")).await.code(), "MANIFEST_INVALID");
    // 4 MiB are taken, and not a byte more, announced or not.
    let fill = (4 << 20) - image("", r#","x":"""#).len();
    let largest = image("", &format!(r#","x":"{}""#, "a".repeat(fill)));
    assert_eq!(largest.len(), 4 << 20);
    assert_eq!(put(IMAGE, &largest).await.status, 201);
    assert_eq!(put(IMAGE, &[largest, b" ".to_vec()].concat()).await.status, 413);
    let mut endless = Raw::to(&world.serving).await;
    let head = format!("PUT /v2/local/a/manifests/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{IMAGE}\r\n");
    endless.send(head).await;
    for _ in 0..70 {
        endless.send([b"10000\r\n", content(1 << 16).as_slice(), b"\r\n"].concat()).await;
    }
    assert_eq!(endless.response("PUT").await.status, 413);
    let one = r#"{"schemaVersion":2,"manifests":[{"mediaType":"x/y","size":9223372036854775807,"digest":""#;
    let claims = format!("{one}{}\"}}]}}", digest(b"nowhere"));
    assert_eq!(put(index, claims.as_bytes()).await.status, 201, "a size is a claim and no allocation");
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_manifests_and_what_refers_to_them_come_and_go() {
    let world = open(Faults::default(), None).await;
    push_config(&world, "local/a").await;
    let push =
        async |line: &str, headers: &str, body: &[u8]| Raw::to(&world.serving).await.push(line, headers, body).await;
    let bytes = image("", "");
    let main = digest(&bytes);
    let tags: Vec<String> = (0..12).map(|number| format!("tag=t{number}")).collect();
    let response = push(&format!("PUT /v2/local/a/manifests/{main}?{}", tags.join("&")), IMAGE, &bytes).await;
    assert_eq!((response.status, response.all("oci-tag").len()), (201, 12));
    for reference in [main.to_string(), "t0".into(), "t11".into()] {
        let got = world.ask(&format!("GET /v2/local/a/manifests/{reference}"), "").await;
        assert_eq!((got.body.as_slice(), got.header("docker-content-digest")), (&*bytes, Some(&*main.to_string())));
        assert_eq!(got.header("content-type"), Some("application/vnd.oci.image.manifest.v1+json"));
    }
    let list = world.ask("GET /v2/local/a/tags/list?last=t1&n=2", "").await;
    assert_eq!(list.json()["tags"], serde_json::json!(["t10", "t11"]));
    assert_eq!(list.header("link"), Some("</v2/local/a/tags/list?n=2&last=t11>; rel=\"next\""));

    // Two referrers by subject, one that an old client noted under the fallback tag.
    let subject = format!(r#","subject":{{"mediaType":"x/y","digest":"{main}","size":1}}"#);
    for kind in ["a/sbom", "a/signature"] {
        let more = format!(r#","artifactType":"{kind}","annotations":{{"kind":"{kind}"}}"#);
        let response = push(&format!("PUT /v2/local/a/manifests/{}", &kind[2..]), IMAGE, &image(&subject, &more)).await;
        assert_eq!((response.status, response.header("oci-subject")), (201, Some(&*main.to_string())));
    }
    let noted = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"x/y","digest":"{}","size":1,"artifactType":"a/old"}}]}}"#,
        digest(b"old")
    );
    let fallback = main.fallback_tag().unwrap();
    let index = "Content-Type: application/vnd.oci.image.index.v1+json\r\n";
    assert_eq!(push(&format!("PUT /v2/local/a/manifests/{fallback}"), index, noted.as_bytes()).await.status, 201);
    let path = format!("/v2/local/a/referrers/{main}");
    let all = world.ask(&format!("GET {path}"), "").await;
    assert_eq!(all.json()["manifests"].as_array().unwrap().len(), 3);
    assert_eq!(all.header("content-type"), Some("application/vnd.oci.image.index.v1+json"));
    let filtered = world.ask(&format!("GET {path}?artifactType=a/sbom"), "").await;
    assert_eq!(filtered.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(filtered.json()["manifests"][0]["annotations"]["kind"], "a/sbom");
    assert_eq!(filtered.json()["manifests"].as_array().unwrap().len(), 1);
    let (mut found, mut next) = (0, Some(format!("{path}?n=1")));
    while let Some(page) = next {
        let response = world.ask(&format!("GET {page}"), "").await;
        found += response.json()["manifests"].as_array().unwrap().len();
        next = response.header("link").map(|link| link[1..link.find('>').unwrap()].to_owned());
    }
    assert_eq!(found, 3);
    assert_eq!(world.ask(&format!("GET /v2/local/none/referrers/{main}"), "").await.status, 200);

    assert_eq!(push("DELETE /v2/local/a/manifests/sbom", "", b"").await.status, 202);
    assert_eq!(world.ask(&format!("GET {path}"), "").await.json()["manifests"].as_array().unwrap().len(), 3);
    assert_eq!(push("DELETE /v2/local/a/manifests/t0", "", b"").await.status, 202);
    assert_eq!(world.ask("GET /v2/local/a/manifests/t0", "").await.status, 404);
    assert_eq!(world.ask("GET /v2/local/a/manifests/t1", "").await.status, 200);
    assert_eq!(push(&format!("DELETE /v2/local/a/manifests/{main}"), "", b"").await.status, 202);
    for reference in [main.to_string(), "t1".into()] {
        assert_eq!(world.ask(&format!("HEAD /v2/local/a/manifests/{reference}"), "").await.status, 404, "{reference}");
    }
    assert_eq!(push(&format!("DELETE /v2/local/a/manifests/{main}"), "", b"").await.code(), "MANIFEST_UNKNOWN");
}

const INDEX: &str = "Content-Type: application/vnd.oci.image.index.v1+json\r\n";

/// Anybody may push to `local/*`, with these settings.
async fn open_with(settings: hosted::Settings) -> World {
    let settings = hosted::Settings { anonymous_push: true, ..settings };
    hosting(patient(), Vec::new(), Hosting { namespaces: vec!["local/*".into()], settings, ..Hosting::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_blobs_are_not_here_is_refused_and_an_index_of_absent_images_says_so() {
    let (strict, lenient) = (open_with(hosted::Settings::default()).await, {
        open_with(hosted::Settings { sparse_images: true, ..hosted::Settings::default() }).await
    });
    let put = async |world: &World, tag: &str, headers: &str, body: &[u8]| {
        Raw::to(&world.serving).await.push(&format!("PUT /v2/local/a/manifests/{tag}"), headers, body).await
    };
    let bytes = image("", "");
    let refused = put(&strict, "1", IMAGE, &bytes).await;
    assert_eq!((refused.status, &*refused.code()), (400, "MANIFEST_BLOB_UNKNOWN"));
    let message = refused.json()["errors"][0]["message"].as_str().unwrap().to_owned();
    assert!(message.contains(&digest(b"{}").to_string()), "{message}");
    assert_eq!(strict.ask("GET /v2/local/a/manifests/1", "").await.status, 404);
    // Another repository's blob is not this one's.
    push_config(&strict, "local/b").await;
    assert_eq!(put(&strict, "1", IMAGE, &bytes).await.code(), "MANIFEST_BLOB_UNKNOWN");
    push_config(&strict, "local/a").await;
    let taken = put(&strict, "1", IMAGE, &bytes).await;
    assert_eq!((taken.status, taken.header("warning")), (201, None));
    // Clients fetch a foreign layer elsewhere, and push it nowhere.
    let foreign = r#""layers":[{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","size":1,"digest":"sha256:"#;
    let foreign = format!("{foreign}{}\"}}]", "0".repeat(64));
    let windows = String::from_utf8(bytes.clone()).unwrap().replace(r#""layers":[]"#, &foreign);
    assert_eq!(put(&strict, "2", IMAGE, windows.as_bytes()).await.status, 201);

    let child = |digest: &Digest| {
        format!(r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":1,"digest":"{digest}"}}"#)
    };
    let index = |children: &[String]| format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, children.join(","));
    let (here, absent) = (child(&digest(&bytes)), child(&digest(b"nowhere")));
    let whole = put(&strict, "3", INDEX, index(std::slice::from_ref(&here)).as_bytes()).await;
    assert_eq!((whole.status, whole.header("warning")), (201, None));
    let sparse = put(&strict, "4", INDEX, index(&[here, absent]).as_bytes()).await;
    let warning = "299 - \"1 of the manifests that this index lists are not in this repository\"";
    assert_eq!((sparse.status, sparse.header("warning")), (201, Some(warning)));
    // BuildKit's cache is an index of layers.
    let layers = put(&strict, "5", INDEX, index(&[child(&digest(b"{}"))]).as_bytes()).await;
    assert_eq!((layers.status, layers.header("warning")), (201, None));

    assert_eq!(put(&lenient, "1", IMAGE, &bytes).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_manifest_names_is_deleted_after_it_or_where_that_is_allowed() {
    for delete_referenced in [false, true] {
        let world = open_with(hosted::Settings { delete_referenced, ..hosted::Settings::default() }).await;
        push_config(&world, "local/a").await;
        let send = async |line: &str, headers: &str, body: &[u8]| {
            Raw::to(&world.serving).await.push(line, headers, body).await
        };
        let bytes = image("", "");
        let child = digest(&bytes);
        assert_eq!(send("PUT /v2/local/a/manifests/1", IMAGE, &bytes).await.status, 201);
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":{},"digest":"{child}"}}]}}"#,
            bytes.len()
        );
        let parent = digest(index.as_bytes());
        assert_eq!(send("PUT /v2/local/a/manifests/all", INDEX, index.as_bytes()).await.status, 201);
        // From the bottom up, each is named by the next; from the top down nothing is in the way.
        let layer = format!("/v2/local/a/blobs/{}", digest(b"{}"));
        let (child, parent) = (format!("/v2/local/a/manifests/{child}"), format!("/v2/local/a/manifests/{parent}"));
        for (target, by) in [(&layer, &child), (&child, &parent)] {
            let answer = send(&format!("DELETE {target}"), "", b"").await;
            if delete_referenced {
                assert_eq!(answer.status, 202, "{target}");
                continue;
            }
            assert_eq!((answer.status, &*answer.code(), answer.header("allow")), (405, "DENIED", Some("GET, HEAD")));
            let message = answer.json()["errors"][0]["message"].as_str().unwrap().to_owned();
            assert!(message.contains(by.rsplit('/').next().unwrap()), "{message}");
            assert_eq!(world.ask(&format!("GET {target}"), "").await.status, 200);
        }
        assert_eq!(
            send("DELETE /v2/local/a/manifests/1", "", b"").await.status,
            if delete_referenced { 404 } else { 202 }
        );
        assert_eq!(send(&format!("DELETE {parent}"), "", b"").await.status, 202);
        if !delete_referenced {
            assert_eq!(send(&format!("DELETE {child}"), "", b"").await.status, 202);
            assert_eq!(send(&format!("DELETE {layer}"), "", b"").await.status, 202);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_refuses_a_push_until_it_is_writable() {
    const EROFS: i32 = 30;
    let faults = Faults::default();
    let world = open(faults.clone(), None).await;
    let line = format!("POST /v2/local/a/blobs/uploads/?digest={}", digest(b"x"));
    faults.fail(Call::Create, 0, u32::MAX, EROFS);
    let refused = Raw::to(&world.serving).await.push(&line, IMAGE, b"x").await;
    assert_eq!((refused.status, refused.code()), (503, "UNAVAILABLE".into()));
    faults.heal();
    assert_eq!(Raw::to(&world.serving).await.push(&line, IMAGE, b"x").await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_a_push_and_keeps_nothing_of_it() {
    const ENOSPC: i32 = 28;
    let faults = Faults::default();
    let world = open(faults.clone(), None).await;
    let push = async |line: &str, body: &[u8]| Raw::to(&world.serving).await.push(line, IMAGE, body).await;
    let bytes = content(2_000_000);
    let whole = digest(&bytes);
    let at = location(&push("POST /v2/local/a/blobs/uploads/", b"").await);
    faults.fail(Call::Write, 3, u32::MAX, ENOSPC);
    let refused = push(&format!("PUT {at}?digest={whole}"), &bytes).await;
    assert_eq!((refused.status, refused.code()), (507, "UNAVAILABLE".into()));
    faults.heal();
    let status = push(&format!("GET {at}"), b"").await;
    assert_eq!((status.status, status.header("range")), (204, Some("0-0")));
    let left = std::fs::metadata(world._directory.path().join("uploads").join(at.rsplit('/').next().unwrap()));
    assert_eq!(left.map_or(0, |left| left.len()), 0, "its space was given back");
    assert_eq!(push(&format!("PUT {at}?digest={whole}"), &bytes).await.status, 201);

    // No step of a push may fail and be answered with 201.
    push_config(&world, "local/f").await;
    let manifest = image("", "");
    for call in [Call::Create, Call::Write, Call::Sync, Call::Rename] {
        for skip in 0..12 {
            let bytes = [format!("{call:?}{skip}").as_bytes(), &content(1000)].concat();
            for (line, target, body) in [
                ("POST", format!("/v2/local/f/blobs/uploads/?digest={}", digest(&bytes)), &bytes),
                ("PUT", format!("/v2/local/f/manifests/{call:?}{skip}"), &manifest),
            ] {
                faults.fail(call, skip, 1, 5);
                let response = push(&format!("{line} {target}"), body).await;
                faults.heal();
                let at = match line {
                    "POST" => format!("/v2/local/f/blobs/{}", digest(&bytes)),
                    _ => target.clone(),
                };
                let got = world.ask(&format!("GET {at}"), "").await;
                match response.status {
                    201 => assert_eq!(got.status, 200, "{call:?} {skip} {target}"),
                    500 => assert!(got.status == 404 || got.body == *body, "{call:?} {skip} {target}"),
                    other => panic!("{call:?} {skip} {target}: {other}"),
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upload_outlives_is_not_counted_as_a_push_that_was_refused() {
    let world = open(Faults::default(), Some(Duration::from_millis(200))).await;
    let counted = || {
        let mut registry = prometheus_client::registry::Registry::default();
        world.metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let mut lines: Vec<_> =
            text.lines().filter(|line| line.starts_with("hosted_pushes_total")).map(str::to_owned).collect();
        lines.sort();
        lines.retain(|line| !line.ends_with(" 0"));
        lines
    };
    let mut client = Raw::to(&world.serving).await;
    let at = location(&client.push("POST /v2/local/a/blobs/uploads/", "", b"").await);
    let patch = format!("PATCH {at}");
    assert_eq!(client.push(&patch, "Content-Range: 6-9\r\n", b"defg").await.status, 416);
    let mut cut = Raw::to(&world.serving).await;
    cut.send(format!("{patch} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")).await;
    assert_eq!(cut.response("PATCH").await.status, 408);
    assert_eq!(counted(), Vec::<String>::new());
    // It goes on and is counted once, by how it ended.
    let whole = digest(b"abcdef");
    let put = Raw::to(&world.serving).await.push(&format!("PUT {at}?digest={whole}"), "", b"def").await;
    assert_eq!(put.status, 201);
    let wrong = format!("POST /v2/local/a/blobs/uploads/?digest={}", digest(b"x"));
    assert_eq!(Raw::to(&world.serving).await.push(&wrong, "", b"y").await.code(), "DIGEST_INVALID");
    let line = |outcome: &str| format!("hosted_pushes_total{{kind=\"upload\",outcome=\"{outcome}\"}} 1");
    assert_eq!(counted(), [line("DIGEST_INVALID"), line("created")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_next_to_nothing_is_cut_and_its_session_lives() {
    let world = open(Faults::default(), Some(Duration::from_millis(200))).await;
    let mut client = Raw::to(&world.serving).await;
    let at = location(&client.push("POST /v2/local/a/blobs/uploads/", "", b"").await);
    client.send(format!("PATCH {at} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")).await;
    assert_eq!(client.response("PATCH").await.status, 408);
    let status = world.ask(&format!("GET {at}"), "").await;
    assert_eq!((status.status, status.header("range")), (204, Some("0-2")));
    // One that leaves in the middle of a body with a digest has pushed nothing.
    let bytes = content(100);
    let mut leaver = Raw::to(&world.serving).await;
    let line = format!("PUT {at}?digest={}", digest(b"abc"));
    leaver.send(format!("{line} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")).await;
    leaver.send(&bytes[..50]).await;
    drop(leaver);
    let blob = format!("HEAD /v2/local/a/blobs/{}", digest(b"abc"));
    assert_eq!(world.ask(&blob, "").await.status, 404);
    // Of its bytes none were acknowledged; a client that goes on can ask how many came.
    let session = world.ask(&format!("GET {at}"), "").await;
    assert!(
        session.status == 204 && session.header("range").is_some_and(|range| range.starts_with("0-")),
        "{}",
        session.head
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_slow_with_large_manifests_stops_no_other_client() {
    let settings = hosted::Settings::default();
    let hosts = Hosting { namespaces: vec!["local/*".into()], settings, ..Hosting::default() };
    let accounts = ["bob", "ci"].map(|name| rights::account(name, "*", "*", "")).into();
    let world = hosting(patient(), accounts, hosts).await;
    let mut slow = Vec::new();
    for number in 0..20 {
        let mut client = Raw::to(&world.serving).await;
        let head = format!("PUT /v2/local/bob/manifests/t{number} HTTP/1.1\r\nHost: x\r\n{IMAGE}");
        let credentials = rights::as_who("bob");
        client.send(format!("{head}{credentials}Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n")).await;
        // It is being read.
        assert!(client.head().await.starts_with("http/1.1 100"));
        client.send([b' '; 80_000]).await;
        slow.push(client);
    }
    push_large(&world, "ci").await;
}

/// Pushes a small manifest and a large one, and waits for no other client for long.
async fn push_large(world: &World, who: &str) {
    let padding = "x".repeat(100_000);
    let index = |more: &str| format!(r#"{{"schemaVersion":2,"manifests":[]{more}}}"#);
    for manifest in [index(""), index(&format!(r#","annotations":{{"padding":"{padding}"}}"#))] {
        let headers = "Content-Type: application/vnd.oci.image.index.v1+json\r\n";
        let line = format!("PUT /v2/local/{who}/manifests/t");
        let push = world.push(who, &line, headers, manifest.as_bytes());
        let pushed = tokio::time::timeout(Duration::from_secs(20), push).await;
        assert_eq!(pushed.expect("it waits for another client").status, 201);
    }
}

/// As many as there are permits, each of which is never too slow by itself.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_hold_every_permit_for_large_manifests_give_way_to_one_that_waits() {
    let names: Vec<String> = (0..17).map(|number| format!("slow{number}")).collect();
    let accounts = names.iter().map(|name| rights::account(name, "*", "*", "")).collect();
    let stall = Duration::from_secs(6);
    let hosts = Hosting { namespaces: vec!["local/*".into()], body_stall: Some(stall), ..Hosting::default() };
    let world = hosting(patient(), accounts, hosts).await;
    let mut slow = Vec::new();
    for name in &names[..16] {
        let mut client = Raw::to(&world.serving).await;
        let head = format!("PUT /v2/local/{name}/manifests/t HTTP/1.1\r\nHost: x\r\n{IMAGE}");
        let credentials = rights::as_who(name);
        client.send(format!("{head}{credentials}Content-Length: 4000000\r\nExpect: 100-continue\r\n\r\n")).await;
        assert!(client.head().await.starts_with("http/1.1 100"));
        slow.push(tokio::spawn(async move {
            // More than is asked of a body, without end.
            let (mut from, mut to) = client.0.into_split();
            let trickle = async {
                use tokio::io::AsyncWriteExt as _;
                let _ = to.write_all(&[b' '; 80_000]).await;
                while to.write_all(&[b' '; 8_000]).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                // It was cut; the answer says why.
                std::future::pending().await
            };
            let mut answer = vec![0; 12];
            let answered = async {
                use tokio::io::AsyncReadExt as _;
                from.read_exact(&mut answer).await.map(drop)
            };
            tokio::select! {
                answer = answered => answer.unwrap(),
                () = trickle => {}
            }
            String::from_utf8(answer).unwrap()
        }));
    }
    // Until all permits are taken no push has to give way.
    while !slow.iter().any(tokio::task::JoinHandle::is_finished) {
        push_large(&world, "slow16").await;
    }
    let (answer, ..) = futures_util::future::select_all(slow).await;
    assert_eq!(answer.unwrap(), "HTTP/1.1 408");
}
