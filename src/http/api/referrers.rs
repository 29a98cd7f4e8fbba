//! What refers to a manifest (end-12), filtered as asked and announced as filtered.

use std::time::Duration;

use actix_http::header::{HeaderValue, LINK};

use super::{
    context::Context,
    headers,
    outcome::{Handled, later},
    paging::MAX_ENTRIES,
    query,
    reply::Reply,
    request::{Request, SharedRequest},
};
use crate::{
    answer::{CacheFacts, CacheStatus, ReferrersAnswer},
    hosted,
    mirror::Lookup,
    oci::{Digest, Name, OCI_IMAGE_INDEX},
};

/// In a mirrored repository.
pub(crate) fn get(cx: &Context, request: &Request, lookup: &Lookup, digest: &Digest) -> Handled {
    let artifact_type = query::value(request.query(), "artifactType")?.map(|value| value.into_owned());
    cx.may_fetch(request, lookup)?;
    let (mirror, lookup, digest) = (cx.mirror.clone(), lookup.clone(), digest.clone());
    later(async move { Ok(index(mirror.listings.referrers(&lookup, &digest).await?, artifact_type.as_deref())) })
}

/// In a hosted repository, a page at a time.
pub(crate) fn get_hosted(cx: &Context, request: &SharedRequest, name: &Name, digest: &Digest) -> Handled {
    let query = request.query();
    let artifact_type = query::value(query, "artifactType")?.map(|value| value.into_owned());
    let last = query::value(query, "last")?.map(|last| last.parse::<Digest>()).transpose();
    let last = last.map_err(hosted::Error::from)?;
    let n = query::count(query)?.unwrap_or(MAX_ENTRIES).clamp(1, MAX_ENTRIES);
    let (hosted, request, name, digest) = (cx.hosted.clone(), request.clone(), name.clone(), digest.clone());
    later(async move {
        let found = hosted.referrers(&request.client, &name, &digest, artifact_type.clone(), last, n).await?;
        let facts = CacheFacts { status: CacheStatus::Hit, age: Duration::ZERO, warning: None };
        let page = ReferrersAnswer { descriptors: found.descriptors.into(), facts };
        let mut reply = index(page, artifact_type.as_deref());
        if let Some(next) = found.next {
            let filter = artifact_type.as_deref().map(query::encode);
            let filter = filter.map_or(String::new(), |filter| format!("&artifactType={filter}"));
            reply.set(LINK, format!("</v2/{name}/referrers/{digest}?n={n}&last={next}{filter}>; rel=\"next\""));
        }
        Ok(reply)
    })
}

fn index(found: ReferrersAnswer, artifact_type: Option<&str>) -> Reply {
    let wanted = |descriptor: &&serde_json::Value| {
        artifact_type.is_none_or(|wanted| descriptor["artifactType"].as_str() == Some(wanted))
    };
    let manifests: Vec<&serde_json::Value> = found.descriptors.iter().filter(wanted).collect();
    let body = serde_json::json!({"schemaVersion": 2, "mediaType": OCI_IMAGE_INDEX, "manifests": manifests});
    let mut reply = Reply::json(OCI_IMAGE_INDEX, &body);
    if artifact_type.is_some() {
        reply.headers.insert(headers::OCI_FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
    }
    reply.cache = Some(found.facts);
    reply
}
