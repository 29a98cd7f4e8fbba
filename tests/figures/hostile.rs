//! Memory and answers while upstreams do all that a registry must not do.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use weir_conformance::{
    client::{Client, Request},
    hub::{self, Hub, Spec},
    mirror::process::peak,
};

use crate::support::{Weir, digest};

/// What is answered, after the status line where there is none in it.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// Exactly this, and the end of the connection.
    Raw(&'static str),
    /// A header with a value of so many bytes.
    Header(&'static str, usize),
    /// So many headers.
    Headers(usize),
    /// So many interim answers, and never a last one.
    Interim(&'static str, usize),
    /// These headers, and so many times this in the body.
    Body(&'static str, &'static str, usize),
    /// A chunked body of so many times this.
    Chunked(&'static str, usize),
    /// A chunk that says that it has so many bytes, in hexadecimal.
    Chunk(&'static str),
    /// A stream of gzip blocks of zeros that says that it is encoded.
    Bomb(usize),
    /// This location, of which `@` is the next of an endless row here.
    Redirect(&'static str, &'static str),
    /// The head, and nothing more.
    Silence(&'static str),
}
use Answer::*;

const JSON: &str = "Content-Type: application/json\r\n";

/// Each is met at a manifest, a blob, a list of tags, and a token.
const ANSWERS: &[Answer] = &[
    Raw(""),
    Raw("\0\0\0\0"),
    Raw("HTTP/0.9\r\n"),
    Raw("<html>not HTTP at all</html>"),
    Raw("HTTP/1.1 200\r\n\r\n"),
    Raw("HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n"),
    Raw("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
    Raw("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n"),
    Raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n123456"),
    Raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    Raw("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nshort"),
    Raw("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-1/9\r\nContent-Length: 2\r\n\r\nxx"),
    Raw("HTTP/1.1 429 No\r\nRetry-After: 99999999999999999999\r\nRateLimit-Limit: x;w=-1\r\nContent-Length: 0\r\n\r\n"),
    Raw("HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer realm=\"\r\nContent-Length: 0\r\n\r\n"),
    Raw("HTTP/1.1 401 No\r\nWWW-Authenticate: ,,,=,\"\\\r\nContent-Length: 0\r\n\r\n"),
    Header("WWW-Authenticate: Bearer realm=", 10 << 20),
    Header("Docker-Content-Digest: sha256:", 300 << 10),
    Header("Link: <", 300 << 10),
    Headers(100_000),
    Interim("HTTP/1.1 100 Continue\r\n\r\n", 100_000),
    Interim("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 100_000),
    Body(JSON, "[", 1_900_000),
    Body(JSON, "{\"token\":\"", 600_000),
    Body("Content-Type: application/vnd.oci.image.index.v1+json\r\n", " ", 64 << 20),
    Body("Docker-Content-Digest: sha256:00\r\n", "x", 1 << 20),
    Chunked("{\"tags\":[\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\",", 2 << 20),
    Chunk("ffffffffffffffffff"),
    Chunk("7fffffffffffffff"),
    Chunk("xyz"),
    Bomb(2000),
    Redirect("307 Moved", "@"),
    Redirect("301 Moved", "http://169.254.169.254/latest/meta-data/"),
    Redirect("302 Found", "file:///etc/passwd"),
    Redirect("308 Moved", "//user:password@127.0.0.1:1/"),
    Redirect("303 Other", ""),
    Silence("HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n"),
];

const PLACES: [&str; 4] = ["manifests", "blobs", "tags", "token"];

fn number_in(text: &str) -> Option<usize> {
    let rest = &text[text.find("hostile/n")? + "hostile/n".len()..];
    rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())].parse().ok()
}

/// Answers the requests of one connection.
fn converse(stream: &TcpStream, own: SocketAddr, met: &Mutex<BTreeSet<usize>>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    let (mut lines, mut to) = (BufReader::new(stream), stream);
    let mut target = String::new();
    lines.read_line(&mut target)?;
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
    }
    let target = target.replace("%2F", "/").replace("%3A", ":");
    let Some(number) = number_in(&target) else {
        return to.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    };
    let (answer, place) = (ANSWERS[number / PLACES.len()], PLACES[number % PLACES.len()]);
    if !target.contains(place) {
        if place == "token" {
            let challenge = format!("WWW-Authenticate: Bearer realm=\"http://{own}/token\",service=\"n\"");
            return write!(to, "HTTP/1.1 401 No\r\nConnection: close\r\n{challenge}\r\nContent-Length: 0\r\n\r\n");
        }
        return to.write_all(b"HTTP/1.1 404 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    }
    met.lock().unwrap().insert(number);
    let ok = "HTTP/1.1 200 OK\r\nConnection: close\r\n";
    match answer {
        Raw(text) => to.write_all(text.as_bytes()),
        Header(name, length) => {
            let value = "a".repeat(length);
            write!(to, "HTTP/1.1 401 No\r\n{name}{value}\r\nContent-Length: 0\r\n\r\n")
        }
        Headers(count) => {
            to.write_all(ok.as_bytes())?;
            (0..count).try_for_each(|number| write!(to, "X-{number}: {number}\r\n"))
        }
        Interim(text, count) => (0..count).try_for_each(|_| to.write_all(text.as_bytes())),
        Body(headers, text, count) => {
            write!(to, "{ok}{headers}Content-Length: {}\r\n\r\n", text.len() * count)?;
            let piece = text.repeat(1000);
            (0..count / 1000).try_for_each(|_| to.write_all(piece.as_bytes()))
        }
        Chunked(text, count) => {
            write!(to, "{ok}{JSON}Transfer-Encoding: chunked\r\n\r\n")?;
            let piece = text.repeat(1000);
            (0..count / 1000).try_for_each(|_| write!(to, "{:x}\r\n{piece}\r\n", piece.len()))
        }
        Chunk(length) => write!(to, "{ok}Transfer-Encoding: chunked\r\n\r\n{length}\r\nxxx"),
        Bomb(count) => {
            write!(to, "{ok}{JSON}Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            (0..count).try_for_each(|_| bomb.write_all(&[b' '; 1 << 16]))?;
            let bomb = bomb.finish()?;
            write!(to, "{:x}\r\n", bomb.len())?;
            to.write_all(&bomb)?;
            to.write_all(b"\r\n0\r\n\r\n")
        }
        Redirect(status, location) => {
            let next = format!("http://{own}/v2/hostile/n{number}/{place}/{}", target.len());
            let location = location.replace('@', &next);
            write!(to, "HTTP/1.1 {status}\r\nLocation: {location}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        }
        Silence(head) => {
            to.write_all(head.as_bytes())?;
            lines.read_line(&mut String::new()).map(drop)
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_upstreams_take_little_memory_and_give_no_wrong_bytes() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let own = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    let met = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let met = met.clone();
            std::thread::spawn(move || converse(&stream, own, &met));
        }
    });
    let hub = Hub::start(hub::Settings::default()).await.unwrap();
    let image = hub.push(Spec::new("library/sound").single().layers([100_000])).unwrap();
    // An upstream for each: one that fails again and again is not asked any more.
    let all = ANSWERS.len() * PLACES.len();
    let upstream =
        |number| format!("[[upstream]]\nname = \"n{number}.test\"\nurl = \"http://{own}\"\nidle_timeout = \"5s\"\n");
    let weir = Weir::start(hub.registry(), "", &(0..all).map(upstream).collect::<String>()).await;
    let (address, begun) = (weir.client.address(), Instant::now());
    let wanted = digest(b"what no upstream here has");
    let meet = async |number: usize| {
        let client = Client::new(address, "");
        let name = format!("/v2/n{number}.test/hostile/n{number}");
        let targets = ["manifests/latest", &format!("manifests/{wanted}"), &format!("blobs/{wanted}"), "tags/list"];
        for target in targets {
            // A body that breaks off is no answer.
            let Ok(answer) = client.send(&Request::get(format!("{name}/{target}"))).await else { continue };
            let is_wrong = target.contains(&wanted) && answer.status() == 200 && answer.complete();
            assert!(!is_wrong, "{number} {target}: {}", answer.describe());
        }
    };
    // Each at once would be a test of the limits on connections.
    for numbers in (0..all).collect::<Vec<_>>().chunks(16) {
        futures_util::future::join_all(numbers.iter().map(|number| meet(*number))).await;
    }
    let (resident, descriptors) = weir.measure();
    let peak = peak(weir.pid()).unwrap() as f64 / f64::from(1 << 20);
    println!(
        "{all} hostile answers in {:?}: {resident:.1} MiB resident, {peak:.1} at most, {descriptors} descriptors",
        begun.elapsed()
    );
    let answer = weir.client.get_manifest(&image.repository, image.digest()).await.unwrap();
    assert!(answer.complete(), "{}", answer.describe());
    let not_met: Vec<usize> = (0..all).filter(|number| !asked.lock().unwrap().contains(number)).collect();
    assert!(not_met.is_empty(), "{not_met:?} were never asked");
    assert!(peak < 120.0, "{peak} MiB");
}
