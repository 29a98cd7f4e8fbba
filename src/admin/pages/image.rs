//! One image: what it is, what of it is here, who pulled it, what was spent on it; and pin, unpin, refresh and purge, each with a reason.

use actix_web::HttpResponse;
use maud::{Markup, html};
use url::form_urlencoded::Serializer;

use super::{
    budget,
    context::PageContext,
    findings,
    form::Form,
    html::{self, Tab, sentence},
    images::{chips, freshness},
    texts::{heads, text},
};
use crate::{
    admin::{
        changes::{self, LONGEST, Refusal},
        images,
        json::parameter,
        name,
    },
    mirror::{Image, Purged, client_of},
    oci::Reference,
};

/// Spends that are listed.
const LISTED: usize = 20;

/// The names of an image, and what became of a form.
#[derive(Default)]
struct Shown<'a> {
    repository: &'a str,
    reference: &'a str,
    /// What was done.
    done: Option<Markup>,
    refusal: Option<Refusal>,
    /// The form that was sent, and the reason that was typed into it.
    typed: (Action, &'a str),
}

/// The forms of an image; there is one to pin it or one to unpin it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Action {
    #[default]
    Pin,
    Refresh,
}

/// The one that the query names.
pub(super) async fn page(context: &PageContext<'_>) -> HttpResponse {
    let [repository, reference] =
        ["repository", "reference"].map(|name| parameter(context.query, name).unwrap_or_default());
    show(context, Shown { repository: &repository, reference: &reference, ..Shown::default() }).await
}

fn find(context: &PageContext<'_>, repository: &str, reference: &str) -> Option<Image> {
    let repository = name::cached(&context.state.settings.routes.load(), repository).ok()?;
    let reference: Reference = reference.parse().ok()?;
    images::one(&context.state.mirror.images().read(), &repository, &reference)
}

async fn show(context: &PageContext<'_>, shown: Shown<'_>) -> HttpResponse {
    let status = shown.refusal.as_ref().map_or(200, |refusal| refusal.status);
    let outcome = html! {
        @if let Some(refusal) = &shown.refusal { p class="bad" role="alert" { (sentence(&refusal.sentence)) } }
        @if let Some(done) = &shown.done { p class="good" role="status" { (done) } }
    };
    let Some(image) = find(context, shown.repository, shown.reference) else {
        let body = html! {
            (outcome)
            p { (text!("No image of this name is cached.")) }
            p { a href="/images" { (text!("All images")) } }
        };
        return html::page(
            context,
            if status == 200 && shown.done.is_none() { 404 } else { status },
            Tab::Images,
            text!("No such image"),
            body,
        );
    };
    let spends = match image.repository.is_hosted() {
        true => Vec::new(),
        false => {
            let repository = &image.repository;
            context.state.mirror.explain(&repository.upstream, &repository.name, Some(shown.reference)).await
        }
    };
    let rows: Vec<_> = spends.iter().take(LISTED).map(budget::row).collect();
    let body = html! {
        (outcome)
        (about(context, &image))
        (findings::of_image(context, &image).await)
        (parts(context, &image))
        h2 { (text!("What was spent on it")) }
        @if rows.is_empty() { p { (text!("No counted request upstream is remembered.")) } } @else {
            (html::table(text!("What was spent on it"), &budget::heads(), rows))
        }
        @if !image.repository.is_hosted() { (actions(context, &image, &shown)) }
    };
    html::page(context, status, Tab::Images, title(&image), body)
}

fn title(image: &Image) -> String {
    match &image.tag {
        Some(_) => image.name(),
        None => image.repository.full_name(),
    }
}

