//! The registry's port: who is asking, may they, and then the resource.

use std::time::Instant;

use serde_json::json;

use super::answer::{Answer, Body};
use super::content::digest;
use super::exchange::Ask;
use super::fault::{Stage, What};
use super::log::Kind;
use super::pulls::Source;
use super::settings::{Account, Challenge, Limit, Settings};
use super::shared::Shared;
use super::tokens;
use super::{blobs, listings, manifests};

/// Who asks, once that is settled.
#[derive(Clone, Debug)]
pub(super) struct Visitor {
    pub(super) source: Source,
    pub(super) limit: Option<Limit>,
    pub(super) account: Option<Account>,
}

/// Answers a request at the registry's port, the token service included.
pub(super) fn answer(shared: &Shared, ask: &Ask, settings: &Settings) -> Answer {
    if ask.kind == Kind::Token {
        return match shared.faults.strike(Stage::Answer, ask.asked()) {
            Some(what) => faulty(shared, ask, &what),
            None => shared.tokens.answer(&ask.request, settings),
        };
    }
    let mut answer = match visitor(shared, ask, settings) {
        Err(challenge) => challenge,
        Ok(visitor) => match shared.faults.strike(Stage::Answer, ask.asked()) {
            Some(What::PullLimit(retry_after)) => manifests::out_of_pulls(&visitor, retry_after),
            Some(what) => faulty(shared, ask, &what),
            None => resource(shared, ask, settings, &visitor),
        },
    };
    answer.headers.push(("Docker-Distribution-Api-Version", "registry/2.0".to_owned()));
    answer
}

fn resource(shared: &Shared, ask: &Ask, settings: &Settings, visitor: &Visitor) -> Answer {
    match ask.kind {
        Kind::Ping => Answer::json(200, &json!({})),
        Kind::ManifestGet | Kind::ManifestHead => manifests::answer(shared, ask, settings, visitor),
        Kind::BlobGet | Kind::BlobHead => blobs::answer(shared, ask, settings),
        Kind::Tags => listings::tags(shared, ask, settings),
        Kind::Referrers => listings::referrers(shared, ask, settings),
        Kind::CdnGet | Kind::CdnHead | Kind::Token | Kind::Other => match ask.request.method.as_str() {
            "GET" | "HEAD" => Answer::error(404, "NAME_UNKNOWN", "repository name not known to registry"),
            _ => Answer::error(405, "UNSUPPORTED", "this hub takes no writes"),
        },
    }
}

/// Who asks, or the challenge that meets them. A missing repository and a private one look alike, as on Hub.
fn visitor(shared: &Shared, ask: &Ask, settings: &Settings) -> Result<Visitor, Answer> {
    let account = match settings.challenge {
        Challenge::Bearer => {
            let Some(token) = tokens::bearer(&ask.request) else { return Err(challenge(ask, settings, None)) };
            let Some(grant) = shared.tokens.grant(token, &settings.service) else {
                return Err(challenge(ask, settings, Some("invalid_token")));
            };
            if !ask.repository.is_empty() && !grant.pulls(&ask.repository) {
                return Err(challenge(ask, settings, Some("insufficient_scope")));
            }
            settings.accounts.iter().find(|account| Some(&account.name) == grant.account.as_ref())
        }
        Challenge::Basic | Challenge::Nobody => {
            let account = tokens::credentials(&ask.request)
                .and_then(|(name, password)| tokens::login(settings, &name, &password).ok());
            if account.is_none() && settings.challenge == Challenge::Basic {
                return Err(challenge(ask, settings, None));
            }
            account
        }
    };
    if !ask.repository.is_empty() {
        let store = shared.store.read().unwrap();
        let visible = store
            .get(&ask.repository)
            .map(|repository| !repository.private || account.is_some_and(|account| account.reads(&ask.repository)));
        match (visible, settings.challenge) {
            (Some(true), _) => {}
            (None, Challenge::Nobody) => {
                return Err(Answer::error(404, "NAME_UNKNOWN", "repository name not known to registry"));
            }
            _ => return Err(challenge(ask, settings, Some("insufficient_scope"))),
        }
    }
    Ok(match account {
        Some(account) => Visitor {
            source: Source::Account(account.name.clone()),
            limit: account.limit,
            account: Some(account.clone()),
        },
        None => Visitor { source: Source::of(ask.from.ip()), limit: settings.limit, account: None },
    })
}

