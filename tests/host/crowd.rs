//! Two thousand connections that are slow in every way, and clients beside them that are not.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::support::World;

/// From its own address, so that the crowd's share is not this client's.
fn connect(to: SocketAddr, last: u8) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, last], 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// The slowest but one in a hundred of so many warm pulls of one connection.
fn p99(to: SocketAddr, path: &str) -> Duration {
    let mut socket = connect(to, 200);
    let mut took: Vec<Duration> = (0..500)
        .map(|_| {
            let begun = Instant::now();
            write!(socket, "HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") {
                assert_eq!(socket.read(&mut byte).unwrap(), 1, "closed: {}", String::from_utf8_lossy(&head));
                head.push(byte[0]);
            }
            assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
            begun.elapsed()
        })
        .collect();
    took.sort();
    took[took.len() * 99 / 100]
}

fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_slow_connections_are_closed_and_others_hardly_notice() {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
    let world = World::start("exec \"$WEIR\" \"$@\"", "").await;
    let image = world.pull("library/busybox").await;
    let (address, pid) = (world.weir.address, world.weir.pid().unwrap());
    let (path, layer) = ("/v2/library/busybox/manifests/latest", image.platforms[0].layers[0].digest.clone());
    let figures = tokio::task::spawn_blocking(move || {
        let quiet = (p99(address, path), open_files(pid));
        let crowd: Vec<TcpStream> = (0..2000_usize)
            .map(|number| {
                // Four addresses, each within its share.
                let mut socket = connect(address, 2 + (number % 4) as u8);
                let sent = match number / 4 % 4 {
                    0 => String::new(),
                    1 => "GET /v2/ HTTP/1.1\r\nHo".to_owned(),
                    2 => "PUT /v2/team/a/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{".to_owned(),
                    // It reads nothing of what it asks for.
                    _ => format!("GET /v2/library/busybox/blobs/{layer} HTTP/1.1\r\nHost: x\r\n\r\n").repeat(50),
                };
                let _ = socket.write_all(sent.as_bytes());
                socket
            })
            .collect();
        let crowded = p99(address, path);
        // All of them are closed by Weir, though they leave their ends open.
        let begun = Instant::now();
        while open_files(pid) > quiet.1 + 20 {
            assert!(begun.elapsed() < Duration::from_secs(180), "{} files are open", open_files(pid));
            std::thread::sleep(Duration::from_millis(200));
        }
        drop(crowd);
        (quiet.0, crowded)
    });
    let (quiet, crowded) = figures.await.unwrap();
    println!("p99 of a warm HEAD: {quiet:?} alone, {crowded:?} beside 2,000 slow connections");
    // One that waits for a slow connection waits for seconds; a machine with other work stalls for less.
    assert!(crowded <= 3 * quiet + Duration::from_millis(250), "{quiet:?}, then {crowded:?}");
}
