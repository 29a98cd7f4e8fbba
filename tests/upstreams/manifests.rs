//! Manifests of old and odd kinds, through the front door.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

use super::{
    LAYER, Weir, digest,
    server::{Server, answer},
};
use crate::deploy::ask;

const PRETTYJWS: (&str, &str) = ("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws");

/// A payload that ends in `tail`, and the same with signatures that say so, as libtrust writes them.
fn signed(head: &str, tail: &str, signatures: usize) -> (String, String) {
    let protected = format!(
        r#"{{"formatLength":{},"formatTail":"{}","time":"2015-11-29T00:00:00Z"}}"#,
        head.len(),
        BASE64_URL_SAFE_NO_PAD.encode(tail)
    );
    let signature =
        format!(r#"{{"header":{{"alg":"ES256"}},"protected":"{}"}}"#, BASE64_URL_SAFE_NO_PAD.encode(protected));
    let all = vec![signature; signatures].join(",");
    (format!("{head}{tail}"), format!("{head},\n   \"signatures\": [{all}]\n}}"))
}

/// Of the kind of B1 (pulp/pulp_container#1130, giantswarm/retagger#1233): one request upstream, and from then on from the disk.
#[test]
fn a_signed_schema_1_manifest_is_kept_under_the_digest_of_its_payload() {
    let layers = format!(r#""fsLayers":[{{"blobSum":"{}"}}]"#, digest(LAYER));
    let kinds = [
        ("pretty", signed(&format!("{{\n   \"schemaVersion\": 1,\n   {layers}"), "\n}", 1)),
        ("several", signed(&format!(r#"{{"schemaVersion":1,{layers}"#), "}", 3)),
        ("spaced", signed(&format!(r#"{{ "schemaVersion":1,{layers},"name":"ü""#), "   \n }\n", 1)),
        ("plain", signed(&format!(r#"{{"schemaVersion":1,{layers},"tag":"x""#), "}", 1)),
    ];
    let registry = kinds.clone();
    let server = Server::start(move |asked, _| {
        let name = asked.path().split('/').nth(2).unwrap_or_default();
        let Some((_, (payload, body))) = registry.iter().find(|(known, _)| *known == name) else {
            return answer(404, &[], "{}");
        };
        let media_type = if name == "plain" { ("Content-Type", "application/json") } else { PRETTYJWS };
        match asked.path().contains("/blobs/") {
            true => answer(200, &[], LAYER),
            false => answer(200, &[media_type, ("Docker-Content-Digest", &digest(payload))], body),
        }
    });
    let mut weir = Weir::start(&server.url(), "", &[]);
    for round in ["cold", "warm", "after a restart"] {
        for (name, (payload, body)) in &kinds {
            for reference in ["v1".to_owned(), digest(payload)] {
                let path = format!("/v2/{name}/manifests/{reference}");
                let (status, head, found) = ask(weir.registry, "GET", &path, "");
                assert_eq!((status, &found), (200, body), "{path}, {round}");
                assert!(head.contains(&format!("docker-content-digest: {}", digest(payload))), "{head}");
                assert!(head.contains("manifest.v1+prettyjws"), "{head}");
            }
            assert_eq!(weir.get(&format!("/v2/{name}/blobs/{}", digest(LAYER))), (200, LAYER.to_owned()), "{round}");
        }
        if round == "warm" {
            weir.restart();
        }
    }
    let gets = server.asked().into_iter().filter(|asked| asked.method == "GET" && asked.path().contains("/manifests/"));
    assert_eq!(gets.count(), kinds.len(), "{:?}", server.asked());
}

/// A signature vouches for nothing: what is under a digest has that digest, with its signatures or without.
#[test]
fn a_signed_manifest_whose_payload_is_another_is_refused() {
    let (payload, body) = signed(r#"{"schemaVersion":1,"fsLayers":[]"#, "}", 1);
    let forged = body.replacen("schemaVersion\":1", "schemaVersion\":2", 1);
    let far = body.replacen("\"fsLayers\":[]", "", 1);
    let asked_for = digest(&payload);
    let (forged, far) = (forged.clone(), far.clone());
    let server = Server::start(move |asked, _| {
        let body = if asked.path().contains("forged") { &forged } else { &far };
        answer(200, &[PRETTYJWS, ("Docker-Content-Digest", &digest(&payload))], body)
    });
    let weir = Weir::start(&server.url(), "", &[]);
    for name in ["forged", "short"] {
        for reference in ["v1", &asked_for] {
            assert_eq!(weir.get(&format!("/v2/{name}/manifests/{reference}")).0, 502, "{name} {reference}");
        }
    }
}

/// Image-spec, layer.md "Non-Distributable Layers": what `urls` name is the client's to fetch, and never ours.
#[test]
fn foreign_layers_are_passed_on_and_their_urls_never_asked() {
    let elsewhere = Server::start(|_, _| answer(200, &[], LAYER));
    let place = elsewhere.url();
    let manifest = |media_type: &str, urls: &str| {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"c/t","digest":"{0}","size":2}},"layers":[{{"mediaType":"{media_type}","digest":"{1}","size":{2},"urls":[{urls}]}}]}}"#,
            digest("{}"),
            digest(LAYER),
            LAYER.len()
        )
    };
    let kinds = [
        (
            "windows",
            manifest(
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                &format!(r#""ftp://a.example/l","{place}/layer""#),
            ),
        ),
        ("oci", manifest("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", &format!(r#""{place}/l""#))),
        ("plain", manifest("application/vnd.oci.image.layer.v1.tar", &format!(r#""{place}/x?a=%20b""#))),
        ("odd", manifest("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", r#"7,null,"""#)),
    ];
    let registry = kinds.clone();
    let server = Server::start(move |asked, _| {
        let name = asked.path().split('/').nth(2).unwrap_or_default();
        let Some((_, body)) = registry.iter().find(|(known, _)| *known == name) else {
            return answer(404, &[], "{}");
        };
        match (asked.path().contains("/blobs/"), name) {
            (true, "plain") => answer(200, &[], LAYER),
            (true, _) => answer(404, &[], r#"{"errors":[{"code":"BLOB_UNKNOWN"}]}"#),
            _ => answer(
                200,
                &[
                    ("Content-Type", "application/vnd.docker.distribution.manifest.v2+json"),
                    ("Docker-Content-Digest", &digest(body)),
                ],
                body,
            ),
        }
    });
    let weir = Weir::start(&server.url(), "", &[]);
    for (name, body) in &kinds {
        assert_eq!(weir.get(&format!("/v2/{name}/manifests/v1")), (200, body.clone()), "{name}");
        let (status, found) = weir.get(&format!("/v2/{name}/blobs/{}", digest(LAYER)));
        match *name {
            "plain" => assert_eq!((status, found.as_str()), (200, LAYER)),
            _ => assert!(status == 404 && found.contains("BLOB_UNKNOWN"), "{name}: {status} {found}"),
        }
    }
    assert_eq!(elsewhere.asked().len(), 0, "the mirror fetches no layer from where a publisher says");
}
