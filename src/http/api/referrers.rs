//! What refers to a manifest (end-12), filtered as asked and announced as filtered.

use std::time::Duration;

use actix_http::{
    Response,
    header::{HeaderValue, LINK},
};

use crate::http::{
    Registry,
    body::Body,
    error::ApiError,
    headers, query,
    request_context::{RequestContext, ResponseFuture, TargetRepository},
};
use crate::{
    mirror::{CacheFacts, CacheStatus, ReferrersAnswer},
    oci::{Digest, OCI_IMAGE_INDEX},
};

pub(crate) fn answer(
    registry: &Registry,
    exchange: RequestContext,
    place: TargetRepository,
    digest: Digest,
) -> ResponseFuture {
    let artifact_type = match query::value(exchange.query(), "artifactType") {
        Ok(artifact_type) => artifact_type.map(|artifact_type| artifact_type.into_owned()),
        Err(bad) => return ResponseFuture::now(exchange.fail(&ApiError::Query(bad), Some(&place), None)),
    };
    if let Err(failure) = exchange.may_miss(&place, &digest.to_string()) {
        return ResponseFuture::now(exchange.fail(&failure, Some(&place), None));
    }
    let mirror = registry.mirror.clone();
    ResponseFuture::later(async move {
        match mirror.listings.referrers(&place.ask, &digest).await {
            Ok(found) => index(exchange, &place, &found, artifact_type.as_deref()),
            Err(error) => exchange.fail(&ApiError::Mirror(error), Some(&place), Some(digest.to_string())),
        }
    })
}

/// Entries of a page, unless fewer are asked for.
const MAX_ENTRIES: usize = 1000;

/// What refers to a manifest of a repository that lives here, a page at a time.
pub(crate) fn hosted(
    registry: &Registry,
    exchange: RequestContext,
    place: TargetRepository,
    digest: Digest,
) -> ResponseFuture {
    if !crate::http::reads(&exchange) {
        return ResponseFuture::now(exchange.fail(&ApiError::NotAllowed(crate::http::READ), Some(&place), None));
    }
    let asked = || {
        let value = |name| query::value(exchange.query(), name).map_err(ApiError::Query);
        let artifact_type = value("artifactType")?.map(|artifact_type| artifact_type.into_owned());
        let last = value("last")?.map(|last| last.parse::<Digest>()).transpose();
        let n = query::count(exchange.query()).map_err(ApiError::Query)?;
        let last = last.map_err(|bad| ApiError::Hosted(bad.into()))?;
        Ok((artifact_type, last, n.unwrap_or(MAX_ENTRIES).clamp(1, MAX_ENTRIES)))
    };
    let (artifact_type, last, most) = match asked() {
        Ok(asked) => asked,
        Err(failure) => return ResponseFuture::now(exchange.fail(&failure, Some(&place), None)),
    };
    let hosted = registry.hosted.clone();
    ResponseFuture::later(async move {
        let (client, name) = (&place.ask.client, &place.ask.repository);
        match hosted.referrers(client, name, &digest, artifact_type.clone(), last, most).await {
            Ok(found) => {
                let link = found.next.map(|next| {
                    let filter = artifact_type.as_deref().map(query::encode);
                    let filter = filter.map_or(String::new(), |filter| format!("&artifactType={filter}"));
                    format!("</v2/{name}/referrers/{digest}?n={most}&last={next}{filter}>; rel=\"next\"")
                });
                let facts = CacheFacts { status: CacheStatus::Hit, age: Duration::ZERO, warning: None };
                let found = ReferrersAnswer { descriptors: found.descriptors.into(), facts };
                let mut response = index(exchange, &place, &found, artifact_type.as_deref());
                if let Some(link) = link.and_then(|link| HeaderValue::try_from(link).ok()) {
                    response.headers_mut().insert(LINK, link);
                }
                response
            }
            Err(error) => exchange.fail(&ApiError::Hosted(error), Some(&place), Some(digest.to_string())),
        }
    })
}

fn index(
    exchange: RequestContext,
    place: &TargetRepository,
    found: &ReferrersAnswer,
    artifact_type: Option<&str>,
) -> Response<Body> {
    let wanted = |descriptor: &&serde_json::Value| {
        artifact_type.is_none_or(|wanted| descriptor["artifactType"].as_str() == Some(wanted))
    };
    let manifests: Vec<&serde_json::Value> = found.descriptors.iter().filter(wanted).collect();
    let body = serde_json::json!({"schemaVersion": 2, "mediaType": OCI_IMAGE_INDEX, "manifests": manifests});
    let mut response = exchange.json(OCI_IMAGE_INDEX, Some(place), Some(&found.facts), &body);
    if artifact_type.is_some() {
        response.headers_mut().insert(headers::OCI_FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
    }
    response
}