/// 401 and how to do better.
fn challenge(ask: &Ask, settings: &Settings, error: Option<&str>) -> Answer {
    let realm = format!("http://{}{}", ask.authority, settings.token_path);
    let value = match settings.challenge {
        Challenge::Bearer => bearer_challenge(&realm, &settings.service, &ask.repository, error),
        Challenge::Basic | Challenge::Nobody => "Basic realm=\"hub\"".to_owned(),
    };
    Answer::error(401, "UNAUTHORIZED", "authentication required").with("WWW-Authenticate", value)
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
pub(super) fn at_the_door(shared: &Shared, ask: &Ask, settings: &Settings, what: &What) -> Option<Answer> {
    match what {
        What::TokenRefused => Some(Answer::json(401, &json!({"details": "incorrect username or password"}))),
        What::EvilRealm => {
            let realm = format!("http://{}/token", shared.evil_address);
            let value = bearer_challenge(&realm, &settings.service, &ask.repository, None);
            let refused = Answer::error(401, "UNAUTHORIZED", "authentication required");
            Some(refused.with("WWW-Authenticate", value))
        }
        What::TokenSlow(_) => None,
        what => Some(faulty(shared, ask, what)),
    }
}

/// The answer of a fault that takes the place of a good one.
pub(super) fn faulty(shared: &Shared, ask: &Ask, what: &What) -> Answer {
    match what {
        What::Abuse(retry_after) => Answer::abuse(*retry_after),
        What::Status(429) => Answer::error(429, "TOOMANYREQUESTS", "too many requests"),
        What::Status(status) | What::TokenStatus(status) if *status < 500 => {
            Answer::error(*status, "DENIED", "refused by a fault of the hub")
        }
        What::Status(status) | What::TokenStatus(status) => {
            Answer::error(*status, "UNAVAILABLE", "broken by a fault of the hub")
        }
        What::Html => {
            Answer::new(200).body("text/html; charset=utf-8", "<html><body><h1>It works!</h1></body></html>\n")
        }
        What::NoHead => Answer::error(405, "UNSUPPORTED", "The operation is unsupported."),
        What::RedirectLoop => Answer::redirect(format!("http://{}/loop/1", ask.cdn_authority)),
        What::RedirectPrivate => Answer::redirect("http://169.254.169.254/latest/meta-data/"),
        What::RedirectEvil => Answer::redirect(format!("http://{}{}", shared.evil_address, ask.request.path())),
        What::PullLimit(retry_after) => {
            let source = Source::of(ask.from.ip());
            manifests::out_of_pulls(&Visitor { source, limit: None, account: None }, retry_after.clone())
        }
        What::Endless(size) => {
            let answer = Answer::new(200)
                .with("Content-Type", "application/vnd.oci.image.index.v1+json")
                .with("Docker-Content-Digest", digest(b"endless"));
            Answer { body: Body::Blanks(*size), ..answer }
        }
        _ => Answer::error(500, "UNKNOWN", "a fault that is not an answer"),
    }
}

/// What is left to the visitor, told in the headers; nothing when pulls are not limited.
pub(super) fn with_limit(shared: &Shared, answer: &mut Answer, visitor: &Visitor, remaining: Option<i64>) {
    if let Some(limit) = visitor.limit {
        let window = limit.window.as_secs();
        let remaining = remaining.unwrap_or_else(|| shared.pulls.remaining(&visitor.source, limit, Instant::now()));
        answer.headers.push(("RateLimit-Limit", format!("{};w={window}", limit.pulls)));
        answer.headers.push(("RateLimit-Remaining", format!("{remaining};w={window}")));
    }
    answer.headers.push(("Docker-RateLimit-Source", visitor.source.shown()));
}
