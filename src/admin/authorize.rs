//! Who asks the admin listener, and may they: host and origin → throttle → login. The local socket is past all three.

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE},
};

use super::{endpoint::Endpoint, json::refuse, origin, state::State};
use crate::{
    client::{Client, ClientKey},
    identity::{AuthError, Credentials},
    limits::{
        Access, Account, Role, address,
        audit::Actor,
        headers,
        permit::{AdmissionRequest, Denied, Permit, RequestInfo, RequestKind},
    },
};

/// Marks the connections of the local socket.
pub(super) struct Local;

/// A visitor who was let in.
pub(super) struct Authorized {
    pub(super) operator: Actor,
    permit: Option<Permit>,
    now: SystemTime,
}

impl Authorized {
    /// GitLab's header fields, of the throttle with the least left.
    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        if let Some(standing) = self.permit.as_ref().and_then(|permit| permit.decision.tightest()) {
            put(headers, &headers::gitlab(&standing, self.now));
        }
    }
}

fn put(headers: &mut HeaderMap, fields: &headers::HeaderFields) {
    for (name, value) in fields {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// Who asks, or the answer that they get instead.
pub(super) async fn authorize(
    state: &State,
    request: &HttpRequest,
    endpoint: Endpoint,
    access: Access,
) -> Result<Authorized, HttpResponse> {
    let now = SystemTime::now();
    let is_local = request.conn_data::<Local>().is_some();
    if access == Access::Health || is_local {
        let operator = Actor::new("local", None);
        return Ok(Authorized { operator, permit: None, now });
    }
    let head = origin::Head { takes_tar: endpoint.takes_tar(), ..origin::Head::of(request) };
    if let Err(refusal) = origin::judge(&state.settings.hosts, &head) {
        return Err(refuse(refusal.status(), "DENIED", &refusal.to_string()));
    }
    let address = address(state, request);
    let anonymous = Client::anonymous(address::key_address(address), address);
    if !needs_login(state, request) {
        let permit = throttle(state, anonymous, endpoint.kind(), now).map_err(|refusal| *refusal)?;
        return Ok(Authorized { operator: Actor::new("operator", Some(address)), permit: Some(permit), now });
    }
    let account = match log_in(state, request, address).await {
        Ok(account) => account,
        Err(refusal) => {
            throttle(state, anonymous, endpoint.kind(), now).map_err(|refusal| *refusal)?;
            return Err(refusal);
        }
    };
    let client = Client { key: ClientKey::Principal(account.name.clone()), ..anonymous };
    let permit = throttle(state, client, endpoint.kind(), now).map_err(|refusal| *refusal)?;
    let operator = Actor::new(&*account.name, Some(address));
    if !account.role.may(access) {
        let attempt = format!("{} {}", request.method(), request.path());
        state.authenticator.note_refusal(&operator, &attempt, "not allowed to", now);
        return Err(refuse(403, "DENIED", &beyond(account.role, access)));
    }
    Ok(Authorized { operator, permit: Some(permit), now })
}

fn beyond(role: Role, access: Access) -> String {
    let wanted = match access {
        Access::Change => "admin",
        Access::Metrics => "metrics, viewer or admin",
        Access::Read | Access::Health => "viewer or admin",
    };
    format!("an account with role {wanted} is required, and this one has role {}", role.word())
}

/// The account whose Basic credentials the request carries, or the answer for all others.
async fn log_in(state: &State, request: &HttpRequest, from: IpAddr) -> Result<Account, HttpResponse> {
    let header = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
    let Some(credentials) = header.and_then(Credentials::basic) else { return Err(challenge()) };
    let principal = state.authenticator.verify(&credentials, from).await.map_err(|error| {
        let mut response = refuse(status(error), "TOOMANYREQUESTS", &error.to_string());
        response.headers_mut().insert(RETRY_AFTER, error.retry_after().into());
        response
    })?;
    let account = principal.and_then(|principal| state.authenticator.account(&principal));
    account.ok_or_else(challenge)
}

fn challenge() -> HttpResponse {
    let mut response = refuse(401, "UNAUTHORIZED", "an account with a role for this is required");
    let realm = HeaderValue::from_static(r#"Basic realm="weir admin", charset="UTF-8""#);
    response.headers_mut().insert(WWW_AUTHENTICATE, realm);
    response
}

/// How a login that was not verified is answered.
pub(super) fn status(error: AuthError) -> u16 {
    match error {
        AuthError::Busy => 503,
        AuthError::TooManyFailures(_) => 429,
    }
}

/// Whether the visitor must log in. Not at loopback; but what comes through a proxy there, or by the name of `public_url` or
/// one of `admin.hosts`, may come from anywhere: the message of each ban names the first.
pub(super) fn needs_login(state: &State, request: &HttpRequest) -> bool {
    let host = origin::Head::of(request).host.unwrap_or("?");
    let is_configured = state.settings.hosts.is_configured(host) && !origin::is_loopback(host);
    let headers = request.headers();
    let is_forwarded = ["forwarded", "x-forwarded-for", "x-real-ip"].iter().any(|name| headers.contains_key(*name));
    state.settings.login || is_configured || is_forwarded
}

/// Counts a request for a page by `operator`, who is an account when `is_account`, and anonymous else.
pub(super) fn authorize_page(
    state: &State,
    operator: Actor,
    is_account: bool,
) -> Result<Authorized, Box<HttpResponse>> {
    let now = SystemTime::now();
    let address = operator.from.unwrap_or(IpAddr::from([0, 0, 0, 0]));
    let anonymous = Client::anonymous(address::key_address(address), address);
    let client = match is_account {
        true => Client { key: ClientKey::Principal(operator.name.as_str().into()), ..anonymous },
        false => anonymous,
    };
    let permit = throttle(state, client, RequestKind::AdminWeb, now)?;
    Ok(Authorized { operator, permit: Some(permit), now })
}

fn throttle(state: &State, client: Client, kind: RequestKind, now: SystemTime) -> Result<Permit, Box<HttpResponse>> {
    let about = RequestInfo { method: "", repository: "", reference: "" };
    let request = AdmissionRequest { client: Arc::new(client), kind, about, bypass: None };
    let text = &state.limits.config().response_text;
    state.limits.admit(&request, now).map_err(|denied| Box::new(refused(&denied, kind, text)))
}

/// The custom text is the whole body for a person, and the sentence for a program.
fn refused(denied: &Denied, kind: RequestKind, text: &str) -> HttpResponse {
    let mut response = match kind {
        RequestKind::AdminWeb => {
            HttpResponse::TooManyRequests().content_type("text/plain; charset=utf-8").body(text.to_owned())
        }
        _ => refuse(denied.status(), "TOOMANYREQUESTS", &denied.message),
    };
    put(response.headers_mut(), &denied.fields);
    response
}

/// From where, behind trusted proxies.
pub(super) fn address(state: &State, request: &HttpRequest) -> IpAddr {
    let peer = request.peer_addr().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.ip());
    let texts = |name: &str| {
        let values = request.headers().get_all(name).map(|value| value.to_str().unwrap_or("?"));
        values.collect::<Vec<_>>().into_iter()
    };
    address::client_address(peer, &state.limits.config().trusted_proxies, texts("x-forwarded-for"), texts("forwarded"))
}
