//! One request: who asks, may it be answered, what does the API say; then headers, counts, log and charges, once for all.
//!
//! This and the files below it are the only ones that name both `wire` and `api`.

pub(in crate::http) mod body;
pub(in crate::http) mod refuse;
mod render;
mod request_id;
pub(in crate::http) mod scope;

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use actix_http::{
    Response,
    header::{HeaderValue, USER_AGENT},
};
use actix_service::{Service, fn_factory};

use self::{
    body::Body,
    refuse::refuse,
    render::render,
    scope::{Line, RequestScope},
};
use super::{
    admit::{Gate, LoginError},
    api::{self, ApiError, Outcome, Reply, Repository, Request, RequestBody, Resource, SharedRequest},
    cors::{self, Origin},
    metrics::{Kind, Metrics},
    peer::Peer,
    printable::printable,
    settings::Settings,
    wire::{self, BodyLength, ConnectionState, Listener, Serving},
};
use crate::{
    client::Client,
    hosted::Hosted,
    identity::Authenticator,
    limits::{
        Limits, address,
        permit::{Denied, Permit, RequestInfo, RequestKind},
    },
    mirror::{Cost, Lookup, Mirror},
    route::{Mirrored, Route},
    telemetry,
};

/// Serves the registry API on these listeners until [`Serving::stop`].
///
/// Must be called within a tokio runtime, which keeps running for as long as the listeners shall serve.
///
/// # Errors
/// When a listener cannot be used.
pub async fn serve(
    settings: Settings,
    listeners: Vec<Listener>,
    mirror: Mirror,
    limits: Limits,
    authenticator: Authenticator,
    hosted: Hosted,
    metrics: Metrics,
) -> io::Result<Serving> {
    let proxies = limits.clone();
    let exempt = Box::new(move |peer| address::is_trusted(&proxies.config().trusted_proxies, peer));
    let login = listeners.iter().find(|listener| listener.login);
    let service = RegistryService(Arc::new(Shared {
        login_port: login.and_then(|listener| listener.socket.local_addr().ok()).map(|address| address.port()),
        api: api::Context::new(mirror, hosted, limits.clone(), settings.routes.clone(), settings.body_stall),
        gate: Gate::new(limits, authenticator),
        metrics: metrics.clone(),
        body_stall: settings.body_stall,
        cors: settings.cors.clone(),
    }));
    wire::start(&settings, listeners, &metrics, exempt, &refuse(metrics.clone()), move || {
        let service = service.clone();
        fn_factory(move || {
            let service = service.clone();
            async move { Ok::<_, ()>(service) }
        })
    })
}

/// One for all workers.
struct Shared {
    /// Of the first listener with a login.
    login_port: Option<u16>,
    api: api::Context,
    gate: Gate,
    metrics: Metrics,
    body_stall: Duration,
    cors: Vec<Origin>,
}

/// The service of one worker.
#[derive(Clone)]
struct RegistryService(Arc<Shared>);

