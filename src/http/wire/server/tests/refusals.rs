//! What no handler sees: answered by the connection itself, once, in JSON, and never in the middle of another answer.

use tokio::io::{AsyncRead, AsyncWrite};

use super::*;
use crate::http::raw::RawResponse;

/// The answer to a request that no handler saw: whole, in JSON, with a sentence, the last thing on its connection.
async fn refused<S: AsyncRead + AsyncWrite + Unpin>(client: &mut Raw<S>, method: &str) -> RawResponse {
    let response = client.response(method).await;
    assert_eq!(response.header("connection"), Some("close"), "{}", response.head);
    assert_eq!(response.header("content-type"), Some("application/json"), "{}", response.head);
    assert!(response.header("date").is_some_and(|date| date.ends_with(" GMT")), "{}", response.head);
    if method == "HEAD" {
        assert!(response.header("content-length").is_some_and(|length| length != "0"), "{}", response.head);
    } else {
        let error = &response.json()["errors"][0];
        assert!(error["message"].as_str().is_some_and(|message| message.contains("send")), "{error}");
        assert_eq!((&error["code"], error.get("detail")), (&"UNSUPPORTED".into(), None));
    }
    assert_eq!(client.rest().await, b"");
    response
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_before_a_handler_sees_it_is_answered_in_json_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let tls = certificate(directory.path()).server_config().unwrap();
    let (serving, world) = serving(&settings(), None);
    let (secure, _) = self::serving(&settings(), Some(tls));
    let request = |line: &str, headers: &str| format!("{line} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    let many = "X-A: b\r\n".repeat(96);
    // More than is read before it is refused; the rest must not cost the client its answer.
    let large = format!("X-A: {}\r\n", "b".repeat(1 << 20));
    for (status, bad) in [
        (400, "garbage\r\n\r\n".to_owned()),
        (400, "\u{16}\u{3}\u{1}\u{2}".to_owned()),
        (400, "GET /a HTTP/1.1\r\n\r\n".to_owned()),
        (400, "GET /a HTTP/2.0\r\nHost: x\r\n\r\n".to_owned()),
        (400, format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(70_000))),
        (400, request("PUT /a", "Content-Length: 400000\r\nTransfer-Encoding: chunked\r\n") + &"b".repeat(400_000)),
        (431, request("GET /a", &many)),
        (431, request("GET /a", &large)),
    ] {
        let mut client = Raw::to(&serving).await;
        client.send(&bad).await;
        assert_eq!(refused(&mut client, "GET").await.status, status, "{bad:.80}");
        // Behind an answer like any other, over TLS.
        let mut client = over_tls(&secure).await;
        client.get("/x").await;
        client.head().await;
        client.body(2).await;
        client.send(&bad).await;
        assert_eq!(refused(&mut client, "GET").await.status, status, "{bad:.80}");
    }
    let mut head = Raw::to(&serving).await;
    head.send(request("HEAD /a", &many)).await;
    assert_eq!(refused(&mut head, "HEAD").await.status, 431);
    assert_eq!(world.calls.load(Ordering::SeqCst), 0);
    let text = world.metrics();
    for line in [
        r#"http_requests_total{kind="other",method="GET",status="4xx"} 5"#,
        r#"http_requests_total{kind="other",method="HEAD",status="4xx"} 1"#,
        r#"http_requests_total{kind="other",method="other",status="4xx"} 3"#,
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_waits_for_the_answer_before_it_and_an_interim_answer_is_none() {
    let (serving, world) = serving(&settings(), None);
    world.open();
    let mut client = Raw::to(&serving).await;
    client
        .send("GET /file HTTP/1.1\r\nHost: x\r\n\r\nHEAD /x HTTP/1.1\r\nHost: x\r\n\r\nGET /y HTTP/1.1\r\n\r\n")
        .await;
    assert_eq!(client.response("GET").await.body.len(), SIZE);
    assert_eq!(client.response("HEAD").await.status, 200);
    assert_eq!(refused(&mut client, "GET").await.status, 400);
    let mut client = Raw::to(&serving).await;
    client.send("PUT /slow HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.head().await, "http/1.1 100 continue\r\n\r\n");
    assert_eq!(client.response("PUT").await.body, b"slow");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_end_closes_the_connection_on_every_request() {
    let (serving, _) = serving(&hasty(), None);
    let begun = Instant::now();
    let mut first = Raw::to(&serving).await;
    first.send("GET / HTTP/1.1\r\nHo").await;
    let mut mute = Raw::to(&serving).await;
    mute.send("\r\n").await;
    let mut second = Raw::to(&serving).await;
    let mut stray = Raw::to(&serving).await;
    for client in [&mut second, &mut stray] {
        client.get("/x").await;
        client.head().await;
        client.body(2).await;
    }
    second.send("HEAD / HTTP/1.1\r\nHo").await;
    stray.send("\r\n").await;
    assert_eq!(refused(&mut first, "GET").await.status, 408);
    assert_eq!(refused(&mut second, "HEAD").await.status, 408);
    // A client that asked nothing gets nothing, nor does one that asked nothing more.
    assert_eq!(mute.rest().await, b"");
    assert_eq!(stray.rest().await, b"");
    assert!(begun.elapsed() < PATIENCE, "an empty line keeps an idle connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_smuggle_a_request_is_refused_and_ends_the_connection() {
    let (serving, world) = serving(&settings(), None);
    for bad in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Content-Length: 4\r\nContent-Length: 5",
        "Content-Length: +5",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Host: y",
        "Transfer-Encoding : chunked",
        "X: a\r\n b",
    ] {
        let mut client = Raw::to(&serving).await;
        client
            .send(format!("GET /a HTTP/1.1\r\nHost: x\r\n{bad}\r\n\r\n0\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n"))
            .await;
        assert_eq!(refused(&mut client, "GET").await.status, 400, "{bad}");
    }
    assert_eq!(world.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_with_the_kernel_before_the_next_request_is_read() {
    let (serving, world) = serving(&settings(), None);
    // How many answers are begun for a client that reads nothing, of so many requests.
    let begun = async |client: &mut Raw, requests: usize| {
        world.calls.store(0, Ordering::SeqCst);
        client.send("GET /wide HTTP/1.1\r\nHost: x\r\n\r\n".repeat(requests)).await;
        let mut calls = usize::MAX;
        while calls != world.calls.load(Ordering::SeqCst) {
            calls = world.calls.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        calls
    };
    let most = begun(&mut Raw::to(&serving).await, 2_000).await;
    assert!((1..2_000).contains(&most), "{most} answers were written for a client that reads nothing");
    // About there a request comes while the answer before it is still being written.
    for requests in most - 2..=most + 2 {
        let mut client = Raw::to(&serving).await;
        begun(&mut client, requests).await;
        client.send("GET /x HTTP/1.1\r\n\r\n").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        for _ in 0..requests {
            assert_eq!(client.response("GET").await.body.len(), WIDE);
        }
        assert_eq!(refused(&mut client, "GET").await.status, 400);
    }
}
