//! `server.cors`: what a page of another origin may do, as its browser asks and reads.

use crate::deploy::{Running, ask, weir};

const PREFLIGHT: &str = "Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: authorization\r\n";

/// Status and head.
fn from(weir: &Running, method: &str, path: &str, origin: &str, extra: &str) -> (u16, String) {
    let (status, head, _) = ask(weir.registry, method, path, &format!("Origin: {origin}\r\n{extra}"));
    (status, head)
}

#[test]
fn no_page_is_allowed_anything_by_default() {
    let weir = Running::start(&[]);
    for (method, extra, wanted) in [("OPTIONS", PREFLIGHT, 405), ("GET", "", 200), ("HEAD", "", 200)] {
        let (status, head) = from(&weir, method, "/v2/", "https://ui.example", extra);
        assert!(status == wanted && !head.contains("access-control") && !head.contains("vary"), "{status} {head}");
    }
}

#[test]
fn a_listed_page_reads_every_answer_with_credentials_and_another_reads_none() {
    let weir = Running::start(&[("WEIR_SERVER__CORS", "https://ui.example,http://localhost:8080")]);
    for origin in ["https://ui.example", "http://localhost:8080"] {
        let (status, head) = from(&weir, "OPTIONS", "/v2/library/x/manifests/1", origin, PREFLIGHT);
        assert_eq!(status, 204, "{head}");
        for line in [
            "access-control-allow-methods: get, head, post, patch, put, delete",
            "access-control-allow-headers: accept, authorization",
            "access-control-max-age: 3600",
        ] {
            assert!(head.contains(line), "{line}: {head}");
        }
        let unknown = from(&weir, "GET", "/v2/other.example/x/tags/list", origin, "");
        let unlisted = from(&weir, "GET", "/v2/library/x/nothing", origin, "");
        let written = from(&weir, "DELETE", "/v2/library/x/manifests/1", origin, "");
        for (status, head) in [(status, head), from(&weir, "GET", "/v2/", origin, ""), unknown, unlisted, written] {
            assert!(head.contains(&format!("access-control-allow-origin: {origin}\r\n")), "{status} {head}");
            assert!(head.contains("access-control-allow-credentials: true"), "{status} {head}");
            assert!(head.contains("vary: origin"), "{status} {head}");
            for name in ["docker-content-digest", "link", "www-authenticate", "location", "range", "retry-after"] {
                let exposed = head.split("access-control-expose-headers: ").nth(1).unwrap().lines().next().unwrap();
                assert!(exposed.split(", ").any(|exposed| exposed == name), "{name}: {head}");
            }
        }
    }
    for origin in [
        "https://ui.example.evil",
        "http://ui.example",
        "https://ui.example:8443",
        "https://UI.example",
        "http://localhost",
        "null",
        "*",
        "",
    ] {
        let (status, head) = from(&weir, "OPTIONS", "/v2/", origin, PREFLIGHT);
        assert!(status == 405 && !head.contains("access-control") && head.contains("vary: origin"), "{origin}: {head}");
        let (status, head) = from(&weir, "GET", "/v2/", origin, "");
        assert!(status == 200 && !head.contains("access-control") && head.contains("vary: origin"), "{origin}: {head}");
    }
    let (status, head, _) = ask(weir.registry, "GET", "/v2/", "");
    assert!(status == 200 && !head.contains("access-control") && head.contains("vary: origin"), "{head}");
    // Without the method that a page wants it is no preflight.
    assert_eq!(from(&weir, "OPTIONS", "/v2/", "https://ui.example", "").0, 405);
}

#[test]
fn any_page_reads_what_needs_no_credentials() {
    let weir = Running::start(&[("WEIR_SERVER__CORS", "*,https://ui.example")]);
    for origin in ["https://anything.example", "null"] {
        for (method, extra) in [("OPTIONS", PREFLIGHT), ("GET", "")] {
            let (_, head) = from(&weir, method, "/v2/", origin, extra);
            assert!(head.contains("access-control-allow-origin: *\r\n"), "{head}");
            assert!(!head.contains("allow-credentials"), "{head}");
        }
    }
    let (_, head) = from(&weir, "GET", "/v2/", "https://ui.example", "");
    assert!(head.contains("allow-credentials: true") && head.contains("allow-origin: https://ui.example"), "{head}");
}

#[test]
fn what_is_no_origin_is_refused_with_what_to_write() {
    for wrong in [
        "https://ui.example/",
        "https://ui.example/a",
        "ui.example",
        "HTTPS://ui.example",
        "ftp://a",
        "https://a:443",
        "null",
    ] {
        let output = weir(&["check"]).env("WEIR_SERVER__CORS", wrong).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "{wrong}: {told}");
        assert!(
            told.contains("server.cors") && told.contains(wrong) && told.contains("not an origin; write one"),
            "{told}"
        );
    }
}