fn about(context: &PageContext<'_>, image: &Image) -> Markup {
    let images = context.state.mirror.images();
    let reading = images.read();
    let (it, pulled) = (reading.completeness(&image.digest), images.pulled(image));
    let shared = reading.shared(std::slice::from_ref(image)).pop().unwrap_or_default();
    let clients = pulled.as_ref().map(|pulled| pulled.clients.iter()).unwrap_or_default();
    let pulls = html! {
        @match &pulled {
            None => (text!("no pull of it is remembered")),
            Some(pulled) => (text!("{}, the last at {}", html::count(pulled.pulls, text!("pull"), text!("pulls")), html::time(pulled.last))),
        }
    };
    let mut facts = vec![
        (text!("Digest"), html! { code { (image.digest) } " " (chips(context, image, &images.pins())) }),
        (
            text!("Here"),
            html! {
                @if it.complete { (text!("all of {}", html::bytes(it.size))) } @else { (text!("{} of {}: not complete", html::bytes(it.here), html::bytes(it.size))) }
            },
        ),
        (text!("Shared"), text!("{}, which other images need too", html::bytes(reading.stored(&shared)))),
        (
            text!("Here since"),
            html! { @match reading.arrived(&image.digest) { Some(arrived) => (html::time(arrived)), None => (text!("not here")) } },
        ),
        confirmed(context, image),
        (text!("Fresh"), freshness(context, image)),
        (text!("Pulled"), pulls),
    ];
    if clients.len() > 0 {
        facts.push((
            text!("Pulled by"),
            html! { @for (client, at) in clients { (text!("{} at {}", client_of(client), html::time(*at))) br; } },
        ));
    }
    html::facts(&facts)
}

/// When upstream last confirmed it, or how it was imported.
fn confirmed(context: &PageContext<'_>, image: &Image) -> (&'static str, Markup) {
    let mirror = &context.state.mirror;
    if let Some(mark) = mirror.imported(image) {
        return (text!("Imported"), text!("{} by {}, not confirmed by upstream", html::time(mark.at), mark.by));
    }
    let at = mirror.confirmed(image);
    (text!("Confirmed"), at.map_or_else(|| html::text(text!("no upstream is asked for it")), html::time))
}

/// Its platforms, and its layers with what shares them.
fn parts(context: &PageContext<'_>, image: &Image) -> Markup {
    let reading = context.state.mirror.images().read();
    let it = reading.completeness(&image.digest);
    let shared = reading.shared(std::slice::from_ref(image)).pop().unwrap_or_default();
    let platforms = it.platforms.iter().map(|platform| {
        vec![
            html::text(platform.platform.as_deref().unwrap_or(text!("unknown"))),
            html! { code { (platform.digest) } },
            html::text(html::bytes(platform.size)),
            html! { @if platform.complete { (text!("all")) } @else { (html::bytes(platform.here)) } },
        ]
    });
    let mut objects = images::objects(&reading, &image.digest);
    objects.retain(|(child, _)| !child.is_manifest);
    let layers = objects.iter().map(|(child, stored)| {
        vec![
            html! { code { (child.digest) } },
            html::text(html::bytes(stored.unwrap_or(child.size))),
            html::text(if stored.is_some() { text!("here") } else { text!("missing") }),
            html::text(if shared.contains(&child.digest) {
                text!("other images too")
            } else {
                text!("this image alone")
            }),
        ]
    });
    html! {
        @if !it.platforms.is_empty() {
            h2 { (text!("Platforms")) }
            (html::table(text!("Platforms"), &heads!["Platform", "Manifest", "Size", "Here"], platforms.collect()))
        }
        @if !objects.is_empty() {
            h2 { (text!("Layers")) }
            (html::table(text!("Layers"), &heads!["Digest", "Size", "Here", "Needed by"], layers.collect()))
        }
    }
}

/// The fields that name the image in a form.
fn named(context: &PageContext<'_>, repository: &str, reference: &str) -> Markup {
    html! {
        (html::token(context))
        input type="hidden" name="repository" value=(repository);
        input type="hidden" name="reference" value=(reference);
    }
}

