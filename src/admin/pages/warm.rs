//! *Warm*: jobs that fetch images before a client asks, with what became of each image; lists with an hour; a form that begins one,
//! and one that cancels it.

use actix_web::HttpResponse;
use maud::{Markup, html};
use url::form_urlencoded::Serializer;

use super::{
    context::PageContext,
    form::Form,
    html::{self, Tab, sentence},
    texts::{heads, text},
};
use crate::{
    admin::{
        changes::{LONGEST, Refusal},
        json::parameter,
        warm::{self, NewWarm, waits_until, word},
    },
    mirror::warm::{Item, Job, JobState, Order, Outcome, Schedule, Wanted, WarmError},
};

/// Images of a job that are shown on one page.
const SHOWN: usize = 100;
/// Images that are named before a job begins.
const NAMED: usize = 20;
/// As the API names what became of an image, in the order of the bar.
const WORDS: [&str; 6] = ["fetched", "here", "waiting", "pending", "evicted", "refused"];

/// What was typed into the form.
#[derive(Default)]
struct Typed {
    images: String,
    platforms: String,
    within: String,
    pinned: bool,
    reason: String,
}

impl Typed {
    fn read(form: &Form) -> Typed {
        Typed {
            images: form.get("images").to_owned(),
            platforms: form.get("platforms").to_owned(),
            within: form.line("within", 20),
            pinned: !form.get("pinned").is_empty(),
            reason: form.line("reason", LONGEST),
        }
    }

    /// As the table of a schedule says, so that it can be begun now.
    fn of(schedule: &Schedule) -> Typed {
        let images: Vec<String> = schedule.images.iter().map(ToString::to_string).collect();
        Typed {
            images: images.join("\n"),
            platforms: schedule.platforms.join(" "),
            pinned: schedule.pinned,
            within: match schedule.pulled_within.is_zero() {
                true => String::new(),
                false => humantime::format_duration(schedule.pulled_within).to_string().replace(' ', ""),
            },
            ..Typed::default()
        }
    }

    /// Names and platforms stand apart by space, commas or lines.
    fn order(&self) -> NewWarm {
        let words = |text: &str| -> Vec<String> {
            let words = text.split(|c: char| c.is_whitespace() || c == ',');
            words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
        };
        NewWarm {
            images: words(&self.images),
            platforms: words(&self.platforms),
            pinned: self.pinned,
            pulled_within: Some(self.within.clone()).filter(|within| !within.is_empty()),
            reason: self.reason.clone(),
        }
    }
}

pub(super) fn page(context: &PageContext<'_>) -> HttpResponse {
    let schedules = context.state.mirror.warm.schedules();
    let named = parameter(context.query, "list");
    let list = named.and_then(|name| schedules.iter().find(|schedule| schedule.name == name).map(Typed::of));
    let is_open = list.is_some();
    show(context, &list.unwrap_or_default(), is_open, None)
}

fn show(context: &PageContext<'_>, typed: &Typed, is_open: bool, refusal: Option<&Refusal>) -> HttpResponse {
    let mut jobs = context.state.mirror.warm.jobs();
    jobs.sort_by_key(|job| std::cmp::Reverse(job.id));
    let schedules = context.state.mirror.warm.schedules();
    let body = html! {
        p {
            (text!("A warm fetches images before a client asks for them. It spends only pulls that no client is expected to need, waits for more, and goes on after a restart."))
        }
        @if let Some(refusal) = refusal { p class="bad" role="alert" { (sentence(&refusal.sentence)) } }
        details open[is_open || refusal.is_some()] {
            summary { (text!("Begin a warm")) }
            (form(context, typed))
        }
        h2 { (text!("Warms")) }
        @if jobs.is_empty() { p { (text!("None was begun.")) } } @else {
            (html::table(text!("Warms"), &heads!["Warm", "State", "Images", "Came", "By", "Why", "Begun"], jobs.iter().map(row).collect()))
        }
        h2 { (text!("Lists with an hour")) }
        @if schedules.is_empty() {
            p { (text!("None. A {} of the configuration is begun by itself at its hour.", html::code("[[warm]]"))) }
        } @else {
            (html::table(text!("Lists with an hour"), &heads!["List", "Images", "Platforms", "Next", "Now"], schedules.iter().map(|schedule| listed(context, schedule)).collect()))
        }
    };
    html::page(context, refusal.map_or(200, |refusal| refusal.status), Tab::Warm, text!("Warm"), body)
}

