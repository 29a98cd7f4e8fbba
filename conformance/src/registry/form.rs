//! What is wrong with the form of a response, whatever it answers: errors, their codes, and warnings.

use crate::client::{Request, Response};

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
