//! What clients of three replicas want at one moment is asked of upstream by one of them: tags, lists, referrers, absences and failures.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    pin::pin,
    time::Duration,
};

use weir_conformance::{
    client::{Request, Response},
    hub::{self, Fault, Hub, Image, Kind, Match, What},
};
use weir_shared::{PeerSecret, Peers, Question, Said};

use super::{Imitation, Three, fleet::Replica};

/// How often the hub was asked for a tag of this repository by requests of this kind.
fn asked(hub: &Hub, repository: &str, kind: Kind) -> usize {
    // Without a token the answer is 401.
    hub.count(|logged| logged.repository == repository && logged.kind == kind && logged.status != 401)
}

fn head(replica: &Replica, repository: &str, tag: &str) -> Request {
    Request::head(replica.client.manifest(repository, tag)).accepting_manifests()
}

fn get(replica: &Replica, repository: &str, tag: &str) -> Request {
    Request::get(replica.client.manifest(repository, tag)).accepting_manifests()
}

/// A client of the first replica asks, and the hub holds what that replica asks for. Then one of each other replica asks, and the hub goes on
/// when both of those wait for the first.
async fn together(three: &Three, on: Match, request: impl Fn(&Replica) -> Request) -> [Response; 3] {
    let gate = three.fleet.hub.hold(on);
    let [one, other, another] = &three.replicas;
    let begun = async {
        assert!(gate.started().await);
        let others = async { tokio::join!(other.send(request(other)), another.send(request(another))) };
        let both_wait = async {
            one.shows("weir_shared_answers_waiting 2").await;
            gate.open();
        };
        tokio::join!(others, both_wait).0
    };
    let (first, (second, third)) = tokio::join!(one.send(request(one)), begun);
    [first, second, third]
}

#[tokio::test]
async fn a_tag_that_clients_of_three_replicas_want_costs_one_head_and_one_get() {
    let three = Three::start_with(true).await;
    let hub = &three.fleet.hub;
    let image = three.push("tagged", 1);
    let held = Match::kind(Kind::ManifestHead).repository(image.repository.as_str());
    for answer in together(&three, held.clone(), |replica| head(replica, &image.repository, "latest")).await {
        assert_eq!((answer.status(), answer.head.digest()), (200, Some(image.digest())), "{}", answer.describe());
    }
    assert_eq!(asked(hub, &image.repository, Kind::ManifestHead), 1);
    let other = three.push("fetched", 2);
    let held = Match::kind(Kind::ManifestHead).repository(other.repository.as_str());
    for answer in together(&three, held, |replica| get(replica, &other.repository, "latest")).await {
        assert!(answer.status() == 200 && answer.body == other.root.bytes, "{}", answer.describe());
    }
    assert_eq!(asked(hub, &other.repository, Kind::ManifestHead), 1);
    assert_eq!(asked(hub, &other.repository, Kind::ManifestGet), 1);
}

#[tokio::test]
async fn what_upstream_said_of_a_tag_a_moment_ago_is_not_asked_again_by_another_replica() {
    // The bucket takes nothing in time, so that what the second replica knows it has from the first.
    let three = Three::start_with(true).await;
    three.fleet.bucket.trouble(super::Trouble::LateWrites(Duration::from_secs(2)));
    let image = three.push("lately", 1);
    let [one, other, another] = &three.replicas;
    for replica in [one, other, another] {
        assert_eq!(replica.send(head(replica, &image.repository, "latest")).await.status(), 200);
        assert_eq!(replica.send(head(replica, &image.repository, "none")).await.status(), 404);
    }
    assert_eq!(asked(&three.fleet.hub, &image.repository, Kind::ManifestHead), 2);
}

#[tokio::test]
async fn an_absent_tag_costs_three_replicas_what_it_costs_one() {
    let three = Three::start_with(true).await;
    let (hub, image) = (&three.fleet.hub, three.push("absent", 1));
    let held = Match::kind(Kind::ManifestHead).repository(image.repository.as_str());
    for answer in together(&three, held, |replica| get(replica, &image.repository, "none")).await {
        assert_eq!(answer.status(), 404, "{}", answer.describe());
    }
    let cost = |tag: &'static str| {
        hub.count(|logged| logged.reference == tag && logged.status != 401 && logged.repository == image.repository)
    };
    // What one replica pays, of which the others know nothing.
    let [one, ..] = &three.replicas;
    assert_eq!(one.send(get(one, &image.repository, "nothing")).await.status(), 404);
    assert_eq!(cost("none"), cost("nothing"));
}

