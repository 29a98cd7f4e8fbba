//! *Log*: the last lines, filtered, as text; and those that come, as a stream with a bound on its watchers.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    time::Duration,
};

use super::harness::{Browser, Harness};

fn watch(harness: &Harness, query: &str) -> BufReader<TcpStream> {
    watch_as(harness, query, "")
}

/// With the cookie of a session, as the account that is logged in.
fn watch_as(harness: &Harness, query: &str, cookie: &str) -> BufReader<TcpStream> {
    let cookie = if cookie.is_empty() { String::new() } else { format!("Cookie: {cookie}\r\n") };
    let mut socket = TcpStream::connect(harness.admin).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(socket, "GET /log/stream{query} HTTP/1.1\r\nHost: {}\r\n{cookie}\r\n", harness.admin).unwrap();
    BufReader::new(socket)
}

/// Reads until a line holds this, and gives it.
fn until(stream: &mut BufReader<TcpStream>, words: &str) -> String {
    loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).unwrap() > 0, "it ended before {words}");
        if line.contains(words) {
            return line;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_shows_its_last_lines_by_filter_and_streams_those_that_come() {
    let harness = Harness::start().await;
    harness.log.push(
        r#"{"level":"INFO","method":"GET","path":"/v2/<b>","status":200,"client":"10.1.0.7","target":"weir::access"}"#,
    );
    harness.log.push(r#"{"level":"WARN","message":"it rains","target":"weir"}"#);
    let mut operator = Browser::new(&harness);
    let page = operator.get("/log");
    assert!(
        page.body.contains("GET /v2/&lt;b&gt; 200 client=10.1.0.7") && page.body.contains("it rains"),
        "{}",
        page.body
    );
    let policy = page.header("content-security-policy");
    assert!(policy.contains("script-src 'self'; connect-src 'self'; ") && !policy.contains("unsafe"), "{policy}");
    let warnings = operator.get("/log?kind=problems").body;
    assert!(warnings.contains("it rains") && !warnings.contains("client=10.1.0.7"), "{warnings}");
    let found = operator.get("/log?part=10.1.0.7&kind=access").body;
    assert!(found.contains("client=10.1.0.7") && !found.contains("it rains"), "{found}");
    assert!(found.contains("data-stream=\"/log/stream?part=10.1.0.7&amp;kind=access\""), "{found}");

    let mut stream = watch(&harness, "?kind=events");
    until(&mut stream, "text/event-stream");
    until(&mut stream, "\r\n");
    harness.log.push(r#"{"level":"INFO","path":"/v2/","target":"weir::access"}"#);
    harness.log.push(r#"{"level":"ERROR","message":"it pours\ndata: forged","target":"weir"}"#);
    let event = until(&mut stream, "data: ");
    assert_eq!(event, "data: {\"level\":\"ERROR\",\"when\":\"\",\"words\":\"it pours\\ndata: forged\"}\n");

    let mut ann = Browser::logged_in(&harness, "ann");
    for path in ["/log", "/log/stream"] {
        assert_eq!(ann.get(path).status, 403, "{path} is for operators");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_window_of_one_s_own_gives_way_to_a_newer_and_leaves_those_of_another() {
    let harness = Harness::start().await;
    let ops = Browser::logged_in(&harness, "ops");
    let begin = |cookie: &str| {
        let mut stream = watch_as(&harness, "", cookie);
        until(&mut stream, " 200 OK");
        stream
    };
    let mut theirs = begin(&ops.cookie);
    let mut own: Vec<_> = (0..5).map(|_| begin("")).collect();
    until(&mut own[0], "event: full");
    // The last chunk: a stream that gave way ends.
    until(&mut own[0], "0\r\n");
    harness.log.push("it rains");
    own[1..].iter_mut().chain([&mut theirs]).for_each(|stream| drop(until(stream, "it rains")));
}
