//! An honest client beside thousands of connections that hold on, and memory after wrong passwords.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use weir_conformance::{
    client::{Client, Request},
    hub::{self, Hub, Image, Spec},
};

use crate::support::{Weir, number};

/// `weir`, with the parameters that `weir hash-password` uses.
const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$kxGijz/3o2vdXUodgFgFqg$xNIKwwOml04OOn6HB04DQtBkecO0nUsH9nxtip4ROiU";

fn account() -> String {
    format!("[[account]]\nname = \"ops\"\nrole = \"admin\"\npassword_hash = \"{HASH}\"\n")
}

/// A connection of the client at 127.0.`group`.`number`.
fn connect(to: SocketAddr, group: u8, number: u8) -> std::io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, group, number)), 0).into())?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

fn wrong(guess: u64) -> String {
    BASE64_STANDARD.encode(format!("ops:guess {guess}"))
}

/// The 99th of 100 parts of so many warm pulls, and the longest `/healthz`.
async fn honest(weir: &Weir, image: &Image) -> (Duration, Duration) {
    let (mut pulls, mut health) = (Vec::new(), Duration::ZERO);
    for _ in 0..2000 {
        let begun = Instant::now();
        let answer = weir.client.get_manifest(&image.repository, image.digest()).await.unwrap();
        assert!(answer.complete(), "{}", answer.describe());
        pulls.push(begun.elapsed());
        let begun = Instant::now();
        assert_eq!(weir.admin.send(&Request::get("/healthz")).await.unwrap().status(), 200);
        health = health.max(begun.elapsed());
    }
    pulls.sort_unstable();
    (pulls[pulls.len() * 99 / 100], health)
}

/// Keeps this process to one core, since what its thousands of clients need of a processor is no figure of Weir's; Weir has all cores.
fn stay_on_one_core() {
    let pid = std::process::id().to_string();
    let kept = std::process::Command::new("taskset").args(["--all-tasks", "--cpu-list", "--pid", "0", &pid]).output();
    assert!(kept.as_ref().is_ok_and(|output| output.status.success()), "{kept:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_client_hardly_notices_thousands_that_hold_on() {
    let hub = Hub::start(hub::Settings::default()).await.unwrap();
    let weir = Weir::start(hub.registry(), "", &account()).await;
    stay_on_one_core();
    let image = hub.push(Spec::new("library/siege").single().layers([8 << 20])).unwrap();
    assert!(weir.client.get_manifest(&image.repository, image.digest()).await.unwrap().complete());
    let layer = image.platforms[0].layers[0].digest.clone();
    assert!(weir.client.get_blob(&image.repository, &layer).await.unwrap().complete());
    let (registry, admin) = (weir.client.address(), weir.admin.address());
    let baseline = honest(&weir, &image).await;
    let mut held = Vec::new();
    for number in 0..8000_u32 {
        held.extend(connect(registry, 1, (number % 20) as u8 + 1));
    }
    let idle = held.len();
    for number in 0..2000_u32 {
        let Ok(mut slow) = connect(registry, 2, (number % 20) as u8 + 1) else { continue };
        let asked = write!(slow, "GET /v2/library/siege/blobs/{layer} HTTP/1.1\r\nHost: weir\r\n\r\n");
        held.extend(asked.is_ok().then_some(slow));
    }
    let slow = held.len() - idle;
    for number in 0..300_u32 {
        let Ok(mut half) = connect(admin, 3, (number % 20) as u8 + 1) else { continue };
        let head = "POST /api/v1/bans HTTP/1.1\r\nHost: weir\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n{";
        held.extend(half.write_all(head.as_bytes()).is_ok().then_some(half));
    }
    let half = held.len() - idle - slow;
    let (over, guesses) = (AtomicBool::new(false), AtomicU64::new(0));
    let (under, descriptors) = std::thread::scope(|scope| {
        for address in 0..75 {
            let (over, guesses) = (&over, &guesses);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let Ok(mut guess) = connect(registry, 4, address + 1) else { continue };
                    let number = guesses.fetch_add(1, Ordering::Relaxed);
                    let head = "GET /v2/ HTTP/1.1\r\nHost: weir\r\nConnection: close\r\nAuthorization: Basic ";
                    let _ = write!(guess, "{head}{}\r\n\r\n", wrong(number));
                    let _ = guess.read(&mut [0; 512]);
                }
            });
        }
        let under = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(honest(&weir, &image)));
        let descriptors = weir.measure().1;
        over.store(true, Ordering::Relaxed);
        (under, descriptors)
    });
    let guesses = guesses.into_inner();
    println!(
        "{idle} idle connections, {slow} slow bodies, {half} half-sent admin bodies, {guesses} wrong passwords over 75 connections; \
         Weir has {descriptors} descriptors at the end: p99 {:?} (alone {:?}), /healthz at most {:?} (alone {:?})",
        under.0, baseline.0, under.1, baseline.1
    );
    // Otherwise it was no siege: of the connections that it was sent, Weir holds as many as it may have, less its reserves.
    assert!((idle, slow, half) == (8000, 2000, 300) && guesses > 75 && descriptors > 7000.0);
    assert!(under.0 <= 3 * baseline.0 && under.1 <= Duration::from_millis(100));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_passwords_leave_no_memory_behind() {
    let count = number("WEIR_WRONG_PASSWORDS", 10_000);
    let hub = Hub::start(hub::Settings::default()).await.unwrap();
    let weir = Weir::start(hub.registry(), "", &format!("{}[limits]\ndry_run = [\"*\"]\n", account())).await;
    let next = AtomicU64::new(0);
    let registry = weir.client.address();
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    // Ten of one address, so that each is looked at.
                    let from = number / 10;
                    let mut guess = connect(registry, 10 + (from / 250) as u8, (from % 250) as u8 + 1).unwrap();
                    let head = "GET /v2/ HTTP/1.1\r\nHost: weir\r\nConnection: close\r\nAuthorization: Basic ";
                    write!(guess, "{head}{}\r\n\r\n", wrong(number)).unwrap();
                    let mut answer = [0; 512];
                    let length = guess.read(&mut answer).unwrap();
                    assert!(
                        answer[..length].starts_with(b"HTTP/1.1 "),
                        "{:?}",
                        String::from_utf8_lossy(&answer[..length])
                    );
                }
            });
        }
    });
    let (resident, _) = weir.measure();
    println!("{count} wrong passwords: {resident:.1} MiB resident");
    assert!(resident < 60.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_clients_leave_little_memory_behind() {
    let hub = Hub::start(hub::Settings::default()).await.unwrap();
    let weir = Weir::start(hub.registry(), "", "").await;
    let image = hub.push(Spec::new("library/many").single().layers([100_000])).unwrap();
    let end = Instant::now() + Duration::from_secs(60 * number("WEIR_CLIENTS_MINUTES", 5));
    let address = weir.client.address();
    let clients = (0..2000).map(|_| {
        let image = image.clone();
        tokio::spawn(async move {
            let client = Client::new(address, "");
            while Instant::now() < end {
                // One address may be turned away when it has all the connections that it may have.
                if let Ok(answer) = client.get_blob(&image.repository, &image.platforms[0].layers[0].digest).await {
                    assert!(!answer.complete() || answer.sha256 == image.platforms[0].layers[0].digest);
                }
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let (resident, descriptors) = weir.measure();
    println!("2,000 clients: {resident:.1} MiB resident, {descriptors} descriptors");
    assert!(resident < 200.0);
}
