//! Tag lists (end-8) and referrers (end-12).

use serde_json::json;

use super::exchange::Exchange;
use super::fault::{Stage, What};
use super::response::Response;
use super::settings::Settings;
use super::shared::Shared;

/// `GET /v2/<name>/tags/list`, in pages when the settings say so.
pub(super) fn tags(shared: &Shared, exchange: &Exchange, settings: &Settings) -> Response {
    let asked = match exchange.request.asks("n").map(|n| n.parse::<usize>()) {
        None => None,
        Some(Ok(n)) => Some(n),
        Some(Err(_)) => {
            return Response::error(400, "PAGINATION_NUMBER_INVALID", "invalid number of results requested");
        }
    };
    let store = shared.store.read().unwrap();
    let tags = store.get(&exchange.repository).map(|repository| &repository.tags);
    let mut page: Vec<&str> = tags.into_iter().flat_map(|tags| tags.keys().map(String::as_str)).collect();
    let mut link = None;
    if let Some(most) = settings.page {
        if let Some(last) = exchange.request.asks("last") {
            page.retain(|tag| *tag > last.as_str());
        }
        let length = asked.unwrap_or(most).min(most);
        if page.len() > length {
            page.truncate(length);
            link = page
                .last()
                .map(|last| format!("</v2/{}/tags/list?last={last}&n={length}>; rel=\"next\"", exchange.repository));
        }
    }
    let answer = Response::json(200, &json!({"name": exchange.repository, "tags": page}));
    linked(shared, exchange, answer, link)
}

/// `GET /v2/<name>/referrers/<digest>`.
pub(super) fn referrers(shared: &Shared, exchange: &Exchange, settings: &Settings) -> Response {
    if !settings.referrers {
        return Response::new(404).body("text/plain; charset=utf-8", "404 page not found\n");
    }
    if !exchange.reference.starts_with("sha256:") {
        return Response::error(400, "DIGEST_INVALID", "invalid digest");
    }
    let wanted = exchange.request.asks("artifactType");
    let store = shared.store.read().unwrap();
    let Some(repository) = store.get(&exchange.repository) else {
        return Response::error(404, "NAME_UNKNOWN", "repository name not known to registry");
    };
    let index = repository.referrers(&exchange.reference, wanted.as_deref());
    let mut answer = Response::new(200).body(&index.media_type, index.bytes);
    if wanted.is_some() {
        answer.set("OCI-Filters-Applied", "artifactType");
    }
    linked(shared, exchange, answer, None)
}

fn linked(shared: &Shared, exchange: &Exchange, mut answer: Response, link: Option<String>) -> Response {
    let link = match shared.faults.strike(Stage::Head, exchange.asked()) {
        Some(What::LinkEvil) => {
            Some(format!("<http://{}{}?last=0>; rel=\"next\"", shared.hostile_address, exchange.request.path()))
        }
        Some(What::LinkLoop) => Some(format!("<{}>; rel=\"next\"", exchange.request.target)),
        _ => link,
    };
    answer.set("Link", link.unwrap_or_default());
    answer
}
