//! The client tells a whole body from a broken one, whatever framing says where it ends.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{Body, Client, Connection, Error, Request, Response};

/// What the client makes of these bytes, after which the server closes.
async fn answer_to(bytes: &'static [u8], request: Request) -> Result<Response, Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        stream.write_all(bytes).await.unwrap();
    });
    let answer = Client::new(address, "").send(&request).await;
    server.await.unwrap();
    answer
}

fn hello() -> String {
    "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824".into()
}

#[tokio::test]
async fn a_body_of_its_announced_length_is_complete_and_hashed() {
    let answer = answer_to(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Request::get("/")).await.unwrap();
    assert!(answer.complete());
    assert_eq!((answer.length, answer.sha256), (5, hello()));
    assert!(answer.timing.first_byte.is_some());
}

#[tokio::test]
async fn a_body_that_ends_before_its_announced_length_is_not_complete() {
    let answer = answer_to(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", Request::get("/")).await.unwrap();
    assert!(!answer.complete());
    assert_eq!(answer.broken, Some(Error::Short { got: 5, of: 9 }));
}

#[tokio::test]
async fn a_chunked_body_is_complete_with_its_last_chunk_only() {
    let whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
    let answer = answer_to(whole, Request::get("/")).await.unwrap();
    assert!(answer.complete());
    assert_eq!(answer.sha256, hello());
    let cut = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n";
    assert!(!answer_to(cut, Request::get("/")).await.unwrap().complete());
}

#[tokio::test]
async fn a_body_without_framing_is_one_that_a_client_would_believe() {
    let answer = answer_to(b"HTTP/1.1 200 OK\r\n\r\nhello", Request::get("/")).await.unwrap();
    assert!(answer.complete());
}

#[tokio::test]
async fn a_head_has_no_body_whatever_its_length_says() {
    let answer = answer_to(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", Request::head("/")).await.unwrap();
    assert!(answer.complete());
    assert_eq!((answer.length, answer.head.content_length()), (0, Some(9)));
}

#[tokio::test]
async fn an_answer_that_never_begins_is_an_error() {
    assert!(matches!(answer_to(b"", Request::get("/")).await, Err(Error::Broken(_))));
}

/// What the server reads of a request, up to its last bytes, before it answers.
async fn sent(request: Request, last: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut have, mut piece) = (Vec::new(), [0; 4096]);
        while !have.ends_with(last) {
            let came = stream.read(&mut piece).await.unwrap();
            assert!(came > 0, "the request ended early");
            have.extend_from_slice(&piece[..came]);
        }
        stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        String::from_utf8(have).unwrap()
    });
    let answer = Client::new(address, "").send(&request).await.unwrap();
    assert_eq!(answer.status(), 201);
    server.await.unwrap()
}

#[tokio::test]
async fn a_body_is_framed_by_its_length_or_in_chunks() {
    let whole = sent(Request::new("PUT", "/a").body("hello"), b"hello").await;
    assert!(whole.contains("Content-Length: 5\r\n\r\nhello"), "{whole}");
    let body = Body::Chunked(vec![b"he".to_vec(), Vec::new(), b"llo".to_vec()]);
    let chunked = sent(Request { body, ..Request::new("PATCH", "/a") }, b"0\r\n\r\n").await;
    assert!(chunked.contains("Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), "{chunked}");
}

/// A registry refuses a manifest that is too large before it has read it all, and closes.
#[tokio::test]
async fn an_answer_that_comes_before_the_body_is_sent_is_the_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 64]).await.unwrap();
        stream.write_all(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        stream
    });
    let answer = Client::new(address, "").send(&Request::new("PUT", "/a").body(vec![0; 32 << 20])).await.unwrap();
    assert_eq!(answer.status(), 413);
    drop(server.await.unwrap());
}

#[tokio::test]
async fn a_request_leaves_though_the_stream_buffers_it() {
    let (near, mut far) = tokio::io::duplex(4096);
    let mut connection = Connection::over(tokio::io::BufStream::new(near), "x".into());
    let server = async {
        let mut have = Vec::new();
        while !have.ends_with(b"\r\n\r\n") {
            have.push(far.read_u8().await.unwrap());
        }
        far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    };
    let patience = std::time::Duration::from_secs(5);
    let request = Request::get("/");
    let (answer, ()) = tokio::time::timeout(patience, async { tokio::join!(connection.exchange(&request), server) })
        .await
        .expect("the request did not leave");
    assert_eq!(answer.unwrap().status(), 204);
}