impl Service<actix_http::Request> for RegistryService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&self, mut http: actix_http::Request) -> ResponseFuture {
        let connection = http.conn_data::<Rc<ConnectionState>>().cloned();
        let connection =
            connection.unwrap_or_else(|| Rc::new(ConnectionState::new(Peer::new(http.peer_addr(), false))));
        let length = BodyLength::of(http.head());
        let method = http.method().clone();
        let (metrics, id) = (self.0.metrics.clone(), request_id::of(http.head().headers()));
        let sampled =
            telemetry::sample(http.head().headers().get(request_id::TRACEPARENT).map(|value| value.as_bytes()));
        let line = |is_described| {
            let ns = api::query_value(http.uri().query(), "ns").ok().flatten();
            let user_agent = http.head().headers().get(USER_AGENT).filter(|_| is_described);
            Line {
                path: printable(http.uri().path()),
                ns: ns.map(|ns| printable(&ns)),
                user_agent: user_agent.map(|name| printable(&String::from_utf8_lossy(name.as_bytes()))),
                cost: if is_described { Cost::counted() } else { Cost::default() },
                ..Line::default()
            }
        };
        let mut scope = RequestScope::begin(connection.clone(), metrics, method, length.is_some(), id, sampled, line);
        if let Some(allowed) = cors::allowed(&self.0.cors, http.head().headers()) {
            let preflight = allowed.preflight(http.method(), http.head().headers());
            scope.allows(allowed);
            if let Some(reply) = preflight {
                return ResponseFuture::Done(Some(render(scope, None, None, Ok(reply))));
            }
        }
        let body = length.map(|length| {
            let state = connection.clone();
            RequestBody::new(http.take_payload(), self.0.body_stall, Box::new(move || state.read_body(length)))
        });
        if let Some(client) = self.0.gate.at_once(&connection.peer, http.head()) {
            return self.handle(scope, http, body, client);
        }
        let service = self.clone();
        ResponseFuture::Identifying(Box::pin(async move {
            match service.0.gate.identify(&connection.peer, http.head()).await {
                Ok(client) => match service.handle(scope, http, body, client).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                },
                Err(error) => {
                    let error = match error {
                        LoginError::Wrong => ApiError::Login,
                        LoginError::Unverified(error) => ApiError::Unverified(error),
                    };
                    render(scope, None, http.head().headers().get(USER_AGENT), Err(error))
                }
            }
        }))
    }
}

impl RegistryService {
    /// Answers a request whose client is known.
    fn handle(
        &self,
        mut scope: RequestScope,
        http: actix_http::Request,
        body: Option<RequestBody>,
        client: Arc<Client>,
    ) -> ResponseFuture {
        let resource = api::parse(http.uri().path());
        scope.is_from(client.clone(), self.0.api.limits.clone());
        scope.is_for(resource.as_ref().map_or(Kind::Other, kind));
        let login = scope.connection().peer.login;
        let mut request = Request::new(http, client, resource, login, self.0.login_port, body);
        let admitted = self.admit(&mut scope, &mut request);
        let request = Rc::new(request);
        match admitted.and_then(|()| api::route(&self.0.api, &request)) {
            Ok(Outcome::Later(work)) => ResponseFuture::Working { work, scope: Some(scope), request },
            Ok(Outcome::Now(reply)) => ResponseFuture::done(scope, &request, Ok(reply)),
            Err(error) => ResponseFuture::done(scope, &request, Err(error)),
        }
    }

    /// Ban, throttle, bounds of the head, and where the name leads.
    fn admit(&self, scope: &mut RequestScope, request: &mut Request) -> Result<(), ApiError> {
        let permit = self.permit(scope, request).map_err(|denied| {
            self.name_upstream(scope, request);
            ApiError::Denied(Arc::from(denied))
        })?;
        request.exempt = permit.safe.is_some();
        let misses = permit.misses.as_deref().map(|denied| Arc::new(denied.clone()));
        scope.admitted(permit, self.0.api.limits.clone());
        let bytes: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if bytes > api::MAX_HEADER_BYTES {
            return Err(ApiError::HeadTooLarge);
        }
        if request.query().is_some_and(|query| query.len() > api::MAX_QUERY_BYTES) {
            return Err(api::QueryError::TooLong.into());
        }
        let cost = scope.line().cost.clone();
        let repository = self.repository(request, misses, cost).inspect_err(|_| self.name_upstream(scope, request))?;
        request.repository = repository;
        Ok(())
    }

    /// The line of a request that is refused before it is looked up names its upstream all the same, when its name leads to one.
    fn name_upstream(&self, scope: &mut RequestScope, request: &Request) {
        let Some(name) = request.resource.as_ref().ok().and_then(Resource::name) else { return };
        let Ok(ns) = api::query_value(request.query(), "ns") else { return };
        if let Some(Route::Mirrored(found)) =
            self.0.api.routes.load().find(name, ns.as_deref().filter(|ns| !ns.is_empty()))
        {
            scope.is_of(found.upstream);
        }
    }

