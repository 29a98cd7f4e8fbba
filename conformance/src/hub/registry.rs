//! The registry's port: who is asking, may they, and then the resource.

use serde_json::json;

use super::exchange::Exchange;
use super::fault::{Stage, What};
use super::fault_response::faulty;
use super::log::Kind;
use super::pulls::Source;
use super::requester::{Requester, out_of_pulls};
use super::response::Response;
use super::settings::{Challenge, Settings};
use super::shared::Shared;
use super::tokens;
use super::{blobs, listings, manifests};

/// Answers a request at the registry's port, the token service included.
pub(super) fn answer(shared: &Shared, exchange: &Exchange, settings: &Settings) -> Response {
    if exchange.kind == Kind::Token {
        return match shared.faults.strike(Stage::Response, exchange.asked()) {
            Some(what) => faulty(shared, exchange, &what),
            None => shared.tokens.answer(&exchange.request, settings),
        };
    }
    let mut answer = match requester(shared, exchange, settings) {
        Err(challenge) => challenge,
        Ok(requester) => match shared.faults.strike(Stage::Response, exchange.asked()) {
            Some(What::PullLimit(retry_after)) => out_of_pulls(&requester, retry_after),
            Some(what) => faulty(shared, exchange, &what),
            None => resource(shared, exchange, settings, &requester),
        },
    };
    answer.headers.push(("Docker-Distribution-Api-Version", "registry/2.0".to_owned()));
    answer
}

fn resource(shared: &Shared, exchange: &Exchange, settings: &Settings, requester: &Requester) -> Response {
    match exchange.kind {
        Kind::Ping => Response::json(200, &json!({})),
        Kind::ManifestGet | Kind::ManifestHead => manifests::answer(shared, exchange, settings, requester),
        Kind::BlobGet | Kind::BlobHead => blobs::answer(shared, exchange, settings),
        Kind::Tags => listings::tags(shared, exchange, settings),
        Kind::Referrers => listings::referrers(shared, exchange, settings),
        Kind::CdnGet | Kind::CdnHead | Kind::Token | Kind::Other => match exchange.request.method.as_str() {
            "GET" | "HEAD" => Response::error(404, "NAME_UNKNOWN", "repository name not known to registry"),
            _ => Response::error(405, "UNSUPPORTED", "this hub takes no writes"),
        },
    }
}

/// Who asks, or the challenge that meets them. A missing repository and a private one look alike, as on Hub.
fn requester(shared: &Shared, exchange: &Exchange, settings: &Settings) -> Result<Requester, Response> {
    let account = match settings.challenge {
        Challenge::Bearer => {
            let Some(token) = tokens::bearer(&exchange.request) else {
                return Err(challenge(exchange, settings, None));
            };
            let Some(grant) = shared.tokens.grant(token, &settings.service) else {
                return Err(challenge(exchange, settings, Some("invalid_token")));
            };
            if !exchange.repository.is_empty() && !grant.pulls(&exchange.repository) {
                return Err(challenge(exchange, settings, Some("insufficient_scope")));
            }
            settings.accounts.iter().find(|account| Some(&account.name) == grant.account.as_ref())
        }
        Challenge::Basic | Challenge::Nobody => {
            let account = tokens::credentials(&exchange.request)
                .and_then(|(name, password)| tokens::login(settings, &name, &password).ok());
            if account.is_none() && settings.challenge == Challenge::Basic {
                return Err(challenge(exchange, settings, None));
            }
            account
        }
    };
    if !exchange.repository.is_empty() {
        let store = shared.store.read().unwrap();
        let visible = store.get(&exchange.repository).map(|repository| {
            !repository.private || account.is_some_and(|account| account.reads(&exchange.repository))
        });
        match (visible, settings.challenge) {
            (Some(true), _) => {}
            (None, Challenge::Nobody) => {
                return Err(Response::error(404, "NAME_UNKNOWN", "repository name not known to registry"));
            }
            _ => return Err(challenge(exchange, settings, Some("insufficient_scope"))),
        }
    }
    Ok(match account {
        Some(account) => Requester {
            source: Source::Account(account.name.clone()),
            limit: account.limit,
            account: Some(account.clone()),
        },
        None => Requester { source: Source::of(exchange.from.ip()), limit: settings.limit, account: None },
    })
}

/// 401 and how to do better.
fn challenge(exchange: &Exchange, settings: &Settings, error: Option<&str>) -> Response {
    let realm = format!("http://{}{}", exchange.authority, settings.token_path);
    let value = match settings.challenge {
        Challenge::Bearer => bearer_challenge(&realm, &settings.service, &exchange.repository, error),
        Challenge::Basic | Challenge::Nobody => "Basic realm=\"hub\"".to_owned(),
    };
    Response::error(401, "UNAUTHORIZED", "authentication required").with("WWW-Authenticate", value)
}

fn bearer_challenge(realm: &str, service: &str, repository: &str, error: Option<&str>) -> String {
    let mut value = format!("Bearer realm=\"{realm}\",service=\"{service}\"");
    if !repository.is_empty() {
        value.push_str(&format!(",scope=\"repository:{repository}:pull\""));
    }
    if let Some(error) = error {
        value.push_str(&format!(",error=\"{error}\""));
    }
    value
}

/// The answer of a fault that strikes before authorization was looked at; `None` when it only delays.
pub(super) fn before_authorization(
    shared: &Shared,
    exchange: &Exchange,
    settings: &Settings,
    what: &What,
) -> Option<Response> {
    match what {
        What::TokenRefused => Some(Response::json(401, &json!({"details": "incorrect username or password"}))),
        What::EvilRealm => {
            let realm = format!("http://{}/token", shared.hostile_address);
            let value = bearer_challenge(&realm, &settings.service, &exchange.repository, None);
            let refused = Response::error(401, "UNAUTHORIZED", "authentication required");
            Some(refused.with("WWW-Authenticate", value))
        }
        What::TokenSlow(_) => None,
        what => Some(faulty(shared, exchange, what)),
    }
}
