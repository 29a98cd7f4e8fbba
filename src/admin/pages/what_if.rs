//! *What if*: the pulls that are remembered, decided once more with other floors, shares and limits, or with a cache that kept everything.

use std::collections::HashSet;

use maud::{Markup, html};

use super::{context::PageContext, html, texts::text};
use crate::{
    admin::json::parameter,
    client::Class,
    limits::budget::{Floors, PastPull, Policy, Replayed, Shares, SpendLog, replay},
    upstream::ledger::{Balance, Spend},
};

/// Fields of the form, with what they are called.
fn fields() -> [(&'static str, &'static str); 5] {
    [
        ("bulk", text!("Bulk leaves")),
        ("standard", text!("Standard leaves")),
        ("critical", text!("Critical leaves")),
        ("client_standard", text!("One standard client may take")),
        ("client_bulk", text!("One bulk client may take")),
    ]
}

/// What was typed, and what is in force where nothing was.
struct Typed {
    fractions: [String; 5],
    limit: String,
    keep: bool,
    is_asked: bool,
}

impl Typed {
    fn of(query: &str, policy: &Policy) -> Typed {
        let is_asked = parameter(query, "what_if").is_some();
        let Policy { floors, shares, .. } = policy;
        let now = [floors.bulk, floors.standard, floors.critical, shares.standard, shares.bulk];
        let mut fractions = now.map(|fraction| fraction.to_string());
        for (field, (name, _)) in fractions.iter_mut().zip(fields()) {
            if let Some(typed) = parameter(query, name).filter(|_| is_asked) {
                *field = typed;
            }
        }
        let limit = parameter(query, "limit").filter(|_| is_asked).unwrap_or_default();
        Typed { fractions, limit, keep: is_asked && parameter(query, "keep").is_some(), is_asked }
    }

    /// The policy that was typed, and the limit if another is meant.
    fn read(&self, policy: &Policy) -> Result<(Policy, Option<u64>), &'static str> {
        let mut read = [0.0; 5];
        for (value, text) in read.iter_mut().zip(&self.fractions) {
            let fraction = text.trim().parse::<f64>().ok().filter(|fraction| (0.0..=1.0).contains(fraction));
            *value = fraction.ok_or(text!("Write a fraction from 0 to 1, such as 0.25."))?;
        }
        let limit = match self.limit.trim() {
            "" => None,
            text => Some(
                text.parse()
                    .ok()
                    .filter(|limit| *limit <= 1_000_000)
                    .ok_or(text!("Write a number of pulls, at most a million."))?,
            ),
        };
        let [bulk, standard, critical, client_standard, client_bulk] = read;
        let floors = Floors { critical, standard, bulk };
        let shares = Shares { standard: client_standard, bulk: client_bulk };
        Ok((Policy { floors, shares, ..policy.clone() }, limit))
    }
}

/// The form, and what came of it for each identity that has a limit. `spends` has the newest first.
pub(super) fn part(context: &PageContext<'_>, identities: &[Balance], spends: &[Spend]) -> Markup {
    let policy = context.state.limits.config().budget.clone();
    let typed = Typed::of(context.query, &policy);
    let read = typed.read(&policy);
    html! {
        details id="what-if" open[typed.is_asked] {
            summary { (text!("What if?")) }
            p {
                (text!("The last {} pulls, decided once more. A pull that was refused then is not among them, and none waits, so that other settings show what they would cost, and not all that they would gain.", spends.len()))
            }
            form class="line" method="get" action="/budget#what-if" {
                input type="hidden" name="what_if" value="1";
                @for ((name, words), value) in fields().iter().zip(&typed.fractions) {
                    @let id = format!("if-{name}");
                    (html::field(&id, words, html! { input id=(id) name=(name) value=(value) inputmode="decimal" size="5"; }))
                }
                (html::field("if-limit", text!("Pulls in a window"), html! { input id="if-limit" name="limit" value=(typed.limit) inputmode="numeric" placeholder=(text!("as it is")) size="8"; }))
                label { input type="checkbox" name="keep" value="1" checked[typed.keep]; " " (text!("a cache that keeps everything")) }
                button { (text!("Decide once more")) }
            }
            @match &read {
                _ if !typed.is_asked => {},
                Err(wrong) => p class="bad" role="alert" { (wrong) },
                Ok((policy, limit)) => {
                    @for left in identities { (outcome(left, spends, policy, *limit, typed.keep)) }
                    @if identities.iter().all(|left| left.limit.is_none()) && limit.is_none() { p { (text!("No upstream has named a limit; write one.")) } }
                },
            }
        }
    }
}

fn outcome(left: &Balance, spends: &[Spend], policy: &Policy, limit: Option<u64>, keep: bool) -> Markup {
    let known = left.limit.and_then(|limit| u64::try_from(limit).ok());
    let Some(limit) = limit.or(known) else { return html! {} };
    let account = left.identity.name();
    let own =
        spends.iter().rev().filter(|spend| spend.upstream == left.identity.upstream && &*spend.identity == account);
    let own: Vec<&Spend> = own.collect();
    // The bytes behind a digest never change: what was fetched twice had been evicted or purged.
    let mut seen = HashSet::new();
    let needed =
        own.iter().filter(|spend| !spend.reference.contains(':') || seen.insert((&spend.repository, &spend.reference)));
    let needed: Vec<PastPull> = needed.map(|spend| past(spend)).collect();
    let twice = own.len() - needed.len();
    let pulls = if keep { needed } else { own.iter().map(|spend| past(spend)).collect() };
    let count = pulls.len();
    let replayed = replay(policy, limit, left.window.unwrap_or(SpendLog::WINDOW), pulls);
    let Replayed { granted, refused, exhausted, floor, share, least } = replayed;
    let classes = [Class::Bulk, Class::Standard, Class::Critical, Class::Exempt];
    html! {
        h3 { (text!("{}, {} pulls", left.identity.to_string(), limit)) }
        p {
            b { (text!("{} of {} would have been granted", granted, count)) } "; " (text!("at worst {} left.", html::count(least, text!("pull was"), text!("pulls were")))) " "
            @if keep { (text!("{} of what had been here would not have been made.", html::count(twice as u64, text!("pull"), text!("pulls")))) " " }
        }
        @if granted < count as u64 {
            p {
                (text!("Refused: {} for want of any pull, {} by floors, {} by shares of clients. By class:", exhausted, floor, share)) " "
                @for (class, refused) in classes.iter().zip(refused).filter(|(_, refused)| *refused > 0) { (class.word()) " " (refused) " " }
            }
        }
    }
}

fn past(spend: &Spend) -> PastPull {
    let client = spend.client.parse().unwrap_or_else(|never: std::convert::Infallible| match never {});
    PastPull { at: spend.at, client, class: spend.class }
}
