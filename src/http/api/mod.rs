//! The endpoints of the distribution-spec, from a [`Request`] to a [`Reply`] or an [`ApiError`], as values.

mod blobs;
mod body;
mod catalog;
mod context;
mod error;
mod fair_permits;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod headers;
mod manifests;
mod outcome;
mod paging;
mod path;
mod query;
mod range;
mod referrers;
mod reply;
mod request;
mod root;
mod tags;
mod uploads;

use actix_http::Method;

pub(crate) use self::{
    body::RequestBody,
    context::Context,
    error::{ApiError, MAX_HEADER_BYTES, Subject},
    headers::{DOCKER_CONTENT_DIGEST, OCI_NAMESPACE, add_cache_facts, add_common, add_quota, add_warning},
    outcome::{Handled, Outcome},
    path::{Resource, parse},
    query::{MAX_QUERY_BYTES, QueryError, value as query_value},
    reply::{Content, Reply},
    request::{Repository, Request, SharedRequest},
};

const GET: &Method = &Method::GET;
const HEAD: &Method = &Method::HEAD;
const POST: &Method = &Method::POST;
const PATCH: &Method = &Method::PATCH;
const PUT: &Method = &Method::PUT;
const DELETE: &Method = &Method::DELETE;

/// The route table: one route a line. What is mirrored is read-only: no method but GET and HEAD leads there.
///
/// # Errors
/// See [`ApiError`], which has the status and the code of each.
#[rustfmt::skip]
pub(crate) fn route(cx: &Context, request: &SharedRequest) -> Handled {
    use Repository::{Hosted, Mirrored};
    use Resource::{Blob, Catalog, Manifest, Ping, Referrers, Root, Tags, Upload};
    let resource = request.resource.as_ref().map_err(|error| ApiError::Path(error.clone()))?;
    match (request.method(), &request.repository, resource) {
        (GET | HEAD, _, Root) => root::get(),
        (GET | HEAD, _, Ping(registry)) => root::ping(cx, request, registry.as_deref()),
        (GET | HEAD, _, Catalog(registry)) => catalog::get(cx, request, registry.as_deref()),
        (GET | HEAD, Some(Mirrored { lookup, .. }), Manifest(_, reference)) => manifests::get(cx, request, lookup, reference),
        (GET | HEAD, Some(Mirrored { lookup, .. }), Blob(_, digest)) => blobs::get(cx, request, lookup, digest),
        (GET | HEAD, Some(Mirrored { lookup, .. }), Tags(_)) => tags::get(cx, request, lookup),
        (GET | HEAD, Some(Mirrored { lookup, .. }), Referrers(_, digest)) => referrers::get(cx, request, lookup, digest),
        (GET | HEAD, Some(Hosted(name)), Manifest(_, reference)) => manifests::get_hosted(cx, request, name, reference),
        (PUT, Some(Hosted(name)), Manifest(_, reference)) => manifests::put(cx, request, name, reference),
        (DELETE, Some(Hosted(name)), Manifest(_, reference)) => manifests::delete(cx, request, name, reference),
        (GET | HEAD, Some(Hosted(name)), Blob(_, digest)) => blobs::get_hosted(cx, request, name, digest),
        (DELETE, Some(Hosted(name)), Blob(_, digest)) => blobs::delete(cx, request, name, digest),
        (GET | HEAD, Some(Hosted(name)), Tags(_)) => tags::get_hosted(cx, request, name),
        (GET | HEAD, Some(Hosted(name)), Referrers(_, digest)) => referrers::get_hosted(cx, request, name, digest),
        (POST, Some(Hosted(name)), Upload(_, None)) => uploads::begin(cx, request, name),
        (GET | HEAD, Some(Hosted(name)), Upload(_, Some(id))) => uploads::get(cx, request, name, id),
        (PATCH, Some(Hosted(name)), Upload(_, Some(id))) => uploads::patch(cx, request, name, id),
        (PUT, Some(Hosted(name)), Upload(_, Some(id))) => uploads::put(cx, request, name, id),
        (DELETE, Some(Hosted(name)), Upload(_, Some(id))) => uploads::delete(cx, request, name, id),
        (_, Some(Hosted(_)), resource) => Err(ApiError::MethodNotAllowed(methods(resource))),
        // RFC 9110 writes an empty `Allow` where no method is allowed at all.
        (_, _, Upload(..)) => Err(ApiError::ReadOnly("")),
        (_, _, _) => Err(ApiError::ReadOnly("GET, HEAD")),
    }
}

/// `Allow` of a hosted resource.
fn methods(resource: &Resource) -> &'static str {
    match resource {
        Resource::Manifest(..) => "GET, HEAD, PUT, DELETE",
        Resource::Blob(..) => "GET, HEAD, DELETE",
        Resource::Upload(_, None) => "POST",
        Resource::Upload(_, Some(_)) => "GET, HEAD, PATCH, PUT, DELETE",
        _ => "GET, HEAD",
    }
}
