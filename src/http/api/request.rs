//! A request as the handlers see it: what the path names, who asks, and the parts of the head that they read.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use actix_http::{
    Method, RequestHead,
    header::{HOST, HeaderMap, HeaderName, HeaderValue},
};

use super::{
    body::RequestBody,
    path::{PathError, Resource},
};
use crate::{
    client::{Client, ClientKey},
    limits::permit::RequestInfo,
    mirror::Lookup,
    oci::Name,
};

/// Bytes of a host with its port that are repeated to a client (RFC 1035 section 2.3.4).
const MAX_HOST: usize = 255 + ":65535".len();

/// A request that was admitted and whose path was understood.
pub(crate) struct Request {
    http: actix_http::Request,
    pub(crate) client: Arc<Client>,
    pub(crate) resource: Result<Resource, PathError>,
    /// The repository that the path names, once it was routed.
    pub(crate) repository: Option<Repository>,
    /// Whether the listener asks for a password.
    pub(crate) login: bool,
    /// The port of a listener that does, if there is one.
    login_port: Option<u16>,
    /// Whether no throttle counts it.
    pub(crate) exempt: bool,
    body: RefCell<Option<RequestBody>>,
}

/// A repository. What is mirrored is read-only by being another variant than what is hosted.
pub(crate) enum Repository {
    Mirrored {
        lookup: Lookup,
        /// The `ns` that decided, to be echoed.
        namespace: Option<HeaderValue>,
    },
    Hosted(Name),
}

impl Repository {
    /// The repository with its registry, if it is mirrored: `docker.io/library/busybox`.
    pub(crate) fn display_name(&self) -> String {
        match self {
            Repository::Mirrored { lookup, .. } => format!("{}/{}", lookup.upstream, lookup.repository),
            Repository::Hosted(name) => name.to_string(),
        }
    }
}

impl Request {
    pub(crate) fn new(
        http: actix_http::Request,
        client: Arc<Client>,
        resource: Result<Resource, PathError>,
        login: bool,
        login_port: Option<u16>,
        body: Option<RequestBody>,
    ) -> Request {
        Request { http, client, resource, repository: None, login, login_port, exempt: false, body: RefCell::new(body) }
    }

    pub(crate) fn head(&self) -> &RequestHead {
        self.http.head()
    }

    pub(crate) fn method(&self) -> &Method {
        self.http.method()
    }

    pub(crate) fn is_head(&self) -> bool {
        *self.http.method() == Method::HEAD
    }

    pub(crate) fn path(&self) -> &str {
        self.http.uri().path()
    }

    pub(crate) fn query(&self) -> Option<&str> {
        self.http.uri().query()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.http.head().headers()
    }

    /// Whether no credential of the client was verified.
    pub(crate) fn is_anonymous(&self) -> bool {
        matches!(self.client.key, ClientKey::Address(_))
    }

    /// Where the client can log in that did not: this listener, or one with a login on the same host.
    pub(crate) fn login_address(&self) -> Option<String> {
        let login_port = self.login_port.filter(|_| self.is_anonymous())?;
        let host = self.headers().get(HOST)?.to_str().ok().filter(|host| host.len() <= MAX_HOST)?;
        match host.rsplit_once(':') {
            _ if self.login => Some(host.to_owned()),
            Some((name, port)) if port.parse::<u16>().is_ok() => Some(format!("{name}:{login_port}")),
            _ => Some(format!("{host}:{login_port}")),
        }
    }

    /// The value of a header that is a number.
    pub(crate) fn number(&self, name: &HeaderName) -> Option<u64> {
        self.headers().get(name)?.to_str().ok()?.parse().ok()
    }

    /// The body, which is read from now on; empty when it was taken before.
    pub(crate) fn body(&self) -> RequestBody {
        self.body.borrow_mut().take().unwrap_or_else(RequestBody::empty)
    }

    /// What the limits know the request by: the same when they decide and when they count.
    pub(crate) fn describe<R>(&self, with: impl FnOnce(RequestInfo<'_>) -> R) -> R {
        let repository = self.repository.as_ref().map(Repository::display_name).unwrap_or_default();
        // What is in no repository is one thing to the limits, however it is named.
        let reference = self.resource.as_ref().ok().filter(|_| self.repository.is_some());
        let reference = reference.map(Resource::reference).unwrap_or_default();
        with(RequestInfo { method: self.method().as_str(), repository: &repository, reference: &reference })
    }
}

/// How handlers that work on hold a request.
pub(crate) type SharedRequest = Rc<Request>;
