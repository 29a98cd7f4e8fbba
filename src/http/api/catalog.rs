//! The repositories of which something is cached or hosted (`_catalog`).

use actix_http::header::LINK;

use super::{
    context::Context,
    error::ApiError,
    outcome::{Handled, later},
    paging::{MAX_ENTRIES, Paging, link},
    reply::Reply,
    request::SharedRequest,
};
use crate::oci::page;

/// Of all registries, or of the one that the path names.
pub(crate) fn get(cx: &Context, request: &SharedRequest, registry: Option<&str>) -> Handled {
    let paging = Paging::of(request)?;
    let routes = cx.routes.get();
    let upstream = match registry {
        None => None,
        Some(registry) => {
            let upstream = routes.upstream(registry).cloned();
            Some(upstream.ok_or_else(|| ApiError::UnknownRegistry(registry.into()))?)
        }
    };
    let (mirror, request) = (cx.mirror.clone(), request.clone());
    let rules = cx.limits.config().repositories.clone();
    let hosted = if upstream.is_none() { cx.hosted.catalog(&request.client) } else { Vec::new() };
    later(async move {
        let mut names = mirror.listings.catalog(&request.client, &rules).await?;
        if let Some(upstream) = upstream {
            // Below `/<registry>/v2/` names stand without their registry.
            let is_default = routes.default_upstream() == Some(&upstream);
            names = names
                .into_iter()
                .filter_map(|name| match name.split_once('/') {
                    Some((first, rest)) if first == &*upstream => Some(rest.to_owned()),
                    Some((first, _)) if routes.upstream(first).is_some() => None,
                    _ => is_default.then_some(name),
                })
                .collect();
        }
        if !hosted.is_empty() {
            names.extend(hosted);
            names.sort_unstable();
            names.dedup();
        }
        let page = page(&names, paging.last.as_deref(), Some(paging.n.unwrap_or(MAX_ENTRIES)));
        let mut reply = Reply::json("application/json", &serde_json::json!({"repositories": page.entries}));
        if let Some(link) = link(&request, &page) {
            reply.headers.insert(LINK, link);
        }
        Ok(reply)
    })
}