fn form(context: &PageContext<'_>, typed: &Typed) -> Markup {
    html! {
        form class="narrow wide" method="post" action="/warm/start" {
            (html::token(context))
            label for="images" { (text!("Images, one a line")) }
            textarea id="images" name="images" rows="5" placeholder="alpine:3\nghcr.io/acme/app:1.4" spellcheck="false" autocapitalize="none" { (typed.images) }
            label for="within" { (text!("And what clients pulled within")) }
            input id="within" name="within" value=(typed.within) placeholder="7d" spellcheck="false" autocapitalize="none";
            label { input type="checkbox" name="pinned" value="1" checked[typed.pinned]; " " (text!("and what is pinned")) }
            label for="platforms" { (text!("Platforms; none is all that an image has")) }
            input id="platforms" name="platforms" value=(typed.platforms) placeholder="linux/amd64 linux/arm64" spellcheck="false" autocapitalize="none";
            label for="reason" { (text!("Why")) }
            input id="reason" name="reason" value=(typed.reason) required maxlength=(LONGEST);
            button class="main" { (text!("Show the images")) }
        }
    }
}

/// What the API calls the state of a job or of one of its images, in the language of the page.
fn shown(word: &'static str) -> &'static str {
    match word {
        "fetched" => text!("fetched"),
        "here" => text!("here"),
        "waiting" => text!("waiting"),
        "pending" => text!("pending"),
        "evicted" => text!("evicted"),
        "refused" => text!("refused"),
        "open" => text!("open"),
        "done" => text!("done"),
        "cancelled" => text!("cancelled"),
        other => other,
    }
}

/// A job in the list.
fn row(job: &Job) -> Vec<Markup> {
    let here = job.count(|outcome| outcome.digest().is_some());
    vec![
        html! { a href={ "/warm/" (job.id) } { (job.id) } },
        state(job),
        text!("{} of {} here", here, job.items.len()),
        html::text(html::bytes(job.bytes())),
        html::text(&job.by),
        html::text(&job.reason),
        html::time(job.made_at),
    ]
}

fn state(job: &Job) -> Markup {
    let class = match job.state {
        JobState::Open => "chip on",
        JobState::Done if job.is_complete() => "chip",
        JobState::Done | JobState::Cancelled => "chip bad",
    };
    let words = match job.state {
        JobState::Done if !job.is_complete() => text!("done, not complete"),
        state => shown(word(state)),
    };
    html! { span class=(class) { (words) } }
}

fn listed(context: &PageContext<'_>, schedule: &Schedule) -> Vec<Markup> {
    let next = schedule.next_after(context.now);
    let query = Serializer::new(String::new()).append_pair("list", &schedule.name).finish();
    vec![
        html::text(&schedule.name),
        html! { (schedule.images.len()) @if schedule.pinned { " " (text!("and what is pinned")) } @if !schedule.pulled_within.is_zero() { " " (text!("and what clients pulled within {}", html::about(schedule.pulled_within))) } },
        html::text(if schedule.platforms.is_empty() { text!("all").to_owned() } else { schedule.platforms.join(", ") }),
        html! { (html::time(next)) ", " (html::until(next, context.now)) },
        html! { a href={ "/warm?" (query) } { (text!("Begin it now")) } },
    ]
}

/// One job. `refusal` is why it was not cancelled, and `reason` what was typed.
pub(super) fn one(context: &PageContext<'_>, id: &str, refusal: Option<&Refusal>, reason: &str) -> HttpResponse {
    let Some(job) = id.parse().ok().and_then(|id| context.state.mirror.warm.job(id)) else {
        return html::problem(
            context,
            404,
            text!("No such warm"),
            text!("There is no warm of this number; only the newest that ended are kept."),
        );
    };
    let of = parameter(context.query, "state").filter(|of| WORDS.contains(&of.as_str()));
    let first: usize = parameter(context.query, "first").and_then(|first| first.parse().ok()).unwrap_or(0);
    let mut items = job.items.iter().filter(|item| of.as_ref().is_none_or(|of| item.outcome.word() == of)).skip(first);
    let rows: Vec<_> = items.by_ref().take(SHOWN).map(|item| result(context, item)).collect();
    let next = items.next().map(|_| {
        let mut query = Serializer::new(String::new());
        if let Some(of) = &of {
            query.append_pair("state", of);
        }
        format!("/warm/{id}?{}", query.append_pair("first", &(first + SHOWN).to_string()).finish())
    });
    let waits = job.items.iter().filter_map(|item| waits_until(context.state, item)).min();
    let body = html! {
        @if let Some(refusal) = refusal { p class="bad" role="alert" { (sentence(&refusal.sentence)) } }
        (bar(&job))
        (html::facts(&[
            (text!("State"), html! { (state(&job)) @if let Some(ended) = job.ended_at { " " (html::time(ended)) } }),
            (text!("Begun"), text!("{} by {}", html::time(job.made_at), html::bold(&job.by))),
            (text!("Why"), html::text(if job.reason.is_empty() { text!("no reason was given") } else { &job.reason })),
            (text!("Platforms"), html::text(if job.platforms.is_empty() { text!("all that an image has").to_owned() } else { job.platforms.join(", ") })),
            (text!("Came"), text!("{} of layers", html::bytes(job.bytes()))),
            (text!("Goes on"), html! {
                @match waits {
                    _ if job.state != JobState::Open => (text!("no more")),
                    Some(until) if until > context.now => { (text!("{}, {}, by forecast", html::time(until), html::until(until, context.now))) },
                    _ => (text!("now")),
                }
            }),
        ]))
        @if job.state == JobState::Open {
            h2 { (text!("Cancel")) }
            p { (text!("What came stays. A layer that arrives goes on arriving.")) }
            form class="line" method="post" action={ "/warm/" (id) "/cancel" } {
                (html::token(context))
                (html::reason_field("reason", "reason", reason))
                button class="main" { (text!("Cancel the warm")) }
            }
        }
        h2 { (text!("Images")) }
        @if rows.is_empty() { p { (text!("No image is in this state.")) } } @else {
            (html::table(text!("Images"), &heads!["Image", "State", "What became of it"], rows))
        }
        @if let Some(next) = next { p { a rel="next" href=(next) { (text!("Next page")) } } }
        p { a href="/warm" { (text!("All warms")) } }
    };
    html::page(context, refusal.map_or(200, |refusal| refusal.status), Tab::Warm, text!("Warm {}", id), body)
}

/// How many images are in each state, as a bar and as links to them.
fn bar(job: &Job) -> Markup {
    let counts = WORDS.map(|word| (word, job.count(|outcome| outcome.word() == word)));
    let all = job.items.len().max(1);
    let said: Vec<String> =
        counts.iter().filter(|(_, count)| *count > 0).map(|(word, count)| format!("{count} {}", shown(word))).collect();
    let mut x = 0;
    let parts: Vec<_> = counts
        .iter()
        .map(|(word, count)| {
            let width = 1000 * count / all;
            x += width;
            (*word, x - width, width)
        })
        .collect();
    html! {
        svg class="gauge" viewBox="0 0 1000 40" preserveAspectRatio="none" role="img" aria-label=(said.join(", ")) {
            rect class="track" x="0" y="4" width="1000" height="32" {}
            @for (word, x, width) in parts { rect class={ "warm-" (word) } x=(x) y="4" width=(width) height="32" {} }
        }
        ul class="flow legend" {
            li { a href={ "/warm/" (job.id) } { (html::count(job.items.len() as u64, text!("image"), text!("images"))) } }
            @for (word, count) in counts {
                @if count > 0 { li class={ "warm-" (word) } { a href={ "/warm/" (job.id) "?state=" (word) } { (count) " " (shown(word)) } } }
            }
        }
    }
}

fn result(context: &PageContext<'_>, item: &Item) -> Vec<Markup> {
    let became = html! {
        @match &item.outcome {
            Outcome::Pending => (text!("its turn has not come")),
            Outcome::Waiting { until, why, .. } => {
                @let until = waits_until(context.state, item).unwrap_or(*until);
                (why) "; " (text!("tried again {}, at {}", html::until(until, context.now), html::time(until)))
            },
            Outcome::Here { .. } => (text!("all of it was here already")),
            Outcome::Fetched { bytes, manifests, .. } => { (text!("{} in {} and their layers", html::bytes(*bytes), html::count(*manifests, text!("manifest"), text!("manifests")))) },
            Outcome::Refused { why } => (why),
            Outcome::Evicted => (text!("some of it was evicted or purged before the job ended")),
        }
    };
    let class = match &item.outcome {
        Outcome::Refused { .. } | Outcome::Evicted => "chip bad",
        Outcome::Here { .. } | Outcome::Fetched { .. } => "chip on",
        _ => "chip",
    };
    let chip = html! { span class=(class) { (shown(item.outcome.word())) } };
    vec![image(&item.image, item.outcome.digest().is_some()), chip, became]
}

fn image(image: &Wanted, is_here: bool) -> Markup {
    let (repository, reference) = (format!("{}/{}", image.upstream, image.repository), image.reference.to_string());
    let name = html::image(&repository, &reference);
    let pairs = [("repository", &repository), ("reference", &reference)];
    let query = Serializer::new(String::new()).extend_pairs(pairs).finish();
    html! { @if is_here { a href={ "/image?" (query) } { (name) } } @else { (name) } }
}

/// Shows what would be warmed, and begins it once that was confirmed.
pub(super) async fn start(context: &PageContext<'_>, form: &Form) -> HttpResponse {
    let typed = Typed::read(form);
    let ordered = match typed.reason.is_empty() {
        true => Err(Refusal::new(400, "INVALID", text!("say why"))),
        false => warm::order(context.state, &context.by(), typed.order()),
    };
    let order = match ordered {
        Ok(order) => order,
        Err(refusal) => return show(context, &typed, true, Some(&refusal)),
    };
    match form.get("confirmed") {
        "yes" => match warm::begin(context.state, &context.by(), order).await {
            Ok(job) => html::see_other(&format!("/warm/{}", job.id), None),
            Err(refusal) => show(context, &typed, true, Some(&refusal)),
        },
        "no" => show(context, &typed, true, None),
        _ => confirm(context, &typed, &order),
    }
}

fn confirm(context: &PageContext<'_>, typed: &Typed, order: &Order) -> HttpResponse {
    let images: Vec<&Wanted> = {
        let mut seen = std::collections::HashSet::new();
        order.images.iter().filter(|image| seen.insert(*image)).collect()
    };
    let count = html::count(images.len() as u64, text!("image"), text!("images"));
    let typed_in = [("images", &typed.images), ("platforms", &typed.platforms), ("within", &typed.within)];
    let mut fields: Vec<(&str, &str)> = typed_in.iter().map(|(name, value)| (*name, value.as_str())).collect();
    fields.push(("reason", &typed.reason));
    fields.extend(typed.pinned.then_some(("pinned", "1")));
    let body = html! {
        p {
            @if order.platforms.is_empty() {
                (text!("This fetches what is not here of {}, all platforms of each.", html::bold(&count)))
            } @else {
                (text!("This fetches what is not here of {}, of {}.", html::bold(&count), order.platforms.join(", ")))
            }
            " " (text!("Each manifest that comes is a pull where pulls are counted."))
        }
        ul {
            @for wanted in images.iter().take(NAMED) { li { (image(wanted, false)) } }
            @if images.len() > NAMED { li { (text!("and {}", html::count((images.len() - NAMED) as u64, text!("other"), text!("others")))) } }
        }
        p { (text!("Why")) ": " (typed.reason) }
        (html::confirmation(context, "/warm/start", &fields, text!("Warm {}", count)))
    };
    html::page(context, 200, Tab::Warm, text!("Warm {}?", count), body)
}

pub(super) async fn cancel(context: &PageContext<'_>, id: &str, form: &Form) -> HttpResponse {
    let reason = form.line("reason", LONGEST);
    let job = id.parse().ok().and_then(|id| context.state.mirror.warm.job(id));
    let ended = match (job, form.get("confirmed")) {
        (None, _) => Err(Refusal::new(404, "NOT_FOUND", text!("there is no warm of this number"))),
        (_, "no") => return one(context, id, None, &reason),
        _ if reason.is_empty() => Err(Refusal::new(400, "INVALID", text!("say why"))),
        (Some(job), "yes") => warm::end(context.state, &context.by(), job.id, reason.clone()).await,
        (Some(job), _) if job.state == JobState::Open => return confirm_end(context, &job, &reason),
        (Some(_), _) => Err(WarmError::Ended.into()),
    };
    match ended {
        Ok(_) => html::see_other(&format!("/warm/{id}"), None),
        Err(refusal) => one(context, id, Some(&refusal), &reason),
    }
}

fn confirm_end(context: &PageContext<'_>, job: &Job, reason: &str) -> HttpResponse {
    let here = job.count(|outcome| outcome.digest().is_some());
    let body = html! {
        p { (text!("{} of {} here", here, job.items.len())) ". " (text!("What came stays. A layer that arrives goes on arriving.")) }
        p { (text!("Why")) ": " (reason) }
        (html::confirmation(context, &format!("/warm/{}/cancel", job.id), &[("reason", reason)], text!("Cancel the warm")))
    };
    html::page(context, 200, Tab::Warm, text!("Cancel warm {}?", job.id), body)
}
