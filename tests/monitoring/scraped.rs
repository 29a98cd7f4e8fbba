//! What a Weir exposes that has all the parts it can have.

use weir_conformance::{
    client::{Client, Request},
    hub::{self, Account, Hub, Limit, Spec},
    mirror::process::{Process, Program},
};

/// A certificate and its key.
const LOCALHOST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/wire/server/localhost.pem");

/// A Weir with an account upstream, a bounded hosted namespace and a small throttle, after a few pulls.
pub(crate) async fn metrics() -> String {
    let settings = hub::Settings {
        limit: Some(Limit::hub(100)),
        accounts: vec![Account::new("acme", "a password")],
        ..hub::Settings::default()
    };
    let hub = Hub::start(settings).await.unwrap();
    hub.push(Spec::new("library/app")).unwrap();
    let secrets = tempfile::tempdir().unwrap();
    let file = secrets.path().join("password");
    std::fs::write(&file, "a password").unwrap();
    let extra = format!(
        "deny = [\"library/denied\"]\naccounts = [{{ username = \"acme\", password_file = \"{}\" }}]\n\
         [hosted]\nnamespaces = [\"local/*\"]\ncapacity = \"1MiB\"\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ cert = {LOCALHOST:?}, key = {LOCALHOST:?} }}\n\
         [[throttle]]\nname = \"throttle_unauthenticated_pulls\"\nrequests_per_period = 2\nperiod_in_seconds = 3600\nburst = 2\n\
         [[policy]]\nname = \"strict\"\nimages = [\"docker.io/*\"]\nmode = \"warn\"\nnon_root = true\n",
        file.display()
    );
    let program = Program::Weir(env!("CARGO_BIN_EXE_weir").into());
    let weir = Process::start(program, hub.registry_address(), &extra).await.unwrap();
    let client = Client::new(weir.address, "");
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(client.get_manifest("library/app", "latest").await.unwrap().status());
    }
    assert_eq!(answers, [200, 200, 429, 429], "a cold pull, a warm one, and what the throttle denies");
    let admin = Client::new(weir.admin.unwrap(), "");
    let ban = Request::new("POST", "/api/v1/bans").with("Content-Type", "application/json");
    let ban = admin
        .send(&ban.body(r#"{"client":"127.0.0.1","duration":"1h","reason":"a test","force":true}"#))
        .await
        .unwrap();
    assert_eq!((ban.status(), client.get_manifest("library/app", "latest").await.unwrap().status()), (201, 403));
    let answer = admin.send(&Request::get("/metrics")).await.unwrap();
    assert_eq!(answer.head.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    answer.text()
}
