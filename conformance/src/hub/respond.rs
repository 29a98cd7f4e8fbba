//! One request and its response, in this order: log, gate, latency, early faults, the response, faults of its body.
//!
//! Faults strike after authorization (but for `abuse`, `evil-realm` and the token service's own), so that their count
//! is the same whether or not the client had a token already.

use std::io;
use std::time::Instant;

use tokio::time::sleep;

use super::exchange::{Exchange, Port};
use super::fault::{Stage, What};
use super::log::{Entry, Logged, Progress};
use super::response::{Body, Response};
use super::send::{Delivery, send};
use super::shared::Shared;
use super::wire::{Connection, Request};
use super::{blobs, registry, tokens};

/// Answers one request; returns whether the connection may carry another.
pub(super) async fn respond(
    shared: &Shared,
    port: Port,
    connection: &mut Connection,
    request: Request,
) -> io::Result<bool> {
    let settings = shared.settings.read().unwrap().clone();
    let exchange = Exchange::new(request, connection.peer, port, &settings);
    let mut entry = Entry { log: &shared.log, id: shared.log.arrive(logged(&exchange), settings.log_length) };
    let released = shared.released.subscribe();
    let early = async {
        shared.gates.pass(exchange.asked()).await;
        if !settings.latency.is_zero() {
            sleep(settings.latency).await;
        }
        let what = shared.faults.strike(Stage::BeforeAuthorization, exchange.asked());
        if let Some(What::TokenSlow(delay)) = what {
            sleep(delay).await;
        }
        what
    };
    let struck = tokio::select! {
        what = early => what,
        () = connection.gone() => return Ok(false),
    };
    // A test may have changed the settings while the request was held.
    let settings = shared.settings.read().unwrap().clone();
    let answer = match struck.and_then(|what| registry::before_authorization(shared, &exchange, &settings, &what)) {
        Some(answer) => answer,
        None => match port {
            Port::Registry => registry::answer(shared, &exchange, &settings),
            Port::Cdn => blobs::cdn(shared, &exchange),
        },
    };
    let delivery = Delivery {
        head: exchange.request.method == "HEAD",
        keep_alive: exchange.request.keep_alive && !matches!(answer.body, Body::Raw(_)),
        bandwidth: settings.bandwidth,
        fault: body_fault(shared, &exchange, &answer),
        released,
    };
    send(connection, answer, delivery, &mut entry).await
}

fn body_fault(shared: &Shared, exchange: &Exchange, answer: &Response) -> Option<What> {
    let good = matches!(answer.status, 200 | 206) && answer.has_body() && exchange.request.method != "HEAD";
    if good { shared.faults.strike(Stage::Body, exchange.asked()) } else { None }
}

fn logged(exchange: &Exchange) -> Logged {
    Logged {
        id: 0,
        at: Instant::now(),
        from: exchange.from,
        method: exchange.request.method.clone(),
        kind: exchange.kind,
        repository: exchange.repository.clone(),
        reference: exchange.reference.clone(),
        target: exchange.request.target.clone(),
        authorization: tokens::shown(&exchange.request),
        range: exchange.request.header("range").map(str::to_owned),
        headers: exchange.request.headers.clone(),
        status: 0,
        counted: false,
        bytes_sent: 0,
        progress: Progress::Open,
    }
}
