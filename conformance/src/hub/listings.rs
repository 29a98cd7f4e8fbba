//! Tag lists (end-8) and referrers (end-12).

use serde_json::json;

use super::answer::Answer;
use super::exchange::Ask;
use super::fault::{Stage, What};
use super::settings::Settings;
use super::shared::Shared;

/// `GET /v2/<name>/tags/list`, in pages when the settings say so.
pub(super) fn tags(shared: &Shared, ask: &Ask, settings: &Settings) -> Answer {
    let asked = match ask.request.asks("n").map(|n| n.parse::<usize>()) {
        None => None,
        Some(Ok(n)) => Some(n),
        Some(Err(_)) => {
            return Answer::error(400, "PAGINATION_NUMBER_INVALID", "invalid number of results requested");
        }
    };
    let store = shared.store.read().unwrap();
    let tags = store.get(&ask.repository).map(|repository| &repository.tags);
    let mut page: Vec<&str> = tags.into_iter().flat_map(|tags| tags.keys().map(String::as_str)).collect();
    let mut link = None;
    if let Some(most) = settings.page {
        if let Some(last) = ask.request.asks("last") {
            page.retain(|tag| *tag > last.as_str());
        }
        let length = asked.unwrap_or(most).min(most);
        if page.len() > length {
            page.truncate(length);
            link = page
                .last()
                .map(|last| format!("</v2/{}/tags/list?last={last}&n={length}>; rel=\"next\"", ask.repository));
        }
    }
    let answer = Answer::json(200, &json!({"name": ask.repository, "tags": page}));
    linked(shared, ask, answer, link)
}

/// `GET /v2/<name>/referrers/<digest>`.
pub(super) fn referrers(shared: &Shared, ask: &Ask, settings: &Settings) -> Answer {
    if !settings.referrers {
        return Answer::new(404).body("text/plain; charset=utf-8", "404 page not found\n");
    }
    if !ask.reference.starts_with("sha256:") {
        return Answer::error(400, "DIGEST_INVALID", "invalid digest");
    }
    let wanted = ask.request.asks("artifactType");
    let store = shared.store.read().unwrap();
    let Some(repository) = store.get(&ask.repository) else {
        return Answer::error(404, "NAME_UNKNOWN", "repository name not known to registry");
    };
    let index = repository.referrers(&ask.reference, wanted.as_deref());
    let mut answer = Answer::new(200).body(&index.media_type, index.bytes);
    if wanted.is_some() {
        answer.set("OCI-Filters-Applied", "artifactType");
    }
    linked(shared, ask, answer, None)
}

fn linked(shared: &Shared, ask: &Ask, mut answer: Answer, link: Option<String>) -> Answer {
    let link = match shared.faults.strike(Stage::Head, ask.asked()) {
        Some(What::LinkEvil) => {
            Some(format!("<http://{}{}?last=0>; rel=\"next\"", shared.evil_address, ask.request.path()))
        }
        Some(What::LinkLoop) => Some(format!("<{}>; rel=\"next\"", ask.request.target)),
        _ => link,
    };
    answer.set("Link", link.unwrap_or_default());
    answer
}
