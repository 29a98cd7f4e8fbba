//! Leases over a real Redis, which this test starts: `cargo test -p weir-shared --test leases`.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::{Duration, Instant},
};

use tokio::runtime::Handle;
use weir_conformance::{bucket::Bucket as Store3, redis::Redis as Server};
use weir_shared::{Bucket, Flight, Redis, RedisClient, RedisError, S3, Tier, Turn};
use weir_storage::{Store, oci::Algorithm};

const FOLLOW: Duration = Duration::from_secs(20);

struct Fleet {
    server: Server,
    bucket: Store3,
    directory: tempfile::TempDir,
}

/// The tier of one replica.
struct Replica {
    tier: Tier,
    _directory: tempfile::TempDir,
}

impl Fleet {
    async fn start() -> Fleet {
        let (server, directory) = (Server::start("").unwrap(), tempfile::tempdir().unwrap());
        Fleet { server, bucket: Store3::start().await.unwrap(), directory }
    }

    async fn replica(&self) -> Replica {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("data");
        let store = Store::open(weir_storage::Settings { root, ..weir_storage::Settings::default() }).unwrap();
        let credentials_file = self.directory.path().join("credentials");
        std::fs::write(&credentials_file, "aws_access_key_id = a\naws_secret_access_key = b\n").unwrap();
        let settings = S3 {
            endpoint: format!("http://{}", self.bucket.address),
            bucket: Store3::NAME.to_owned(),
            credentials_file,
            ..S3::default()
        };
        let redis =
            Redis { url: self.server.url(), timeout: Duration::from_secs(1), follow: FOLLOW, ..Redis::default() };
        let bucket = Bucket::open(&settings).unwrap();
        bucket.probe().await.unwrap();
        let client = RedisClient::open(&redis).unwrap();
        client.probe().await.unwrap();
        let tier = Tier::start(bucket, &settings, Some((client, &redis)), None, &store, true, &Handle::current());
        Replica { tier, _directory: directory }
    }

    /// Waits until the lease is there, or no longer.
    async fn waits_for(&self, is_there: bool) {
        for _ in 0..1000 {
            if self.raw::<Option<String>>(&["GET", &key()]).await.is_some() == is_there {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the lease is there: {}", !is_there);
    }

    /// What a key of Redis holds, by a connection of its own.
    async fn raw<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let client = redis::Client::open(self.server.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut call = redis::cmd(command[0]);
        command[1..].iter().for_each(|arg| {
            call.arg(*arg);
        });
        call.query_async(&mut connection).await.unwrap()
    }
}

fn flight() -> Flight {
    Flight::blob(&Algorithm::Sha256.digest(b"a"))
}

/// What a replica gets of another one: nothing.
fn alone(_: String) -> std::future::Ready<Option<()>> {
    std::future::ready(None)
}

fn key() -> String {
    format!("weir:flight:blob:{}", Algorithm::Sha256.digest(b"a"))
}

#[tokio::test]
async fn of_many_that_lack_an_object_one_asks_upstream_and_the_others_find_what_it_brought() {
    let fleet = Fleet::start().await;
    let replicas = [fleet.replica().await, fleet.replica().await, fleet.replica().await];
    let (is_there, asked) = (AtomicBool::new(false), AtomicU32::new(0));
    let lookup = async |replica: &Replica| {
        let look = || async { is_there.load(Ordering::SeqCst).then_some(()) };
        if let Turn::Ask(lease) = replica.tier.turn(&flight(), look, alone).await {
            asked.fetch_add(1, Ordering::SeqCst);
            // Longer than a lease lasts that is not renewed.
            tokio::time::sleep(Duration::from_secs(7)).await;
            is_there.store(true, Ordering::SeqCst);
            lease.unwrap().got();
        }
    };
    futures_util::future::join_all(replicas.iter().chain(&replicas).map(lookup)).await;
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    fleet.waits_for(false).await;
}

#[tokio::test]
async fn an_owner_that_fails_lets_those_who_wait_ask_at_once() {
    let fleet = Fleet::start().await;
    let (owner, other) = (fleet.replica().await, fleet.replica().await);
    let nothing = || async { None::<()> };
    let Turn::Ask(Some(lease)) = owner.tier.turn(&flight(), nothing, alone).await else { panic!("no replica has it") };
    let began = Instant::now();
    let looks = AtomicU32::new(0);
    let look = || async {
        looks.fetch_add(1, Ordering::SeqCst);
        None::<()>
    };
    let fails = async {
        while looks.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(lease);
    };
    let wanted = flight();
    let (turn, ()) = tokio::join!(other.tier.turn(&wanted, look, alone), fails);
    assert!(matches!(turn, Turn::Ask(None)), "{turn:?}");
    assert!(began.elapsed() < FOLLOW / 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_another_holds_by_now_is_neither_renewed_nor_freed() {
    let fleet = Fleet::start().await;
    let replica = fleet.replica().await;
    for is_got in [true, false] {
        let Turn::Ask(Some(lease)) = replica.tier.turn(&flight(), || async { None::<()> }, alone).await else {
            panic!("no replica has it")
        };
        // As after a pause: it lapsed, and another one took it for a while.
        fleet.raw::<()>(&["SET", &key(), "another", "PX", "60000"]).await;
        if is_got {
            lease.got();
            // Twice the time after which it is renewed.
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
        let life: i64 = fleet.raw(&["PTTL", &key()]).await;
        drop(lease);
        tokio::time::sleep(Duration::from_millis(200)).await;
        let held: Option<String> = fleet.raw(&["GET", &key()]).await;
        assert!(held.as_deref() == Some("another") && life > 50_000, "{held:?} {life}");
        fleet.raw::<()>(&["DEL", &key()]).await;
    }
}

#[tokio::test]
async fn a_lease_that_redis_lost_is_taken_again() {
    let fleet = Fleet::start().await;
    let (owner, other) = (fleet.replica().await, fleet.replica().await);
    let Turn::Ask(Some(lease)) = owner.tier.turn(&flight(), || async { None::<()> }, alone).await else {
        panic!("no replica has it")
    };
    fleet.raw::<()>(&["FLUSHALL"]).await;
    fleet.waits_for(true).await;
    let looks = AtomicU32::new(0);
    let look = || async { (looks.fetch_add(1, Ordering::SeqCst) > 0).then_some(()) };
    let got = async {
        while looks.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        lease.got();
        drop(lease);
    };
    let wanted = flight();
    let (turn, ()) = tokio::join!(other.tier.turn(&wanted, look, alone), got);
    assert!(matches!(turn, Turn::Found(())), "{turn:?}");
}

#[tokio::test]
async fn a_user_without_the_rights_is_refused_by_the_probe() {
    let fleet = Fleet::start().await;
    fleet.raw::<()>(&["ACL", "SETUSER", "weir", "on", ">canary", "~weir:*", "+get", "+ping"]).await;
    let password_file = fleet.directory.path().join("password");
    std::fs::write(&password_file, "canary\n").unwrap();
    let settings = Redis {
        url: fleet.server.url(),
        username: "weir".to_owned(),
        password_file,
        timeout: Duration::from_secs(1),
        ..Redis::default()
    };
    let refused = RedisClient::open(&settings).unwrap().probe().await.unwrap_err();
    assert!(matches!(refused, RedisError::Refused(_)) && !refused.to_string().contains("canary"), "{refused}");
    let rights = ["ACL", "SETUSER", "weir", "+set", "+del", "+eval", "+evalsha", "+script|load"];
    fleet.raw::<()>(&rights).await;
    RedisClient::open(&settings).unwrap().probe().await.unwrap();
}
