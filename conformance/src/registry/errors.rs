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
    client::Request,
};

pub(super) const CHECKS: &[Check] = &[
    check!("each error has the code that stands for it", "errors SHOULD", fitting),
    check!("every error that is JSON has the form of OCI errors", "errors MUST", form),
    check!("every error has a code of the specification", "errors MUST", codes),
    check!("every 429 says when to come back", "errors SHOULD", retry_after),
    check!("every warning is 299 by - without a date, all within 4096 bytes", "warnings MUST", warnings),
];

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
