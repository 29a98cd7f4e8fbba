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

/// Brotli of nothing but uncompressed blocks (RFC 7932 section 9.2).
fn brotli(content: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (number, block) in content.chunks(1 << 16).enumerate() {
        // The stream begins with a bit for its window. Then: not the last block, a length of 16 bits, less one, uncompressed.
        let header = (block.len() as u32 - 1) << 3 | 1 << 19;
        let header = if number == 0 { header << 1 } else { header };
        stream.extend_from_slice(&header.to_le_bytes()[..3]);
        stream.extend_from_slice(block);
    }
    // The last block is empty.
    stream.push(3);
    stream
}

/// What a compressor makes of 64 MiB of zeros.
const BROTLI_BOMB: &[u8] = b"\xcb\xff\xff\x3f\xf8\x27\x00\xe2\xb1\x40\x20\xf7\xfe\x8f\xff\xff\x7f\xf0\x4f\x00\xc4\x61\x11\x80\
    \xee\xfd\x1f\xff\xff\xff\xe0\x9f\x00\x88\xc3\x02\x00\xdd\xfb\x3f\xfe\xff\xff\xc1\x3f\x01\x10\x87\x05\x00\xba\xf7\x7f\
    \xfc\xff\xff\x83\x7f\x02\x20\x0e\x0b\x00\x74\xef\xff\xf8\xff\xff\x07\xff\x04\x40\x1c\x16\x00\xe8\xde\xff\xf1\xff\xff\
    \x0f\xfe\x09\x80\x38\x2c\x00\xd0\xbd\xff\xe3\xff\xff\x1f\xfc\x13\x00\x71\x58\x00\xa0\x7b\xff\x37";

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
            "list" => ("identity, gzip", gzip(&plain)),
            "br" => ("br", brotli(&plain)),
            // What a compressor makes of it, which is no longer than the text.
            "brotli" if plain == LAYER.as_bytes() => ("br", b"\x8b\x09\x80the bytes of a layer\x03".to_vec()),
            _ => ("br", plain),
        };
        answer(200, &[("Content-Encoding", coding)], body)
    });
    for named in [true, false] {
        let codings = ["gzip", "xgzip", "deflate", "zstd", "br", "list", "nothing", "chunked", "identity", "brotli"];
        for coding in codings {
            for (number, content) in contents.iter().enumerate() {
                // What is large and really encoded is told from what is not by the size that its manifest says.
                if !named && number == 2 && codings[..6].contains(&coding) {
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
    let without_end = brotli(&vec![0; 5 << 20]);
    let longest = bomb.len().max(without_end.len());
    let server = Server::start(move |asked, _| match (asked.path().contains("/manifests/"), name(asked)) {
        (true, _) => answer(200, &[IMAGE], image(LAYER.as_bytes())),
        (_, "bomb") => answer(200, &[("Content-Encoding", "gzip")], &bomb),
        (_, "zstd") => answer(200, &[("Content-Encoding", "zstd")], &zstandard),
        (_, "br") => answer(200, &[("Content-Encoding", "br")], BROTLI_BOMB),
        (_, "brlong") => answer(200, &[("Content-Encoding", "br")], &without_end),
        (_, "brcut") => answer(200, &[("Content-Encoding", "br")], &brotli(LAYER.as_bytes())[..20]),
        (_, "other") => answer(200, &[("Content-Encoding", "gzip")], gzip(b"the bytes of a lAyer")),
        _ => answer(200, &[("Content-Encoding", "gzip")], &gzip(LAYER.as_bytes())[..20]),
    });
    for repository in ["bomb", "zstd", "br", "brlong", "brcut", "other", "cut"] {
        for named in [true, false] {
            let weir = Weir::start(&server.url(), "", &[]);
            if named {
                assert_eq!(weir.get(&format!("/v2/{repository}/manifests/v1")).0, 200);
            }
            let (status, body) = weir.get_bytes(&blob_path(repository));
            // What is too long to wait for is on its way before it is known to be wrong, and is cut before its end.
            let cut = ["bomb", "brlong"].contains(&repository) && status == 200 && body.len() < longest;
            assert!(matches!(status, 502 | 503) || cut, "{repository}, {named}: {status}, {} bytes", body.len());
        }
    }
}

/// Of the kinds of C1 and C13: a layer that is compressed by itself is labelled so, and how much of it comes is not said.
#[test]
fn a_layer_that_is_compressed_by_itself_is_told_from_an_encoded_one_by_its_length() {
    // Longer than what is looked at in memory, compressed too.
    let content: Vec<u8> = (0..1_500_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let layer = gzip(&content);
    let server = Server::start(move |asked, _| {
        let layer = if name(asked) == "unsaid" || name(asked) == "said" { &layer } else { &content };
        if asked.path().contains("/manifests/") {
            return answer(200, &[IMAGE], image(layer));
        }
        let body = if name(asked) == "encoded" { gzip(layer) } else { layer.clone() };
        let mut response = match name(asked) {
            "said" => head(200, &[("Content-Encoding", "gzip")], body.len()),
            _ => b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n".to_vec(),
        };
        response.extend_from_slice(&body);
        response
    });
    for repository in ["said", "unsaid", "encoded"] {
        let weir = Weir::start(&server.url(), "", &[]);
        let (_, manifest) = weir.get(&format!("/v2/{repository}/manifests/v1"));
        let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        let wanted = manifest["layers"][0]["digest"].as_str().unwrap();
        let (status, body) = weir.get_bytes(&format!("/v2/{repository}/blobs/{wanted}"));
        let found = weir::oci::Algorithm::Sha256.digest(&body).to_string();
        assert_eq!((status, found.as_str()), (200, wanted), "{repository}");
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
        ("HEAD", _) if name(asked) == "refused" => head(403, &[], 0),
        ("HEAD", _) if name(asked) != "sharer" => head(404, &[], 0),
        _ => answer(200, &[], LAYER),
    });
    let mut weir = Weir::start(&server.url(), "", &[]);
    assert_eq!(weir.get("/v2/sharer/manifests/v1").0, 200);
    assert_eq!(weir.get(&blob_path("sharer")).0, 200);
    for repository in ["named", "refused"] {
        assert_eq!(weir.get(&format!("/v2/{repository}/manifests/v1")).0, 200);
        assert_eq!(weir.get(&blob_path(repository)), (200, LAYER.to_owned()), "{repository}");
    }
    assert_eq!(weir.get(&blob_path("unknown")).0, 404);
    assert_eq!(gets(&server, "unknown"), 0, "what no manifest names is not asked for where HEAD says no");
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
