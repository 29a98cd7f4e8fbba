//! Upstreams as they behave, through real sockets against servers that follow a script.

mod auth;
mod credentials;
mod limits;
mod manifests;
mod proxies;
mod server;
mod transfers;

use std::{
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use url::Url;

use super::{Account, Identity, Ledger, Reservation, Settings, Upstream, ledger};
use crate::{
    client::Class,
    oci::{Algorithm, Digest, Name, Reference},
};
use server::Server;

const TOKEN: &str = r#"{"token":"good","expires_in":300}"#;
const INDEX: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
const OCI_INDEX: (&str, &str) = ("Content-Type", "application/vnd.oci.image.index.v1+json");

fn settings(url: &str) -> Settings {
    let seconds = Duration::from_secs(5);
    Settings { first_byte_timeout: seconds, idle_timeout: seconds, ..Settings::new("test", Url::parse(url).unwrap()) }
}

fn upstream(server: &Server) -> Upstream {
    Upstream::new(settings(&server.url()), Ledger::unkept()).unwrap()
}

fn with_account(server: &Server) -> Upstream {
    let account = Account::with_password("me", "canary");
    let settings = Settings { accounts: vec![account], ..settings(&server.url()) };
    Upstream::new(settings, Ledger::unkept()).unwrap()
}

fn anonymous() -> Identity {
    Identity { upstream: "test".into(), account: None }
}

fn me() -> Identity {
    Identity { upstream: "test".into(), account: Some("me".into()) }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn tag(text: &str) -> Reference {
    text.parse().unwrap()
}

fn digest(content: &str) -> Digest {
    Algorithm::Sha256.digest(content.as_bytes())
}

fn purpose(reference: &Reference) -> ledger::Purpose {
    ledger::Purpose {
        repository: name("a/b"),
        reference: reference.clone(),
        tag: None,
        client: "10.0.0.7".into(),
        class: Class::Standard,
        reason: ledger::Reason::Cold,
        waiters: Arc::new(AtomicU32::new(0)),
    }
}

fn ledger(upstream: &Upstream) -> &Ledger {
    &upstream.inner.exchange.endpoint.ledger
}

async fn reserved(upstream: &Upstream, reference: &Reference) -> Reservation {
    ledger(upstream).reserve(&anonymous(), purpose(reference)).await.unwrap()
}

async fn get(upstream: &Upstream, reference: &Reference) -> Result<crate::oci::Manifest, super::Error> {
    let mut reservation = reserved(upstream, reference).await;
    upstream.get_manifest(&mut reservation, &name("a/b"), reference).await
}

/// The `WWW-Authenticate` of a registry whose token service is at `realm`.
fn bearer(realm: &str) -> String {
    format!(r#"Bearer realm="{realm}",service="registry.test",scope="repository:a/b:pull""#)
}