#[tokio::test]
async fn a_list_of_tags_or_referrers_that_clients_of_three_replicas_want_is_asked_for_once() {
    let three = Three::start_with(true).await;
    let (hub, image) = (&three.fleet.hub, three.push("listing", 1));
    let lists = [
        (Kind::Tags, format!("/v2/{}/tags/list", image.repository), "latest"),
        (Kind::Referrers, format!("/v2/{}/referrers/{}", image.repository, image.digest()), "manifests"),
    ];
    for (kind, path, word) in lists {
        let held = Match::kind(kind).repository(image.repository.as_str());
        for answer in together(&three, held, |_| Request::get(&path)).await {
            assert!(answer.status() == 200 && answer.text().contains(word), "{}", answer.describe());
        }
        assert_eq!(asked(hub, &image.repository, kind), 1, "{path}");
    }
    let held = Match::kind(Kind::Tags).repository("library/nothing");
    for answer in together(&three, held, |_| Request::get("/v2/library/nothing/tags/list")).await {
        assert_eq!(answer.status(), 404, "{}", answer.describe());
    }
    // What one replica pays, of which the others know nothing. Docker Hub answers 401, with a token too.
    let [one, ..] = &three.replicas;
    assert_eq!(one.send(Request::get("/v2/library/nowhere/tags/list")).await.status(), 404);
    let cost = |name: &str| hub.count(|logged| logged.repository == name && logged.kind == Kind::Tags);
    assert_eq!(cost("library/nothing"), cost("library/nowhere"));
}

#[tokio::test]
async fn a_tag_of_a_registry_that_refuses_heads_is_got_by_one_replica_whether_it_is_there_or_not() {
    let three = Three::start_with(true).await;
    let (hub, image) = (&three.fleet.hub, three.push("headless", 1));
    hub.fault(Fault::always(What::NoHead));
    let cost = |kind| asked(hub, &image.repository, kind);
    let held = Match::kind(Kind::ManifestGet).repository(image.repository.as_str());
    for answer in together(&three, held.clone(), |replica| get(replica, &image.repository, "latest")).await {
        assert!(answer.status() == 200 && answer.body == image.root.bytes, "{}", answer.describe());
    }
    assert_eq!((cost(Kind::ManifestHead), cost(Kind::ManifestGet)), (1, 1));
    hub.clear_log();
    for answer in together(&three, held, |replica| get(replica, &image.repository, "none")).await {
        assert_eq!(answer.status(), 404, "{}", answer.describe());
    }
    assert_eq!(cost(Kind::ManifestGet), 1);
}

#[tokio::test]
async fn a_failure_is_told_to_the_replicas_that_wait_and_to_none_that_asks_later() {
    for (name, what, status) in [("limited", What::Abuse(Some(60)), 429), ("failing", What::Status(502), 503)] {
        let three = Three::start_with(true).await;
        let (hub, image) = (&three.fleet.hub, three.push(name, 1));
        let on = Match::kind(Kind::ManifestHead).repository(image.repository.as_str());
        hub.fault(Fault::always(what).on(on.clone()));
        let answers = together(&three, on, |replica| head(replica, &image.repository, "latest")).await;
        assert_eq!(answers.map(|answer| answer.status()), [status; 3], "{name}");
        let [_, other, another] = &three.replicas;
        for replica in [other, another] {
            replica.shows("weir_shared_flights_total{outcome=\"told\"} 1").await;
        }
        // An abuse limit is obeyed until it ends.
        if status == 503 {
            hub.clear_faults();
            hub.clear_log();
            assert_eq!(other.send(head(other, &image.repository, "latest")).await.status(), 200);
            assert_eq!(asked(hub, &image.repository, Kind::ManifestHead), 1);
        }
    }
}

#[tokio::test]
async fn a_replica_that_is_killed_while_it_asks_for_a_tag_costs_one_more_request_and_no_client_of_another() {
    let mut three = Three::start_with(true).await;
    let image = three.push("killed", 1);
    let gate = three.fleet.hub.hold(Match::kind(Kind::ManifestHead).repository(image.repository.as_str()));
    let [owner, one, other] = &mut three.replicas;
    tokio::select! {
        answer = owner.send(head(owner, &image.repository, "latest")) => panic!("{}", answer.describe()),
        is_held = gate.started() => assert!(is_held),
    }
    let others = async {
        tokio::join!(
            one.send(head(one, &image.repository, "latest")),
            other.send(head(other, &image.repository, "latest"))
        )
    };
    let killed = async {
        owner.shows("weir_shared_answers_waiting 2").await;
        owner.process.kill().await.unwrap();
        gate.open();
    };
    let ((first, second), ()) = tokio::join!(others, killed);
    assert_eq!((first.status(), second.status()), (200, 200));
    // That of the replica that was killed, which had no token yet, was never answered with what the tag names.
    let repository = &image.repository;
    let answered = |logged: &hub::Logged| logged.kind == Kind::ManifestHead && logged.status == 200;
    assert_eq!(three.fleet.hub.count(|logged| answered(logged) && logged.repository == *repository), 1);
}

