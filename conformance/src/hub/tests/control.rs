//! The control API as a shell script uses it.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::super::control::Control;
use super::super::{Hub, Settings, listener};
use super::client::{read, send};

/// The address of a control API and of its hub's registry.
async fn control() -> (SocketAddr, SocketAddr) {
    let hub = Hub::start(Settings { challenge: super::super::Challenge::Nobody, ..Settings::default() }).await.unwrap();
    let registry = hub.registry_address();
    let listener = listener::listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let state = Control::new(hub);
    tokio::spawn(listener::accept(listener, Arc::new(Semaphore::new(8)), move |stream, peer| {
        Arc::clone(&state).converse(stream, peer)
    }));
    (address, registry)
}

async fn call(address: SocketAddr, method: &str, target: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request =
        format!("{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let reply = read(stream).await;
    (reply.status, reply.json())
}

#[tokio::test]
async fn a_script_can_press_every_button() {
    let (control, registry) = control().await;
    let ok = async |method: &str, target: &str, body: &str| {
        let (status, value) = call(control, method, target, body).await;
        assert_eq!(status, 200, "{method} {target} {body}: {value}");
        value
    };
    let get = async |rest: &str| send(registry, "GET", &format!("/v2/library/a/{rest}"), &[]).await.status;

    let help = ok("GET", "/", "").await;
    assert_eq!(help["registry"], format!("http://{registry}/"));
    let image = ok("POST", "/image", "library/a:1=7,layers=2x100,single").await;
    let digest = image["digest"].as_str().unwrap();
    assert_eq!(image["platforms"][0]["layers"].as_array().unwrap().len(), 2);
    assert_eq!(
        ok("POST", "/image", r#"{"repository":"library/a","tags":["1"],"seed":7,"layers":"2x100","single":true}"#)
            .await["digest"],
        digest
    );

    ok("POST", "/fault", "5xx,status=500,count=1,kind=manifest_get").await;
    assert_eq!(ok("GET", "/fault", "").await.as_array().unwrap().len(), 1);
    assert_eq!((get("manifests/1").await, get("manifests/1").await), (500, 200));
    ok("POST", "/fault", r#"{"what":"html"}"#).await;
    ok("DELETE", "/fault", "").await;

    ok("POST", "/budget", "remaining=0").await;
    assert_eq!(get("manifests/1").await, 429);
    ok("POST", "/budget", r#"{"remaining":5}"#).await;
    ok("POST", "/retag", &format!("repository=library/a,tag=2,digest={digest}")).await;
    assert_eq!(get("manifests/2").await, 200);
    ok("POST", "/remove", "repository=library/a,reference=2").await;
    assert_eq!(get("manifests/2").await, 404);
    let referrer = format!("repository=library/a,subject={digest},artifact_type=application/x");
    assert!(ok("POST", "/referrer", &referrer).await["digest"].is_string());

    assert_eq!(ok("GET", "/counts", "").await["manifest_get"], 5);
    assert_eq!(ok("GET", "/counts?status=200&kind=manifest_get", "").await["manifest_get"], 2);
    assert_eq!(ok("GET", "/counts", "").await["counted"], 2);
    let log = ok("GET", "/log?status=429", "").await;
    assert_eq!((log[0]["kind"].as_str(), log[0]["reference"].as_str()), (Some("manifest_get"), Some("1")));
    ok("DELETE", "/log", "").await;
    assert_eq!(ok("GET", "/log", "").await, json!([]));

    let gate = ok("POST", "/hold", "kind=tags").await["gate"].clone();
    let (held, ()) = tokio::join!(get("tags/list"), async {
        ok("GET", &format!("/wait?gate={gate}"), "").await;
        ok("POST", "/open", &format!("gate={gate}")).await;
    });
    assert_eq!(held, 200);
    ok("GET", "/wait?kind=tags&status=200", "").await;
    ok("POST", "/settings", "latency=1ms,page=2,referrers=false,bandwidth=1MiB").await;
    assert_eq!(get(&format!("referrers/{digest}")).await, 404);
    ok("POST", "/revoke", "").await;
    ok("POST", "/release", "").await;
    assert_eq!(ok("GET", "/evil", "").await, json!([]));

    ok("POST", "/down", "").await;
    assert!(TcpStream::connect(registry).await.is_err());
    ok("POST", "/up", "").await;
    assert_eq!(get("manifests/1").await, 200);
}

#[tokio::test]
async fn what_a_script_gets_wrong_is_named() {
    let (control, _) = control().await;
    for (method, target, body) in [
        ("POST", "/fault", "nonsense"),
        ("POST", "/image", "a/b:c=layers=many"),
        ("POST", "/image", "a/b:c=platforms=linux/amd64+linux/arm64,index"),
        ("POST", "/budget", ""),
        ("POST", "/settings", "colour=red"),
        ("POST", "/hold", "kind=nothing"),
        ("GET", "/wait?gate=77", ""),
        ("GET", "/counts?colour=red", ""),
        ("GET", "/log?kind=manifest", ""),
        ("POST", "/nonsense", ""),
    ] {
        let (status, value) = call(control, method, target, body).await;
        assert_eq!(status, 400, "{method} {target} {body}");
        assert!(value["error"].is_string());
    }
}
