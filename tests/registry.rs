//! What the official OCI suite does not ask, asked of a Weir that hosts: without a login where that is configured, and with one.

use std::sync::Arc;

use url::Url;
use weir_conformance::{
    client::Authorities,
    mirror::process::{Process, Program, free_address},
    registry::{Registry, names, run},
    report::Verdict,
};

/// A Weir whose upstream does not answer: what it hosts must not depend on it.
async fn weir(extra: &str) -> Process {
    let program = Program::Weir(env!("CARGO_BIN_EXE_weir").into());
    Process::start(program, free_address().unwrap(), extra).await.unwrap()
}

async fn holds_all(registry: Registry) {
    let report = run(Arc::new(registry), &[], "weir".into(), |_| {}).await;
    let wrong: Vec<String> =
        report.rows.iter().filter(|row| row.verdict != Verdict::Pass).map(|row| row.line(0)).collect();
    assert!(wrong.is_empty(), "{}\n{}", report.summary(), wrong.join("\n"));
    assert_eq!(report.rows.len(), names().count(), "{}", report.summary());
}

fn url(address: std::net::SocketAddr) -> Url {
    Url::parse(&format!("http://{address}/")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hosted_namespace_holds_what_the_official_suite_does_not_ask() {
    let weir = weir("[hosted]\nnamespaces = [\"team/*\"]\nanonymous_push = true\n").await;
    let registry = Registry::new(url(weir.address), "team/ours", None, Authorities::load(None).unwrap());
    holds_all(registry.await.unwrap()).await;
}

/// The password is "weir".
#[tokio::test(flavor = "multi_thread")]
async fn with_a_login_it_holds_them_too() {
    let listener = free_address().unwrap();
    let weir = weir(&format!(
        "[[listener]]\naddress = \"{listener}\"\nlogin = true\n\n[[account]]\nname = \"ci\"\nrole = \"user\"\npassword_hash = \"$argon2id$v=19$m=19456,t=2,p=1$kxGijz/3o2vdXUodgFgFqg$xNIKwwOml04OOn6HB04DQtBkecO0nUsH9nxtip4ROiU\"\n\
         pull = [\"team/*\"]\npush = [\"team/*\"]\ndelete = [\"team/*\"]\n\n[hosted]\nnamespaces = [\"team/*\"]\n"
    ))
    .await;
    let login = Some(("ci".to_owned(), "weir".to_owned()));
    let registry = Registry::new(url(listener), "team/ours", login, Authorities::load(None).unwrap());
    holds_all(registry.await.unwrap()).await;
    drop(weir);
}
