//! The tags of a repository (end-8).

use actix_http::header::LINK;

use super::{
    context::Context,
    outcome::{Handled, later},
    paging::{Paging, link},
    path,
    reply::Reply,
    request::{Request, SharedRequest},
};
use crate::{
    answer::TagsAnswer,
    mirror::Lookup,
    oci::{Name, page},
};

/// Of a mirrored repository.
pub(crate) fn get(cx: &Context, request: &SharedRequest, lookup: &Lookup) -> Handled {
    let paging = Paging::of(request)?;
    cx.may_fetch(request, lookup)?;
    let (mirror, request, lookup) = (cx.mirror.clone(), request.clone(), lookup.clone());
    later(async move { Ok(list(&request, mirror.listings.tags(&lookup).await?, &paging)) })
}

/// Of a hosted repository.
pub(crate) fn get_hosted(cx: &Context, request: &SharedRequest, name: &Name) -> Handled {
    let paging = Paging::of(request)?;
    let (hosted, request, name) = (cx.hosted.clone(), request.clone(), name.clone());
    later(async move { Ok(list(&request, hosted.tags(&request.client, &name).await?, &paging)) })
}

fn list(request: &Request, found: TagsAnswer, paging: &Paging) -> Reply {
    let names: Vec<&str> = found.tags.iter().map(|tag| tag.as_str()).collect();
    let page = page(&names, paging.last.as_deref(), paging.n);
    let name = path::written_name(request.path(), "/tags/list");
    let body = serde_json::json!({"name": name.unwrap_or_default(), "tags": page.entries});
    let mut reply = Reply::json("application/json", &body);
    if let Some(link) = link(request, &page) {
        reply.headers.insert(LINK, link);
    }
    reply.cache = Some(found.facts);
    reply
}