fn actions(context: &PageContext<'_>, image: &Image, shown: &Shown<'_>) -> Markup {
    let pinned = context.state.mirror.images().pins().into_iter().filter(|pin| pin.covers(image)).collect::<Vec<_>>();
    let repository = image.repository.full_name();
    let reference = image.tag.as_ref().map_or_else(|| image.digest.to_string(), ToString::to_string);
    let query =
        Serializer::new(String::new()).extend_pairs([("repository", &repository), ("reference", &reference)]).finish();
    let is_pinned_alone = pinned.iter().any(|pin| pin.pattern == image.name());
    let action = |of: Action, path: &str, words: &str, explained: Markup| {
        let id = format!("{}-reason", path.rsplit('/').next().unwrap_or_default());
        let (typed, reason) = shown.typed;
        let reason = if typed == of { reason } else { "" };
        html! {
            h3 { (words) }
            p { (explained) }
            form class="line" method="post" action=(path) {
                (named(context, &repository, &reference))
                (html::reason_field(&id, "reason", reason))
                button class="main" { (words) }
            }
        }
    };
    html! {
        h2 { (text!("Actions")) }
        @for pin in &pinned { p { (text!("Pinned by {} as {}: {}", html::bold(&pin.by), html::code(&pin.pattern), pin.reason)) } }
        @if is_pinned_alone {
            (action(Action::Pin, "/image/unpin", text!("Unpin"), html! { (text!("It may be evicted again.")) }))
        } @else {
            (action(Action::Pin, "/image/pin", text!("Pin"), html! { (text!("Eviction leaves it alone, within the share of storage.pinned_share.")) }))
        }
        @if image.tag.is_some() {
            (action(Action::Refresh, "/image/refresh", text!("Refresh"), html! { (text!("Upstream is asked now what the tag names. When it moved, its manifests are fetched; these are counted. The layers come with the next pull.")) }))
        }
        h3 { (text!("Purge")) }
        p { (text!("{}, and confirm it there.", html! { a href={ "/image/remove?" (query) } { (text!("See what a purge would free")) } })) }
    }
}

/// What a form sent: the repository, the reference, and the reason.
fn sent(form: &Form) -> (&str, &str, String) {
    (form.get("repository"), form.get("reference"), form.line("reason", LONGEST))
}

pub(super) async fn pin(context: &PageContext<'_>, form: &Form) -> HttpResponse {
    change(context, form, Action::Pin, |name, reason| async move {
        changes::pin(context.state, &context.by(), name, reason).await.map(|_| html::text(text!("Pinned.")))
    })
    .await
}

pub(super) async fn unpin(context: &PageContext<'_>, form: &Form) -> HttpResponse {
    change(context, form, Action::Pin, |name, reason| async move {
        changes::unpin(context.state, &context.by(), name, reason).await.map(|()| html::text(text!("Unpinned.")))
    })
    .await
}

/// Asks upstream what a tag names, once that was confirmed: it may spend pulls.
pub(super) async fn refresh(context: &PageContext<'_>, form: &Form) -> HttpResponse {
    let (repository, reference, reason) = sent(form);
    let image = find(context, repository, reference).filter(|_| !reason.is_empty());
    match (form.get("confirmed"), image) {
        ("no", _) => {
            let typed = (Action::Refresh, &*reason);
            return show(context, Shown { repository, reference, typed, ..Shown::default() }).await;
        }
        ("yes", _) | (_, None) => {}
        (_, Some(image)) => {
            let fields = [("repository", repository), ("reference", reference), ("reason", &*reason)];
            let body = html! {
                p { (text!("Upstream is asked now what the tag names. When it moved, its manifests are fetched; these are counted. The layers come with the next pull.")) }
                p { (text!("Why")) ": " (reason) }
                (html::confirmation(context, "/image/refresh", &fields, text!("Refresh")))
            };
            return html::page(context, 200, Tab::Images, text!("Refresh {}?", image.name()), body);
        }
    }
    change(context, form, Action::Refresh, |_, reason| async move {
        let named = (repository, reference);
        let (_, refreshed) = changes::refresh(context.state, &context.by(), named, reason).await?;
        let moved = refreshed.before.as_ref() != Some(&refreshed.digest);
        Ok(if moved {
            text!("The tag moved to {}.", refreshed.digest.to_string())
        } else {
            html::text(text!("The tag is unchanged."))
        })
    })
    .await
}

