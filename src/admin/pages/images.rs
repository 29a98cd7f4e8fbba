//! *Images*: registries, their repositories, and the images of both, with a search and filters. One page at a time.

use actix_web::HttpResponse;
use maud::{Markup, html};
use url::form_urlencoded::Serializer;

use super::{
    context::PageContext,
    html::{self, Tab, sentence},
    texts::{heads, text},
};
use crate::{
    admin::{
        images::{self, FILTERS, Filter, is_denied},
        json::parameter,
    },
    mirror::{Image, Pin, Reading},
};

/// Images, and repositories, of one page.
const SHOWN: usize = 50;

pub(super) fn page(context: &PageContext<'_>) -> HttpResponse {
    let reading = context.state.mirror.images().read();
    let last = parameter(context.query, "last");
    let found = Filter::parse(context.state, context.query)
        .and_then(|filter| filter.find(context.state, &reading, SHOWN, last.as_deref(), context.now));
    let is_filtered = FILTERS.iter().any(|name| parameter(context.query, name).is_some());
    let registry = parameter(context.query, "registry");
    let body = html! {
        @if !context.state.mirror.images().is_complete() {
            p class="bad" { (text!("What is stored is still being read; the lists grow for some seconds.")) }
        }
        @if let Err(wrong) = &found { p class="bad" role="alert" { (sentence(wrong)) } }
        (search(context))
        @if !is_filtered && last.is_none() { (registries(context)) }
        @if let Some(registry) = &registry { (repositories(context, &reading, registry)) }
        @if let Ok(page) = &found {
            h2 { (text!("Images")) }
            @if page.images.is_empty() {
                p { @if is_filtered { (text!("No image fits.")) } @else { (text!("Nothing is cached.")) } }
            } @else {
                (table(context, &reading, &page.images))
            }
            @if let Some(next) = &page.next {
                p { a rel="next" href=(with(context.query, "last", next)) { (text!("Next page")) } }
            }
        }
    };
    html::page(context, if found.is_ok() { 200 } else { 400 }, Tab::Images, text!("Images"), body)
}

/// This page with one parameter set.
fn with(query: &str, name: &str, value: &str) -> String {
    let kept = url::form_urlencoded::parse(query.as_bytes()).filter(|(kept, value)| kept != name && !value.is_empty());
    let query = Serializer::new(String::new()).extend_pairs(kept).append_pair(name, value).finish();
    format!("/images?{query}")
}

fn search(context: &PageContext<'_>) -> Markup {
    let typed = |name: &str| parameter(context.query, name).unwrap_or_default();
    let boxes = [
        ("complete", "false", text!("something is missing")),
        ("stale", "true", text!("stale")),
        ("pinned", "true", text!("pinned")),
        ("hosted", "true", text!("hosted here")),
    ];
    html! {
        form class="line" method="get" action="/images" {
            (html::search_field("pattern", text!("Part of a name, or a pattern with *"), &typed("pattern"), "docker.io/library/*"))
            (html::search_field("registry", text!("Registry"), &typed("registry"), ""))
            (html::search_field("platform", text!("Platform"), &typed("platform"), "linux/arm64"))
            (html::search_field("pulled_within", text!("Pulled within"), &typed("pulled_within"), "12h"))
            (html::search_field("not_pulled_within", text!("Not pulled for"), &typed("not_pulled_within"), "30d"))
            (html::search_field("not_arrived_within", text!("Cached for longer than"), &typed("not_arrived_within"), "30d"))
            @for (name, value, words) in boxes {
                label { input type="checkbox" name=(name) value=(value) checked[typed(name) == value]; " " (words) }
            }
            button { (text!("Show")) }
        }
        p { (text!("Order:")) " "
            @for (sort, words) in [("name", text!("name")), ("size", text!("largest")), ("last_pull", text!("last pulled")), ("idle", text!("longest not pulled"))] {
                @let is_this = typed("sort") == sort || typed("sort").is_empty() && sort == "name";
                @if is_this { b { (words) } } @else { a href=(with(&first_page(context.query), "sort", sort)) { (words) } }
                " "
            }
        }
    }
}

/// A query without the place where its page begins.
fn first_page(query: &str) -> String {
    let kept = url::form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name != "last");
    Serializer::new(String::new()).extend_pairs(kept).finish()
}

