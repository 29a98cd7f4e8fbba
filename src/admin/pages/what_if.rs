//! *What if*: its form, and what would have become of the pulls that are remembered.

use maud::{Markup, html};

use super::{context::PageContext, html, texts::text};
use crate::{
    admin::{
        json::parameter,
        what_if::{Answer, FRACTIONS, Question, Wrong, answers},
    },
    client::Class,
    limits::budget::{Policy, Replayed},
    upstream::ledger::Balance,
};

/// The fields of [`FRACTIONS`], with what they are called and what is in force.
fn fields(policy: &Policy) -> [(&'static str, &'static str, f64); 5] {
    let [bulk, standard, critical, client_standard, client_bulk] = FRACTIONS;
    let Policy { floors, shares, .. } = policy;
    [
        (bulk, text!("Bulk leaves"), floors.bulk),
        (standard, text!("Standard leaves"), floors.standard),
        (critical, text!("Critical leaves"), floors.critical),
        (client_standard, text!("One standard client may take"), shares.standard),
        (client_bulk, text!("One bulk client may take"), shares.bulk),
    ]
}

/// The form, and what came of it for each identity that has a limit.
pub(super) fn part(context: &PageContext<'_>, identities: &[Balance]) -> Markup {
    let policy = context.state.limits.config().budget.clone();
    let is_asked = parameter(context.query, "what_if").is_some();
    let query = if is_asked { context.query } else { "" };
    let typed = |name: &str| parameter(query, name).unwrap_or_default();
    let names: Vec<String> = identities.iter().map(|left| left.identity.to_string()).collect();
    let accounts = [("", text!("every account"))].into_iter().chain(names.iter().map(|name| (&**name, &**name)));
    html! {
        details id="what-if" open[is_asked] {
            summary { (text!("What if?")) }
            p {
                (text!("The newest pulls, granted and refused, decided once more in their order. The capacity of a budget is what upstream grants in a window. Each pull is decided at once, so one that would have waited counts as refused; of an image that was refused, the pull of its index alone is known."))
            }
            form class="line" method="get" action="/budget#what-if" {
                input type="hidden" name="what_if" value="1";
                @for (name, words, now) in fields(&policy) {
                    @let id = format!("if-{name}");
                    @let value = parameter(query, name).unwrap_or_else(|| now.to_string());
                    (html::field(&id, words, html! { input id=(id) name=(name) value=(value) inputmode="decimal" size="5"; }))
                }
                (html::field("if-limit", text!("Pulls in a window"), html! { input id="if-limit" name="limit" value=(typed("limit")) inputmode="numeric" placeholder=(text!("as it is")) size="8"; }))
                @if identities.len() > 1 { (html::choice_field("account", text!("Whose budget"), accounts, &typed("account"))) }
                label { input type="checkbox" name="keep" value="1" checked[!typed("keep").is_empty()]; " " (text!("a cache that keeps everything")) }
                button { (text!("Decide once more")) }
            }
            @match Question::read(query, &policy) {
                _ if !is_asked => {},
                Err(Wrong::Fraction) => p class="bad" role="alert" { (text!("Write a fraction from 0 to 1, such as 0.25.")) },
                Err(Wrong::Limit) => p class="bad" role="alert" { (text!("Write a number of pulls, at most a million.")) },
                Ok(question) => {
                    @let answers = answers(context.state, &question);
                    @for answer in &answers { (outcome(answer, question.keep)) }
                    @if answers.is_empty() { p { (text!("No upstream has named a limit; write one.")) } }
                },
            }
        }
    }
}

fn outcome(answer: &Answer, keep: bool) -> Markup {
    let Replayed { granted, gained, lost, spared, refused, exhausted, floor, share, least } = answer.replayed;
    let count = answer.granted + answer.refused - if keep { answer.twice } else { 0 };
    let pulls = |number| html::count(number, text!("pull"), text!("pulls"));
    html! {
        h3 { (text!("{}, {} pulls", answer.identity.to_string(), answer.limit)) }
        p {
            @if let Some(since) = answer.since { (text!("Since {}:", html::time(since))) " " }
            (text!("{} granted, of which {} had waited, and {} refused.", answer.granted, answer.queued, answer.refused))
        }
        p {
            b { (text!("{} of {} would have been granted", granted, count)) } "; " (text!("at worst {} left.", html::count(least, text!("pull was"), text!("pulls were")))) " "
            @if gained > 0 { (text!("{} that had been refused.", pulls(gained))) " " }
            @if lost > 0 { (text!("{} that had been granted would have been refused.", pulls(lost))) " " }
            @if spared > 0 { (text!("{} would not have been needed, since the manifest was here by then.", pulls(spared))) " " }
            @if keep { (text!("{} of what had been here would not have been made.", pulls(answer.twice))) " " }
        }
        @if exhausted + floor + share > 0 {
            p {
                (text!("Refused: {} for want of any pull, {} by floors, {} by shares of clients. By class:", exhausted, floor, share)) " "
                @for (class, refused) in Class::ALL.iter().zip(refused).filter(|(_, refused)| *refused > 0) { (class.word()) " " (refused) " " }
            }
        }
    }
}
