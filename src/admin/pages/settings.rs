//! *Settings*: every setting as it is in force, where its value comes from, and what waits for a restart. Without secrets.

use actix_web::HttpResponse;
use maud::{Markup, html};

use super::{
    context::PageContext,
    html,
    texts::{heads, text},
};
use crate::{
    admin::json::parameter,
    setting::{AfterRestart, EffectiveSetting, SettingOrigin},
};

pub(super) fn page(context: &PageContext<'_>) -> HttpResponse {
    let state = context.state;
    let all = state.reloads.settings();
    let part = parameter(context.query, "part").unwrap_or_default();
    let is_changed = parameter(context.query, "changed").is_some();
    let is_shown = |setting: &&EffectiveSetting| {
        setting.key.contains(part.trim())
            && (!is_changed || setting.differs_from_default() || setting.after_restart.is_some())
    };
    let shown: Vec<&EffectiveSetting> = all.iter().filter(is_shown).collect();
    let waiting = all.iter().filter(|setting| setting.after_restart.is_some()).count();
    let reload = state.reloads.last();
    let body = html! {
        p {
            (text!("Every setting as it is in force. The environment wins over the configuration file, and the file over the default; what each is for stands in {}. Secrets are hidden.", html::code("deploy.toml")))
        }
        @if let Some(reload) = &reload {
            @match &reload.problem {
                Some(problem) => p class="bad" { (text!("The configuration was read again at {} and is not used: {}", html::time(reload.at), problem)) },
                None => p { (text!("The configuration was read again at {}.", html::time(reload.at))) },
            }
        } @else { p { (text!("The configuration was read at the start, and not since.")) } }
        @if waiting > 0 { p class="bad" { (text!("{} for a restart.", html::count(waiting as u64, text!("setting waits"), text!("settings wait")))) } }
        form class="line" method="get" action="/settings" {
            (html::search_field("part", text!("Part of a name"), &part, "mirror.tag_ttl"))
            label { input type="checkbox" name="changed" value="1" checked[is_changed]; " " (text!("only what differs from the default")) }
            button { (text!("Show")) }
        }
        @if shown.is_empty() {
            p { @if is_changed { (text!("Nothing of that differs from the default.")) } @else { (text!("No setting has such a name.")) } }
        }
        @for settings in shown.chunk_by(|one, other| table(&one.key) == table(&other.key)) {
            @let name = settings.first().map_or("", |setting| table(&setting.key));
            h2 { code { "[" (name) "]" } }
            (html::table(name, &heads!["Setting", "In force", "Default", "From"], settings.iter().map(|setting| row(setting)).collect()))
        }
    };
    html::page(context, 200, html::Tab::Settings, text!("Settings"), body)
}

/// The table of the file that a key stands in.
fn table(key: &str) -> &str {
    key.split(['.', '[']).next().unwrap_or(key)
}

fn row(setting: &EffectiveSetting) -> Vec<Markup> {
    let name = setting.key.strip_prefix(table(&setting.key)).unwrap_or(&setting.key);
    let value = html! {
        @if let Some(value) = &setting.value { code { (value) } } @else { (text!("not in force")) }
        @match &setting.after_restart {
            Some(AfterRestart::Value(value)) => { br; span class="chip bad" { (text!("after a restart")) } " " code { (value) } },
            Some(AfterRestart::Gone) => { br; span class="chip bad" { (text!("gone after a restart")) } },
            None => {},
        }
    };
    let default = html! {
        @match &setting.default {
            Some(_) if !setting.differs_from_default() => (text!("the same")),
            Some(default) => code { (default) },
            None => {},
        }
    };
    let origin = html! {
        @match &setting.origin {
            SettingOrigin::Default => (text!("default")),
            SettingOrigin::File(place) => code { (place) },
            SettingOrigin::Environment(variable) => code { (variable) },
        }
    };
    let name = html! { @if name.is_empty() { (text!("entries")) } @else { code { (name.trim_start_matches('.')) } } };
    vec![name, value, default, origin]
}