fn registries(context: &PageContext<'_>) -> Markup {
    let summaries = context.state.mirror.images().summaries();
    let registries = &summaries.registries;
    let rows = registries.iter().map(|(registry, summary)| {
        vec![
            html! { a href=(with("", "registry", registry)) { (registry) } },
            html::text(summary.repositories.to_string()),
            html::text(summary.images.to_string()),
            html::text(html::bytes(summary.bytes)),
        ]
    });
    html! {
        @if !registries.is_empty() {
            h2 { (text!("Registries")) }
            (html::table(text!("Registries"), &heads!["Registry", "Repositories", "Images", "Bytes here"], rows.collect()))
        }
    }
}

fn repositories(context: &PageContext<'_>, reading: &Reading<'_>, registry: &str) -> Markup {
    let after = parameter(context.query, "after");
    let found = images::repositories(reading, Some(registry), "", SHOWN, after.as_deref());
    let (page, next) = found.unwrap_or_default();
    let summaries = context.state.mirror.images().summaries();
    let rows = page.into_iter().map(|repository| {
        let summary = summaries.of(repository).unwrap_or_default();
        let name = repository.full_name();
        vec![
            html! { a href=(with("", "repository", &name)) { (name) } },
            html::text(summary.images.to_string()),
            html::text(html::bytes(summary.bytes)),
        ]
    });
    html! {
        h2 { (text!("Repositories of {}", registry)) }
        (html::table(text!("Repositories"), &heads!["Repository", "Images", "Bytes here"], rows.collect()))
        @if let Some(next) = next { p { a href=(with(context.query, "after", &next)) { (text!("More repositories")) } } }
    }
}

fn table(context: &PageContext<'_>, reading: &Reading<'_>, images: &[Image]) -> Markup {
    let pins = context.state.mirror.images().pins();
    let shared = reading.shared(images);
    let rows = images.iter().zip(&shared).map(|(image, shared)| {
        let pulled = context.state.mirror.images().pulled(image);
        let it = reading.completeness(&image.digest);
        let whole = it.platforms.iter().filter(|platform| platform.complete).count();
        vec![
            html! { a href=(href(image)) { (short_name(image)) } " " (chips(context, image, &pins)) },
            html::text(html::bytes(it.size)),
            html! { @if it.complete { (text!("all")) } @else { (html::bytes(it.here)) } },
            html::text(html::bytes(reading.stored(shared))),
            html! { @if !it.platforms.is_empty() { (text!("{} of {}", whole, it.platforms.len())) } },
            html! { @if let Some(arrived) = reading.arrived(&image.digest) { (html::time(arrived)) } },
            freshness(context, image),
            html! { @if let Some(pulled) = pulled { (html::time(pulled.last)) } },
        ]
    });
    let heads = heads!["Image", "Size", "Here", "Shared", "Platforms", "Here since", "Fresh", "Last pull"];
    html::table(text!("Images"), &heads, rows.collect())
}

/// The page of an image.
pub(super) fn href(image: &Image) -> String {
    let reference = image.tag.as_ref().map_or_else(|| image.digest.to_string(), ToString::to_string);
    let repository = image.repository.full_name();
    let pairs = [("repository", &repository), ("reference", &reference)];
    format!("/image?{}", Serializer::new(String::new()).extend_pairs(pairs).finish())
}

fn short_name(image: &Image) -> Markup {
    let reference = image.tag.as_ref().map_or_else(|| image.digest.to_string(), ToString::to_string);
    html::image(&image.repository.full_name(), &reference)
}

/// What is special about an image.
pub(super) fn chips(context: &PageContext<'_>, image: &Image, pins: &[Pin]) -> Markup {
    html! {
        @if image.repository.is_hosted() { span class="chip" { (text!("hosted")) } }
        @if context.state.mirror.imported(image).is_some() { span class="chip" { (text!("imported")) } }
        @if pins.iter().any(|pin| pin.covers(image)) { span class="chip" { (text!("pinned")) } }
    }
}

/// Until when a tag is answered without asking upstream, or that it is not answered.
pub(super) fn freshness(context: &PageContext<'_>, image: &Image) -> Markup {
    let mirror = &context.state.mirror;
    html! {
        @match mirror.fresh_until(image) {
            _ if is_denied(context.state, image) => span class="chip bad" { (text!("denied")) },
            _ if mirror.is_stale(image, context.now) => (text!("stale")),
            Some(until) => { (text!("until {}", html::time(until))) },
            None => (text!("always")),
        }
    }
}
