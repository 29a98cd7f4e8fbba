//! One request for a page: the viewer, the session, and what the audit knows them by.

use std::{
    net::IpAddr,
    time::{Instant, SystemTime},
};

use actix_web::HttpRequest;

use super::page::LIVE;
use crate::{
    admin::{authorize, origin, state::State},
    identity::session::{SessionId, Sessions},
    limits::{Access, Account, audit::Actor},
};

/// The person before the browser.
pub(super) enum Viewer {
    /// At loopback, where no login is needed.
    Operator,
    /// Logged in.
    Account(Account),
    /// Anybody.
    Anonymous,
}

impl Viewer {
    pub(super) fn is_operator(&self) -> bool {
        self.may(Access::Change)
    }

    /// Whether an operator's pages are for them, too.
    pub(super) fn sees_all(&self) -> bool {
        self.may(Access::Read)
    }

    fn may(&self, access: Access) -> bool {
        match self {
            Viewer::Operator => true,
            Viewer::Account(account) => account.role.may(access),
            Viewer::Anonymous => false,
        }
    }
}

/// One request for a page.
pub(super) struct PageContext<'a> {
    pub(super) state: &'a State,
    pub(super) viewer: Viewer,
    /// The session, or what stands in for one before login.
    pub(super) session: SessionId,
    /// The browser does not have it yet.
    pub(super) is_new: bool,
    /// Neither TLS nor loopback.
    pub(super) in_clear: bool,
    pub(super) from: IpAddr,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) now: SystemTime,
}

impl<'a> PageContext<'a> {
    /// Of this request. When its head was not judged well, the viewer is anonymous.
    pub(super) fn of(
        state: &'a State,
        request: &'a HttpRequest,
        head: &origin::Head<'_>,
        is_good: bool,
        now: SystemTime,
    ) -> PageContext<'a> {
        let hosts = &state.settings.hosts;
        let in_clear = !head.host.is_some_and(|host| hosts.is_private(host));
        let from = authorize::address(state, request);
        let sent =
            cookie(request, if in_clear { IN_CLEAR } else { SECURE }).filter(|_| is_good).and_then(SessionId::parse);
        let find = if request.path() == LIVE { Sessions::look } else { Sessions::principal };
        let principal = sent.as_ref().and_then(|session| find(&state.sessions, session, Instant::now()));
        let account = principal.and_then(|principal| state.authenticator.account(&principal));
        let account = account.filter(|account| account.role.has_pages());
        let viewer = match account {
            Some(account) => Viewer::Account(account),
            None if is_good && !authorize::needs_login(state, request) => Viewer::Operator,
            None => Viewer::Anonymous,
        };
        let is_new = sent.is_none();
        let session = sent.unwrap_or_else(SessionId::random);
        PageContext {
            state,
            viewer,
            session,
            is_new,
            in_clear,
            from,
            path: request.path(),
            query: request.query_string(),
            now,
        }
    }

    pub(super) fn token(&self) -> String {
        self.state.sessions.token(&self.session)
    }

    pub(super) fn fresh_cookie(&self) -> Option<String> {
        self.is_new.then(|| self.cookie(&self.session))
    }

    pub(super) fn cookie(&self, session: &SessionId) -> String {
        let (cookie, secure) = if self.in_clear { (IN_CLEAR, "") } else { (SECURE, "; Secure") };
        format!("{cookie}={}; Path=/; HttpOnly; SameSite=Strict{secure}", session.text())
    }

    /// The name by which the audit knows the visitor.
    pub(super) fn by(&self) -> Actor {
        let name = match &self.viewer {
            Viewer::Operator => "operator",
            Viewer::Account(account) => &account.name,
            Viewer::Anonymous => "anonymous",
        };
        Actor::new(name, Some(self.from))
    }

    pub(super) fn refused(&self, attempt: &str, reason: &str) {
        self.state.authenticator.note_refusal(&self.by(), attempt, reason, self.now);
    }
}

const SECURE: &str = "__Host-weir";
const IN_CLEAR: &str = "weir";

/// The value of the cookie of this name.
pub(super) fn cookie<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    let lines = request.headers().get_all("cookie").filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| value)
}
