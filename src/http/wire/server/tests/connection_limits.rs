//! How many connections a client may have, and whose gives way when nearly all are taken.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn one_client_never_has_all_connections_and_gets_back_what_it_gives_up() {
    let few = Settings { connections_per_client: 2, ..settings() };
    let (serving, world) = serving(&few, None);
    let mut idle = [Raw::to(&serving).await, Raw::to(&serving).await];
    for client in &mut idle {
        client.get("/x").await;
        client.head().await;
        client.body(2).await;
    }
    let mut third = Raw::to(&serving).await;
    let mut rest = Vec::new();
    let closed = tokio::io::AsyncReadExt::read_to_end(&mut third.0, &mut rest).await;
    assert_eq!((closed.unwrap(), world.calls.load(Ordering::SeqCst)), (0, 2), "it is closed, not reset");
    let text = world.metrics();
    assert!(text.contains("http_turned_away_connections_total 1"), "{text}");
    drop(idle);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut again = Raw::to(&serving).await;
        again.get("/x").await;
        if tokio::io::AsyncReadExt::read_u8(&mut again.0).await.is_ok() {
            break;
        }
        assert!(Instant::now() < deadline, "a place that was given up stays taken");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_idle_connection_of_the_client_with_most_gives_way() {
    let few = Settings { connections: 32, connections_per_client: 32, ..settings() };
    let (serving, _) = serving(&few, None);
    let address = serving.addresses[0];
    // Each address of the loopback network is a client.
    let connect = async |client: u8| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, client], 0).into()).unwrap();
        let mut connection = Raw(socket.connect(address).await.unwrap());
        connection.get("/x").await;
        connection.head().await;
        connection.body(2).await;
        connection
    };
    let mut first = connect(2).await;
    // Its time does not follow from that of the others.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let mut many = Vec::new();
    for _ in 0..28 {
        many.push(connect(2).await);
    }
    let mut other = connect(3).await;
    let new = tokio::time::timeout(PATIENCE, connect(4)).await;
    assert!(new.is_ok(), "it waits for a connection that is idle");
    assert_eq!(first.rest().await, b"");
    for connection in many.iter_mut().chain([&mut other]) {
        connection.get("/y").await;
        assert!(connection.head().await.starts_with("http/1.1 200"));
    }
}

/// Requests that never end take no connection from a client that has few.
#[tokio::test(flavor = "multi_thread")]
async fn of_connections_that_are_all_in_use_the_longest_of_the_client_with_most_gives_way() {
    let few = Settings { connections: 32, connections_per_client: 16, ..settings() };
    for path in ["/slow", "/growing"] {
        let (serving, world) = serving(&few, None);
        let connect = async |client: u8| {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(([127, 0, 0, client], 0).into()).unwrap();
            Raw(socket.connect(serving.addresses[0]).await.unwrap())
        };
        // Each is called before the next connects, so that the first of the client with most is the longest.
        let mut held = Vec::new();
        for client in [2].repeat(16).into_iter().chain([3].repeat(14)) {
            let before = world.calls.load(Ordering::SeqCst);
            let mut connection = connect(client).await;
            connection.get(path).await;
            while world.calls.load(Ordering::SeqCst) == before {
                tokio::task::yield_now().await;
            }
            held.push(connection);
            // A later one has another millisecond.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let mut new = connect(4).await;
        new.get("/x").await;
        assert!(new.head().await.starts_with("http/1.1 200"), "{path}");
        let mut rest = Vec::new();
        let cut = tokio::io::AsyncReadExt::read_to_end(&mut held[0].0, &mut rest);
        let cut = tokio::time::timeout(PATIENCE, cut).await;
        assert!(cut.is_ok(), "{path}: the first is cut");
        for connection in &held[1..] {
            let read = connection.0.try_read(&mut [0; 500]);
            // A transfer that waits has sent its head.
            assert!(
                read.as_ref().map_or_else(|error| error.kind() == std::io::ErrorKind::WouldBlock, |count| *count > 0),
                "{read:?}"
            );
        }
        new.body(2).await;
        new.get("/y").await;
        assert!(new.head().await.starts_with("http/1.1 200"), "{path}");
    }
}