/// Makes a change of the image that a form names, and shows the image with what became of it.
async fn change<F: Future<Output = Result<Markup, Refusal>>>(
    context: &PageContext<'_>,
    form: &Form,
    action: Action,
    change: impl FnOnce(String, String) -> F,
) -> HttpResponse {
    let (repository, reference, reason) = sent(form);
    let outcome = match find(context, repository, reference) {
        None => Err(Refusal::new(404, "MANIFEST_UNKNOWN", text!("no image of this name is cached"))),
        Some(_) if reason.is_empty() => Err(Refusal::new(400, "INVALID", text!("say why"))),
        Some(image) => change(image.name(), reason.clone()).await,
    };
    let shown = Shown { repository, reference, ..Shown::default() };
    match outcome {
        Ok(done) => show(context, Shown { done: Some(done), ..shown }).await,
        Err(refusal) => show(context, Shown { refusal: Some(refusal), typed: (action, &reason), ..shown }).await,
    }
}

/// What a purge would free, and the form that confirms it.
pub(super) async fn confirm(context: &PageContext<'_>) -> HttpResponse {
    let [repository, reference] =
        ["repository", "reference"].map(|name| parameter(context.query, name).unwrap_or_default());
    ask(context, &repository, &reference, "", None).await
}

/// `refusal` is why a purge was refused, and `reason` what was typed for it.
async fn ask(
    context: &PageContext<'_>,
    repository: &str,
    reference: &str,
    reason: &str,
    refusal: Option<&Refusal>,
) -> HttpResponse {
    let would = match changes::select_one(context.state, repository, Some(reference)) {
        Ok(selected) => changes::purge(context.state, &context.by(), selected, true, String::new()).await,
        Err(refusal) => Err(refusal),
    };
    if let (Err(why), None) = (&would, refusal) {
        return html::problem(context, why.status, text!("Not purged"), &sentence(&why.sentence));
    }
    let body = html! {
        @if let Some(refusal) = refusal { p class="bad" role="alert" { (sentence(&refusal.sentence)) } }
        @if let Ok(would) = &would { p { (freed(would, true)) } }
        p { (text!("What other images need stays. The next pull fetches it anew, and is counted.")) }
        form class="line" method="post" action="/image/purge" {
            (named(context, repository, reference))
            (html::reason_field("reason", "reason", reason))
            button class="main" { (text!("Purge")) }
        }
        p { a href="/images" { (text!("All images")) } }
    };
    let status = refusal.map_or(200, |refusal| refusal.status);
    let separator = if reference.contains(':') { '@' } else { ':' };
    html::page(context, status, Tab::Images, text!("Purge {}?", format!("{repository}{separator}{reference}")), body)
}

fn freed(purged: &Purged, would: bool) -> Markup {
    let bytes = html::bytes(purged.freed);
    let manifests = html::count(purged.manifests, text!("manifest"), text!("manifests"));
    let blobs = html::count(purged.blobs, text!("blob"), text!("blobs"));
    let names = html::count(purged.removed, text!("name"), text!("names"));
    match would {
        true => text!("{} would be freed: {} and {}; {} would be forgotten.", bytes, manifests, blobs, names),
        false => text!("{} freed: {} and {}; {} forgotten.", bytes, manifests, blobs, names),
    }
}

pub(super) async fn purge(context: &PageContext<'_>, form: &Form) -> HttpResponse {
    let (repository, reference, reason) = sent(form);
    if reason.is_empty() {
        return ask(context, repository, reference, "", Some(&Refusal::new(400, "INVALID", text!("say why")))).await;
    }
    let purged = match changes::select_one(context.state, repository, Some(reference)) {
        Ok(selected) => changes::purge(context.state, &context.by(), selected, false, reason.clone()).await,
        Err(refusal) => Err(refusal),
    };
    match purged {
        Ok(purged) => {
            let stay = |count| html::count(count, text!("object stays"), text!("objects stay"));
            let held = purged.kept.saturating_sub(purged.reading);
            let body = html! {
                p class="good" role="status" { (text!("Purged.")) " " (freed(&purged, false)) }
                @if held > 0 { p { (text!("{}: hosted here, or the log says why.", stay(held))) } }
                @if purged.reading > 0 { p { (text!("{} until the pulls end that read them.", stay(purged.reading))) } }
                p { a href="/images" { (text!("All images")) } }
            };
            html::page(context, 200, Tab::Images, text!("Purged"), body)
        }
        Err(refusal) => ask(context, repository, reference, &reason, Some(&refusal)).await,
    }
}
