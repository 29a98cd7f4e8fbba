//! Blobs as odd servers send them, through the front door.

use std::{
    io::Write as _,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{
    LAYER, Weir, blob_path, digest,
    server::{Asked, Server, answer, head},
};

const IMAGE: (&str, &str) = ("Content-Type", "application/vnd.oci.image.manifest.v1+json");

fn name(asked: &Asked) -> &str {
    asked.path().split('/').nth(2).unwrap_or_default()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zstandard(content: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(content, ruzstd::encoding::CompressionLevel::Fastest)
}

/// An image with this one layer.
fn image(layer: &[u8]) -> String {
    format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"c/t","digest":"{}","size":2}},"layers":[{{"mediaType":"l/t","digest":"{}","size":{}}}]}}"#,
        digest("{}"),
        weir::oci::Algorithm::Sha256.digest(layer),
        layer.len()
    )
}

/// GETs of blobs of this repository so far.
fn gets(server: &Server, repository: &str) -> usize {
    let asked = server.asked();
    asked
        .iter()
        .filter(|asked| asked.method == "GET" && asked.path().contains("/blobs/") && name(asked) == repository)
        .count()
}

/// Of the kinds of C13 (docker-archive/docker-registry#369, quay/quay#1310): the digest says whether the coding encodes anything.
#[test]
fn a_blob_is_had_whatever_its_content_encoding_claims() {
    // More than is looked at in memory when nothing else tells, and not compressible.
    let large: Vec<u8> = (0..3_000_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let layer = gzip(b"a layer is compressed by itself");
    let contents = [LAYER.as_bytes().to_vec(), layer, large];
    let known = contents.clone();
    let server = Server::start(move |asked, _| {
        let content = |asked: &Asked| {
            let wanted = asked.path().rsplit('/').next().unwrap_or_default().to_owned();
            known.iter().find(|content| weir::oci::Algorithm::Sha256.digest(content).to_string() == wanted).cloned()
        };
        if asked.path().contains("/manifests/") {
            let number: usize = name(asked).rsplit('-').next().and_then(|last| last.parse().ok()).unwrap_or_default();
            return answer(200, &[IMAGE], image(&known[number]));
        }
        let Some(plain) = content(asked) else { return answer(404, &[], "") };
        let mut deflated = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        deflated.write_all(&plain).unwrap();
        let (coding, body) = match name(asked).rsplit_once('-').unwrap_or_default().0 {
            "gzip" => ("gzip", gzip(&plain)),
            "xgzip" => ("X-GZIP", gzip(&plain)),
            "deflate" => ("deflate", deflated.finish().unwrap()),
            "zstd" => ("zstd", zstandard(&plain)),
            "nothing" => ("gzip", plain),
            "chunked" => ("aws-chunked", plain),
            "identity" => ("identity", plain),
            _ => ("br", plain),
        };
        answer(200, &[("Content-Encoding", coding)], body)
    });
    for named in [true, false] {
        for coding in ["gzip", "xgzip", "deflate", "zstd", "nothing", "chunked", "identity", "br"] {
            for (number, content) in contents.iter().enumerate() {
                // What is large and really encoded is told from what is not by the size that its manifest says.
                if !named && number == 2 && ["gzip", "xgzip", "deflate", "zstd"].contains(&coding) {
                    continue;
                }
                let weir = Weir::start(&server.url(), "", &[]);
                let repository = format!("{coding}-{number}");
                if named {
                    assert_eq!(weir.get(&format!("/v2/{repository}/manifests/v1")).0, 200);
                }
                let before = gets(&server, &repository);
                let path = format!("/v2/{repository}/blobs/{}", weir::oci::Algorithm::Sha256.digest(content));
                let (status, body) = weir.get_bytes(&path);
                assert_eq!((status, body.len(), body == *content), (200, content.len(), true), "{repository}, {named}");
                assert_eq!(gets(&server, &repository) - before, 1, "{repository}, {named}: it is fetched once");
            }
        }
    }
}

/// A coding that decodes to more than the manifest says, or for ever, is cut, and nothing is kept.
#[test]
fn an_encoded_blob_that_decodes_to_something_else_is_refused() {
    let zeros = vec![0; 32 << 20];
    let (bomb, zstandard) = (gzip(&zeros), zstandard(&zeros));
    let longest = bomb.len();
    let server = Server::start(move |asked, _| match (asked.path().contains("/manifests/"), name(asked)) {
        (true, _) => answer(200, &[IMAGE], image(LAYER.as_bytes())),
        (_, "bomb") => answer(200, &[("Content-Encoding", "gzip")], &bomb),
        (_, "zstd") => answer(200, &[("Content-Encoding", "zstd")], &zstandard),
        (_, "other") => answer(200, &[("Content-Encoding", "gzip")], gzip(b"the bytes of a lAyer")),
        _ => answer(200, &[("Content-Encoding", "gzip")], &gzip(LAYER.as_bytes())[..20]),
    });
    for repository in ["bomb", "zstd", "other", "cut"] {
        for named in [true, false] {
            let weir = Weir::start(&server.url(), "", &[]);
            if named {
                assert_eq!(weir.get(&format!("/v2/{repository}/manifests/v1")).0, 200);
            }
            let (status, body) = weir.get_bytes(&blob_path(repository));
            // What is too long to wait for is on its way before it is known to be wrong, and is cut before its end.
            let cut = repository == "bomb" && status == 200 && body.len() < longest;
            assert!(matches!(status, 502 | 503) || cut, "{repository}, {named}: {status}, {} bytes", body.len());
        }
    }
}

/// Of the kind of C1 (dragonflyoss/dragonfly#4573, goharbor/harbor#23373): one request, with the manifest's word for the size or
/// without.
#[test]
fn a_blob_of_unsaid_size_is_fetched_once() {
    let server = Server::start(|asked, _| {
        if asked.path().contains("/manifests/") {
            return answer(200, &[IMAGE], image(LAYER.as_bytes()));
        }
        let how = match name(asked) {
            _ if asked.method == "HEAD" => "Connection: close",
            "chunked" => "Transfer-Encoding: chunked\r\nConnection: close",
            _ => "Connection: close",
        };
        let body = match name(asked) {
            "chunked" => format!("7\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n", &LAYER[..7], LAYER.len() - 7, &LAYER[7..]),
            _ => LAYER.to_owned(),
        };
        format!("HTTP/1.1 200 OK\r\n{how}\r\n\r\n{body}").into_bytes()
    });
    for repository in ["chunked", "close"] {
        for named in [true, false] {
            let weir = Weir::start(&server.url(), "", &[]);
            if named {
                assert_eq!(weir.get(&format!("/v2/{repository}/manifests/v1")).0, 200);
            }
            let before = gets(&server, repository);
            assert_eq!(weir.get(&blob_path(repository)), (200, LAYER.to_owned()), "{repository}, {named}");
            assert_eq!(gets(&server, repository) - before, 1, "{repository}, {named}");
        }
    }
}

/// Of the kind of C2 (goharbor/harbor#22609), where pulls are counted: a manifest of this repository names the blob.
#[test]
fn a_get_decides_where_a_manifest_of_the_repository_names_the_blob() {
    const COUNTED: (&str, &str) = ("RateLimit-Limit", "100;w=21600");
    const LEFT: (&str, &str) = ("RateLimit-Remaining", "99;w=21600");
    let server = Server::start(|asked, _| match (asked.method.as_str(), asked.path().contains("/manifests/")) {
        (_, true) => answer(200, &[IMAGE, COUNTED, LEFT], image(LAYER.as_bytes())),
        ("HEAD", _) if name(asked) != "sharer" => head(404, &[], 0),
        _ => answer(200, &[], LAYER),
    });
    let mut weir = Weir::start(&server.url(), "", &[]);
    assert_eq!(weir.get("/v2/sharer/manifests/v1").0, 200);
    assert_eq!(weir.get(&blob_path("sharer")).0, 200);
    assert_eq!(weir.get("/v2/named/manifests/v1").0, 200);
    assert_eq!(weir.get(&blob_path("named")), (200, LAYER.to_owned()));
    assert_eq!(weir.get(&blob_path("stranger")).0, 404);
    assert_eq!(gets(&server, "stranger"), 0, "what no manifest names is not asked for where HEAD says no");
    assert_eq!(weir.get("/v2/later/manifests/v1").0, 200);
    weir.restart();
    assert_eq!(weir.get("/v2/later/manifests/v1").0, 200);
    assert_eq!(weir.get(&blob_path("later")), (200, LAYER.to_owned()), "the manifest on the disk names it, too");
}

/// Of the kind of C4 (jenkins-infra/helpdesk#4584, distribution/distribution#2367): what changed on the disk is never served.
#[test]
fn a_cached_file_that_changed_its_length_is_fetched_again() {
    let server = Server::start(|_, _| answer(200, &[], LAYER));
    let weir = Weir::start(&server.url(), "", &[]);
    let hex = digest(LAYER)["sha256:".len()..].to_owned();
    let mut file: Option<PathBuf> = None;
    for (round, length) in
        [None, Some(10), Some(0), Some(LAYER.len() as u64 + 1), Some(1 << 20)].into_iter().enumerate()
    {
        if let Some(length) = length {
            // The bytes go out before the file has its name.
            while !file.as_ref().unwrap().exists() {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            let file = std::fs::File::options().write(true).open(file.as_ref().unwrap()).unwrap();
            file.set_len(length).unwrap();
        }
        assert_eq!(weir.get(&blob_path("a")), (200, LAYER.to_owned()), "{length:?}");
        assert_eq!(gets(&server, "a"), round + 1, "{length:?}");
        file = Some(weir.directory.path().join(format!("weir-data/blobs/sha256/{}/{hex}", &hex[..2])));
    }
    assert!(weir.log().contains("quarantine"), "{}", weir.log());
}

/// Of the kind of C5: whatever a content network says of an address once, the origin has vouched by giving it.
#[test]
fn a_content_network_that_refuses_an_address_once_is_given_another() {
    for status in [400, 401, 403, 404, 410] {
        let refused = AtomicUsize::new(0);
        let server = Server::start(move |asked, url| match name(asked) {
            "b" if asked.path().starts_with("/cdn/") => match refused.fetch_add(1, Ordering::Relaxed) {
                0 => answer(status, &[], "<Error><Code>ExpiredToken</Code></Error>"),
                _ => answer(200, &[], LAYER),
            },
            _ => answer(307, &[("Location", &format!("{url}/cdn/b"))], ""),
        });
        let weir = Weir::start(&server.url(), "", &[]);
        let (found, body) = weir.get(&blob_path("a"));
        assert_eq!((found, body.as_str()), (200, LAYER), "{status}");
    }
    for status in [400, 403, 404, 410] {
        let server = Server::start(move |asked, url| match asked.path().starts_with("/cdn/") {
            true => answer(status, &[], ""),
            false => answer(307, &[("Location", &format!("{url}/cdn/b"))], ""),
        });
        let weir = Weir::start(&server.url(), "", &[]);
        for _ in 0..2 {
            let (found, body) = weir.get(&blob_path("a"));
            assert!(found == 502 || found == 503, "{status} for good is a failure and no absence: {found} {body}");
        }
        assert!(gets(&server, "a") > 2, "nor is it remembered as one");
    }
}