/// A replica that has the lease of the tag `latest`, and says this of it. `forge`: with another secret than the fleet's.
fn imitation(three: &Three, image: &Image, said: Said, forge: bool) -> Imitation {
    let secret_file = three.fleet.directory.path().join(if forge { "forged" } else { "secret" });
    if forge {
        std::fs::write(&secret_file, "another secret, 32 bytes or longer").unwrap();
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let url = format!("http://{address}");
    let secret = PeerSecret::read(&Peers { url: url.clone(), secret_file, ..Peers::default() }).unwrap();
    let (requests, asked) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket: TcpStream = socket.unwrap();
            let mut head = [0; 4096];
            let read = socket.read(&mut head).unwrap_or_default();
            let head = String::from_utf8_lossy(&head[..read]).to_lowercase();
            let words = head.split_whitespace().nth(1).and_then(|path| path.strip_prefix("/v1/answers/"));
            let Some((token, key)) = words.and_then(|words| words.split_once('/')) else { continue };
            let nonce = head.lines().find_map(|line| line.strip_prefix("weir-nonce: ")).unwrap_or_default();
            let body = said.to_bytes();
            let seal = secret.seal(&Question::new(token, key, nonce).unwrap(), &body);
            let length = body.len();
            let _ = write!(socket, "HTTP/1.1 200 OK\r\nweir-seal: {seal}\r\ncontent-length: {length}\r\n\r\n");
            let _ = socket.write_all(&body);
            let _ = requests.send(());
        }
    });
    let key = format!("weir:flight:tag:public:docker.io/{}:latest", image.repository);
    three.command(&format!("SET {key} \"0a {url}\" PX 60000"));
    Imitation { address, asked }
}

/// That a tag names this digest, had with this credential.
fn named(credential: &str, digest: &str) -> Said {
    let body = format!(
        r#"{{"found":{{"credential":"{credential}","digest":"{digest}","media_type":"application/vnd.oci.image.index.v1+json","size":7,"at":{{"secs_since_epoch":{},"nanos_since_epoch":0}}}}}}"#,
        std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_secs()
    );
    Said::Given { age: Duration::ZERO, body: body.into() }
}

/// A digest that upstream does not give.
fn foreign() -> String {
    format!("sha256:{}", "5".repeat(64))
}

#[tokio::test]
async fn what_a_replica_with_the_secret_says_of_a_tag_is_believed() {
    let three = Three::start_with(true).await;
    let image = three.push("believed", 1);
    let mut replica = imitation(&three, &image, named("anonymous", &foreign()), false);
    let [one, ..] = &three.replicas;
    let answer = one.send(head(one, &image.repository, "latest")).await;
    assert!(replica.asked.try_recv().is_ok());
    assert_eq!((answer.status(), answer.head.digest()), (200, Some(&*foreign())), "{}", answer.describe());
    assert_eq!(asked(&three.fleet.hub, &image.repository, Kind::ManifestHead), 0);
}

#[tokio::test]
async fn what_is_sealed_with_another_secret_is_not_believed() {
    let three = Three::start_with(true).await;
    let image = three.push("forged", 1);
    let mut forger = imitation(&three, &image, named("anonymous", &foreign()), true);
    let [one, ..] = &three.replicas;
    let mut asking = pin!(one.send(head(one, &image.repository, "latest")));
    tokio::select! {
        answer = &mut asking => panic!("it did not wait for the owner of the lease: {}", answer.describe()),
        is_asked = forger.asked.recv() => assert!(is_asked.is_some()),
    }
    three.command(&format!("DEL weir:flight:tag:public:docker.io/{}:latest", image.repository));
    let answer = asking.await;
    assert_eq!((answer.status(), answer.head.digest()), (200, Some(image.digest())), "{}", answer.describe());
}

#[tokio::test]
async fn what_an_account_was_told_is_not_for_a_client_that_may_not_read_what_it_reads() {
    let three = Three::start_with(true).await;
    let image = three.push("private", 1);
    let mut replica = imitation(&three, &image, named("acme", &foreign()), false);
    let [one, ..] = &three.replicas;
    let answer = one.send(head(one, &image.repository, "latest")).await;
    assert!(replica.asked.try_recv().is_ok());
    assert_eq!((answer.status(), answer.head.digest()), (200, Some(image.digest())), "{}", answer.describe());
}
