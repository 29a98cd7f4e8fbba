//! The token service: who may pull what, for how long.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use super::content::digest;
use super::log::Authorization;
use super::response::Response;
use super::settings::{Account, Settings};
use super::wire::Request;

/// Expired tokens are forgotten when there are more than this.
const MANY: usize = 10_000;

/// The tokens that were given out.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<Issued>);

#[derive(Debug, Default)]
struct Issued {
    next: u64,
    grants: HashMap<String, Grant>,
}

/// What a token is good for.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) account: Option<String>,
    service: String,
    /// Repositories that may be pulled.
    pull: Vec<String>,
    expires: Instant,
}

impl Grant {
    pub(super) fn pulls(&self, repository: &str) -> bool {
        self.pull.iter().any(|name| name == repository)
    }
}

impl Tokens {
    /// The grant behind a token, if the hub gave it, for this service, and it has not expired.
    pub(super) fn grant(&self, token: &str, service: &str) -> Option<Grant> {
        let given = self.0.lock().unwrap();
        given.grants.get(token).filter(|grant| grant.service == service && grant.expires > Instant::now()).cloned()
    }

    /// Makes every token given so far invalid, as a registry does that changes its key.
    pub(super) fn revoke(&self) {
        self.0.lock().unwrap().grants.clear();
    }

    fn give(&self, grant: Grant) -> String {
        let mut given = self.0.lock().unwrap();
        if given.grants.len() > MANY {
            let now = Instant::now();
            given.grants.retain(|_, grant| grant.expires > now);
        }
        given.next += 1;
        let token = digest(format!("token {} {:?}", given.next, grant.expires).as_bytes()).split_off(7);
        given.grants.insert(token.clone(), grant);
        token
    }

    /// Answers at the token service: GET with Basic, or the OAuth2 POST with a password.
    ///
    /// A token is given for whatever is asked, as Hub does: that the repository is private or missing is said at the registry.
    pub(super) fn answer(&self, request: &Request, settings: &Settings) -> Response {
        let mut asked = request.query();
        let account = match request.method.as_str() {
            "GET" => match credentials(request) {
                None => Ok(None),
                Some((name, password)) => login(settings, &name, &password).map(Some),
            },
            "POST" => {
                asked = url::form_urlencoded::parse(&request.body).into_owned().collect();
                let field = |name: &str| asked.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value);
                match field("grant_type") {
                    "password" => login(settings, field("username"), field("password")).map(Some),
                    _ => return Response::error(400, "UNSUPPORTED", "only grant_type=password is supported"),
                }
            }
            _ => return Response::error(405, "UNSUPPORTED", "GET or POST"),
        };
        let Ok(account) = account else {
            return Response::json(401, &json!({"details": "incorrect username or password"}));
        };
        let service = asked.iter().find(|(key, _)| key == "service").map_or("", |(_, value)| value);
        let scopes = asked.iter().filter(|(key, _)| key == "scope").flat_map(|(_, value)| value.split(' '));
        let life = settings.token_life;
        let token = self.give(Grant {
            account: account.map(|account| account.name.clone()),
            service: service.to_owned(),
            pull: scopes.filter_map(pulled).map(str::to_owned).collect(),
            expires: Instant::now() + life,
        });
        token_body(&token, life)
    }
}

fn token_body(token: &str, life: Duration) -> Response {
    let issued_at = humantime::format_rfc3339_nanos(SystemTime::now()).to_string();
    Response::json(
        200,
        &json!({"token": token, "access_token": token, "expires_in": life.as_secs(), "issued_at": issued_at}),
    )
}

/// The repository of a scope `repository:<name>:<actions>` whose actions include `pull`.
pub(super) fn pulled(scope: &str) -> Option<&str> {
    let (name, actions) = scope.strip_prefix("repository:")?.rsplit_once(':')?;
    actions.split(',').any(|action| action == "pull" || action == "*").then_some(name)
}

/// The account of that name and password.
pub(super) fn login<'a>(settings: &'a Settings, name: &str, password: &str) -> Result<&'a Account, Refused> {
    settings.accounts.iter().find(|account| account.name == name && account.password == password).ok_or(Refused)
}

/// ParseError name or password.
#[derive(Debug)]
pub(super) struct Refused;

/// Name and password of Basic credentials.
pub(super) fn credentials(request: &Request) -> Option<(String, String)> {
    let value = scheme(request.header("authorization")?, "basic")?;
    let decoded = String::from_utf8(BASE64_STANDARD.decode(value).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

/// The token of Bearer credentials.
pub(super) fn bearer(request: &Request) -> Option<&str> {
    scheme(request.header("authorization")?, "bearer")
}

fn scheme<'a>(value: &'a str, scheme: &str) -> Option<&'a str> {
    let (found, rest) = value.split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

/// The credential, as the log shows it.
pub(super) fn shown(request: &Request) -> Authorization {
    match request.header("authorization") {
        None => Authorization::None,
        Some(_) if bearer(request).is_some() => Authorization::Bearer,
        Some(_) => credentials(request).map_or(Authorization::Other, |(name, _)| Authorization::Basic(name)),
    }
}
