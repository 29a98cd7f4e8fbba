//! What refers to a manifest (end-12), filtered as asked and announced as filtered.

use actix_http::{Response, header::HeaderValue};

use super::{
    Registry,
    body::Body,
    error::Failure,
    exchange::{Answer, Exchange, Place},
    headers, query,
};
use crate::{
    mirror::ReferrersAnswer,
    oci::{Digest, OCI_IMAGE_INDEX},
};

pub(crate) fn answer(registry: &Registry, exchange: Exchange, place: Place, digest: Digest) -> Answer {
    let artifact_type = match query::value(exchange.query(), "artifactType") {
        Ok(artifact_type) => artifact_type.map(|artifact_type| artifact_type.into_owned()),
        Err(bad) => return Answer::now(exchange.fail(&Failure::Query(bad), Some(&place), None)),
    };
    if let Err(failure) = exchange.may_miss(&place, &digest.to_string()) {
        return Answer::now(exchange.fail(&failure, Some(&place), None));
    }
    let mirror = registry.mirror.clone();
    Answer::later(async move {
        match mirror.referrers(&place.ask, &digest).await {
            Ok(found) => index(exchange, &place, &found, artifact_type.as_deref()),
            Err(error) => exchange.fail(&Failure::Mirror(error), Some(&place), Some(digest.to_string())),
        }
    })
}

fn index(exchange: Exchange, place: &Place, found: &ReferrersAnswer, artifact_type: Option<&str>) -> Response<Body> {
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