    /// A GET of a manifest is a pull; a HEAD shows no message when it is refused, and is free. What names nothing counts like
    /// anything else.
    fn permit(&self, scope: &RequestScope, request: &Request) -> Result<Permit, Box<Denied>> {
        let kind = match &request.resource {
            Ok(Resource::Root | Resource::Ping(_)) => RequestKind::Ping,
            Ok(Resource::Manifest(..)) if !request.is_head() => RequestKind::Pull,
            _ => RequestKind::Registry,
        };
        let resource = request.resource.as_ref().ok();
        let repository = resource.and_then(Resource::name).map(|name| name.name.as_str()).unwrap_or_default();
        let reference = resource.map(Resource::reference).unwrap_or_default();
        let info = RequestInfo { method: request.method().as_str(), repository, reference: &reference };
        self.0.gate.admit(request.client.clone(), &scope.connection().peer, request.head(), kind, info)
    }

    /// Where the name in the path leads, if there is one.
    fn repository(
        &self,
        request: &Request,
        cached_only: Option<Arc<Denied>>,
        cost: Cost,
    ) -> Result<Option<Repository>, ApiError> {
        let Some(name) = request.resource.as_ref().ok().and_then(Resource::name) else { return Ok(None) };
        // An empty one names nothing.
        let ns = api::query_value(request.query(), "ns")?.filter(|ns| !ns.is_empty());
        match self.0.api.routes.load().find(name, ns.as_deref()) {
            Some(Route::Mirrored(found)) => {
                let config = self.0.api.limits.config();
                if let Some(sentence) = config.repositories.refuse(&found.upstream, &found.repository) {
                    return Err(ApiError::NotMirrored(sentence.into()));
                }
                let namespace = ns.filter(|_| found.by_namespace).and_then(|ns| HeaderValue::from_str(&ns).ok());
                let client = request.client.clone();
                let Mirrored { upstream, repository, .. } = found;
                let lookup = Lookup { upstream, repository, client, cached_only, cost };
                Ok(Some(Repository::Mirrored { lookup, namespace }))
            }
            // As the name says, and whether it exists or not, so that the answer gives nothing away.
            Some(Route::Hosted(name))
                if request.login && request.is_anonymous() && self.0.api.hosted.is_private(&name) =>
            {
                Err(ApiError::Login)
            }
            Some(Route::Hosted(name)) => Ok(Some(Repository::Hosted(name))),
            None => {
                let written = name.registry.as_deref().or(ns.as_deref()).unwrap_or_default();
                Err(ApiError::UnknownRegistry(written.into()))
            }
        }
    }
}

fn kind(resource: &Resource) -> Kind {
    match resource {
        Resource::Root => Kind::Other,
        Resource::Ping(_) => Kind::Ping,
        Resource::Catalog(_) => Kind::Catalog,
        Resource::Manifest(..) => Kind::Manifest,
        Resource::Blob(..) => Kind::Blob,
        Resource::Upload(..) => Kind::Upload,
        Resource::Tags(_) => Kind::Tags,
        Resource::Referrers(..) => Kind::Referrers,
    }
}

/// A response on its way. One that is there at once costs no allocation.
enum ResponseFuture {
    Done(Option<Response<Body>>),
    Working {
        work: Pin<Box<dyn Future<Output = Result<Reply, ApiError>>>>,
        scope: Option<RequestScope>,
        request: SharedRequest,
    },
    Identifying(Pin<Box<dyn Future<Output = Response<Body>>>>),
}

impl ResponseFuture {
    fn done(scope: RequestScope, request: &Request, result: Result<Reply, ApiError>) -> ResponseFuture {
        let user_agent = request.headers().get(USER_AGENT);
        ResponseFuture::Done(Some(render(scope, Some(request), user_agent, result)))
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = match self.get_mut() {
            ResponseFuture::Done(response) => response.take(),
            ResponseFuture::Working { work, scope, request } => {
                let span = scope.as_ref().map(|scope| scope.span().enter());
                let result = std::task::ready!(work.as_mut().poll(cx));
                drop(span);
                let user_agent = request.headers().get(USER_AGENT);
                scope.take().map(|scope| render(scope, Some(request), user_agent, result))
            }
            ResponseFuture::Identifying(work) => Some(std::task::ready!(work.as_mut().poll(cx))),
        };
        // A future that is polled again after it was ready has nothing to say.
        response.map_or(Poll::Pending, |response| Poll::Ready(Ok(response)))
    }
}
