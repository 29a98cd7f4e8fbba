//! The second listener: health, metrics, the JSON API, and pages for people; and the API once more on a local socket, where no
//! throttle and no login keeps an operator from undoing what they configured.
//!
//! `endpoint` has the table of what there is for programs, to which the OpenAPI document is held by a test; `pages` has its own table.
//! actix's router reads both. Every request passes `origin` first, which decides from the request's head alone, and then `authorize`;
//! health needs no login.

mod api;
mod archives;
mod authorize;
mod bans;
mod budget;
mod cache;
mod changes;
mod connection;
mod connections;
mod endpoint;
mod findings;
mod history;
mod image_report;
mod images;
mod json;
mod metrics;
mod name;
mod origin;
mod pages;
mod proof_of_work;
mod sampling;
mod server;
mod shared_answer;
mod state;
mod status;
mod throttles;
mod verify;
mod warm;
mod what_if;

/// Every method and path that the listener answers, as its two tables and so its router have them.
pub fn routes() -> Vec<(&'static str, &'static str)> {
    let endpoints = endpoint::ROUTES.iter().map(|(method, path, _)| (*method, *path));
    endpoints.chain(pages::routes()).collect()
}

pub use self::{
    history::{MINUTE, ReadTotals, Totals},
    origin::AllowedHosts,
    server::{Dependencies, Serving, serve},
    state::{Draining, Reload, Reloads, Settings, Settle},
};
