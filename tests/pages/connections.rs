//! The listener of the pages: which connections give way when there are too many, and what readiness says of the disk.

use super::harness::{Browser, Harness};

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_or_half_of_it_give_way_to_a_probe() {
    let world = Harness::start().await;
    let probe = || {
        let started = std::time::Instant::now();
        assert_eq!(Browser::new(&world).get("/healthz").status, 200);
        started.elapsed()
    };
    // Far more than the listener holds, of the very address that the probe comes from.
    let mut silent: Vec<_> = (0..400).map(|_| std::net::TcpStream::connect(world.admin).unwrap()).collect();
    let after_silence = probe();
    let head = format!("POST /api/v1/bans HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n", world.admin);
    for socket in silent.drain(..100) {
        drop(socket);
    }
    let half_sent: Vec<_> = (0..100)
        .map(|_| {
            let mut socket = std::net::TcpStream::connect(world.admin).unwrap();
            std::io::Write::write_all(&mut socket, format!("{head}Content-Length: 1000\r\n\r\n{{").as_bytes()).unwrap();
            socket
        })
        .collect();
    let after_halves = probe();
    // The oldest of this client has given way, long before the time-out of its body.
    let mut oldest = &half_sent[0];
    oldest.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    let read = std::io::Read::read(&mut oldest, &mut [0]);
    let is_closed = read.as_ref().map_or_else(|error| error.kind() == std::io::ErrorKind::ConnectionReset, |n| *n == 0);
    assert!(is_closed, "{read:?}");
    // Without a limit of one client's connections each of them waits for the time-out of others, seconds later.
    for elapsed in [after_silence, after_halves] {
        assert!(elapsed < std::time::Duration::from_millis(1500), "{elapsed:?}");
    }
    drop((silent, half_sent));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_clients_within_their_shares_the_oldest_give_way() {
    const CAPACITY: usize = 256;
    let world = Harness::start().await;
    let half = format!(
        "POST /api/v1/bans HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{",
        world.admin
    );
    let connect = |host: u8| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&std::net::SocketAddr::from(([127, 0, 0, host], 0)).into()).unwrap();
        socket.connect(&world.admin.into()).unwrap();
        let mut socket = std::net::TcpStream::from(socket);
        std::io::Write::write_all(&mut socket, half.as_bytes()).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    };
    let crowd: Vec<_> = (2..12).flat_map(|host| (0..30).map(move |_| host)).map(connect).collect();
    let would_wait = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    let is_open = |socket: &&std::net::TcpStream| socket.peek(&mut [0]).as_ref().is_err_and(would_wait);
    // Long before the time-out of their bodies.
    let begun = std::time::Instant::now();
    while crowd.iter().filter(is_open).count() > CAPACITY {
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "all are kept");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// A probe knows no password and asks at any address.
#[tokio::test(flavor = "multi_thread")]
async fn readiness_says_that_the_disk_is_read_only_or_full() {
    let harness = Harness::start().await;
    let mut probe = Browser::new(&harness);
    for (errno, said) in [(30, "is read-only"), (28, "has no space left")] {
        harness.bench.faults.fail(weir_storage::Call::Create, 0, u32::MAX, errno);
        let mut disk = |wanted: bool| loop {
            let answer = probe.get("/readyz?verbose");
            let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            let disk = json["checks"].as_array().unwrap().iter().find(|check| check["name"] == "disk").unwrap().clone();
            if disk["ok"] == wanted {
                assert_eq!((answer.status, json["ready"].as_bool()), (200, Some(true)));
                return disk["problem"].as_str().unwrap_or_default().to_owned();
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        };
        let problem = disk(false);
        assert!(problem.contains(said), "{problem}");
        harness.bench.faults.heal();
        disk(true);
    }
    let plain: serde_json::Value = serde_json::from_str(&probe.get("/readyz").body).unwrap();
    assert!(plain["checks"].is_null(), "{plain}");
}
