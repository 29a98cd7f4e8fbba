//! The form of errors and warnings: looked for in every answer of the run, whatever else the answer was asked for.
//!
//! These rows come last and judge what all the others saw. A failure names the request, so that it can be repeated.

use std::sync::Arc;

use super::{
    Check, Registry, check,
    content::{IMAGE, Manifest, sha256},
    server::{blob, chunk, closing, manifest, putting, uploads},
};
use crate::{
    check::{Outcome, ensure},
    client::{Request, Response},
};

pub(super) const CHECKS: &[Check] = &[
    check!("each error has the code that stands for it", "errors SHOULD", fitting),
    check!("every error that is JSON has the form of OCI errors", "errors MUST", form),
    check!("every error has a code of the specification", "errors MUST", codes),
    check!("every 429 says when to come back", "errors SHOULD", retry_after),
    check!("every warning is 299 by - without a date, all within 4096 bytes", "warnings MUST", warnings),
];

/// code-1 to code-14.
const CODES: [&str; 14] = [
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
];

/// What is wrong with an answer whatever it answers: `form: …`, `code: …`, `retry: …`, `warning: …`.
pub(super) fn complaints(request: &Request, answer: &Response) -> Vec<String> {
    let mut found = Vec::new();
    let mut complain = |kind: &str, what: String| {
        let target = request.target.split('?').next().unwrap_or_default();
        found.push(format!("{kind}: {} {target} → {}: {what}", request.method, answer.status()));
    };
    let kind = answer.head.header("content-type").unwrap_or_default();
    if (400..500).contains(&answer.status()) && request.method != "HEAD" && kind.starts_with("application/json") {
        let json = answer.json();
        match json["errors"].as_array().filter(|errors| !errors.is_empty()) {
            None => complain("form", format!("no errors in {}", answer.text().chars().take(80).collect::<String>())),
            Some(errors) => {
                for error in errors {
                    match error["code"].as_str() {
                        None => complain("form", format!("an error without a code: {error}")),
                        Some(code) if !CODES.contains(&code) => complain("code", code.to_owned()),
                        Some(_) => {}
                    }
                    if !error["message"].is_string() && !error["message"].is_null() {
                        complain("form", format!("a message that is no string: {error}"));
                    }
                }
            }
        }
    }
    if answer.status() == 429 && answer.head.header("retry-after").is_none() {
        complain("retry", "no Retry-After".into());
    }
    let warnings = answer.head.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("warning"));
    let warnings: Vec<&str> = warnings.map(|(_, value)| value.as_str()).collect();
    if warnings.iter().map(|value| value.len()).sum::<usize>() > 4096 {
        complain("warning", "more than 4096 bytes".into());
    }
    for warning in warnings {
        if !(warning.starts_with("299 - \"") && warning.ends_with('"')) || warning.contains("\" \"") {
            complain("warning", warning.to_owned());
        }
    }
    found
}

fn without(registry: &Registry, kind: &str) -> Outcome {
    let (complaints, answers) = registry.complaints();
    let found: Vec<&String> = complaints.iter().filter(|complaint| complaint.starts_with(kind)).collect();
    ensure!(found.is_empty(), "{} complaints, such as {}", found.len(), found[0]);
    Ok(format!("{answers} answers"))
}

async fn form(registry: Arc<Registry>) -> Outcome {
    without(&registry, "form")
}

async fn codes(registry: Arc<Registry>) -> Outcome {
    without(&registry, "code")
}

async fn retry_after(registry: Arc<Registry>) -> Outcome {
    without(&registry, "retry")
}

async fn warnings(registry: Arc<Registry>) -> Outcome {
    without(&registry, "warning")
}

async fn fitting(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    registry.image(&repository, Some("v1")).await?;
    let (nowhere, bytes) = (sha256(&registry.bytes(10)), registry.bytes(10));
    let session = format!("{}11111111-2222-4333-8444-555555555555", uploads(&repository));
    let at = registry.open(&repository).await?;
    let cases: [(Request, &[&str]); 8] = [
        (blob(&repository, &nowhere), &["BLOB_UNKNOWN"]),
        (manifest(&repository, &nowhere), &["MANIFEST_UNKNOWN"]),
        (manifest(&repository, "v2"), &["MANIFEST_UNKNOWN"]),
        (Request::get(format!("/v2/{}/tags/list", registry.repository())), &["NAME_UNKNOWN"]),
        (chunk(&session, 0, &bytes), &["BLOB_UPLOAD_UNKNOWN"]),
        (closing(&at, &nowhere).body(&*bytes), &["DIGEST_INVALID"]),
        (putting(&repository, &nowhere, &Manifest::new(IMAGE, "{}")), &["DIGEST_INVALID", "MANIFEST_INVALID"]),
        (putting(&repository, "v2", &Manifest::new(IMAGE, "no JSON")), &["MANIFEST_INVALID"]),
    ];
    for (request, wanted) in cases {
        let what = format!("{} {}", request.method, request.target);
        let answer = registry.ask(request).await?;
        // A list of what is not there may be empty.
        if answer.status() == 200 && what.ends_with("/tags/list") {
            continue;
        }
        let code = answer.error_code();
        ensure!(
            code.as_deref().is_some_and(|code| wanted.contains(&code)),
            "{what}: wanted {wanted:?}: {}",
            answer.describe()
        );
    }
    Ok("8 errors".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Head, Timing};

    fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Response {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let now = std::time::Instant::now();
        let timing = Timing { sent: now, headers: now.elapsed(), first_byte: None, total: now.elapsed() };
        let head = Head { status, reason: String::new(), headers };
        Response { head, timing, body: body.into(), length: body.len() as u64, sha256: String::new(), broken: None }
    }

    fn kinds(answer: &Response) -> Vec<String> {
        let found = complaints(&Request::get("/v2/a/manifests/b"), answer);
        found.iter().map(|complaint| complaint.split(':').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn what_the_specification_has_is_no_complaint() {
        let json = ("Content-Type", "application/json");
        assert!(kinds(&answer(404, &[json], r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"x"}]}"#)).is_empty());
        assert!(kinds(&answer(404, &[("Content-Type", "text/plain")], "404 page not found")).is_empty());
        assert!(kinds(&answer(200, &[("Warning", "299 - \"stale\"")], "")).is_empty());
    }

    #[test]
    fn what_it_has_not_is_a_complaint() {
        let json = ("Content-Type", "application/json");
        assert_eq!(kinds(&answer(404, &[json], r#"{"error":"x"}"#)), ["form"]);
        assert_eq!(kinds(&answer(404, &[json], r#"{"errors":[{"code":"UNKNOWN"}]}"#)), ["code"]);
        assert_eq!(kinds(&answer(429, &[], "")), ["retry"]);
        assert_eq!(kinds(&answer(200, &[("Warning", "199 miss \"x\"")], "")), ["warning"]);
        assert_eq!(kinds(&answer(200, &[("Warning", "299 - \"x\" \"Mon\"")], "")), ["warning"]);
    }
}
