//! One process for half an hour under random faults of its upstream, compared with a model, while its memory and descriptors are measured.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use weir_conformance::{
    client::{Client, Request, Response},
    hub::{self, At, Fault, Hub, Limit, Spec, What},
};

use crate::{
    random::Random,
    support::{Weir, digest, number},
};

const WORKERS: u64 = 8;
const REPOSITORIES: usize = 4;
const IMAGES: usize = 6;
/// What a worker pushes and does not delete at most, of 50 KB on average: together less than half of the cache.
const PUSHED: usize = 60;
/// The bytes at the end of an arriving blob that wait for its digest.
const HOLD_BACK: usize = weir_storage::HOLD_BACK as usize;
/// `mirror.ahead_range` as it is by default.
const AHEAD_RANGE: usize = 4 << 20;
/// How often memory and descriptors are looked at.
const SAMPLE: Duration = Duration::from_secs(5);

/// What is done and what came of it.
#[derive(Default)]
struct Tally {
    answers: AtomicU64,
    refused: AtomicU64,
    broken: AtomicU64,
    pushes: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Tally {
    /// An answer to what is certainly there: the bytes, or a failure that is no absence.
    fn judge(
        &self,
        what: &str,
        answer: Result<Response, weir_conformance::client::Error>,
        right: impl Fn(&Response) -> bool,
    ) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        match answer {
            Ok(answer) if answer.complete() && !right(&answer) => {
                self.wrong(format!("{what}: wrong bytes, {}", answer.describe()))
            }
            Ok(answer) if answer.complete() => {}
            Ok(answer) if matches!(answer.status(), 200 | 206) => drop(self.broken.fetch_add(1, Ordering::Relaxed)),
            Ok(answer) if matches!(answer.status(), 429 | 500 | 502 | 503 | 504) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            Ok(answer) => self.wrong(format!("{what}: {}", answer.describe())),
            Err(error) => self.wrong(format!("{what}: no answer: {error}")),
        }
    }

    fn wrong(&self, why: String) {
        println!("WRONG {why}");
        self.wrong.lock().unwrap().push(why);
    }
}

struct World {
    hub: Hub,
    client: Client,
    images: Vec<hub::Image>,
    /// The bytes of every blob, as they were verified once.
    blobs: HashMap<String, Vec<u8>>,
    tally: Tally,
    over: AtomicBool,
}

/// Whether invariant 1 lets this range of a blob out before the blob is verified: the blob was not in the cache yet, and the range
/// ends before the bytes that wait for the digest, or was far enough ahead to be passed through.
fn may_be_unverified(answer: &Response, start: usize, end: usize, size: usize) -> bool {
    let is_hit = answer.head.header("cache-status").is_some_and(|status| status.contains("hit"));
    !is_hit && (end + HOLD_BACK < size || start > AHEAD_RANGE)
}

/// Pulls, pushes and deletes until it is over. What it pushes is in a repository of its own.
async fn work(world: Arc<World>, number: u64, mut random: Random) {
    let repository = format!("local/w{number}");
    let mut pushed: Vec<(String, bool)> = Vec::new();
    while !world.over.load(Ordering::Relaxed) {
        let (client, tally) = (&world.client, &world.tally);
        let image = &world.images[random.below(world.images.len() as u64) as usize];
        let blob = &image.blobs()[random.below(image.blobs().len() as u64) as usize].digest;
        let kept = pushed.iter().filter(|(_, there)| *there).count();
        match random.below(10) {
            0..2 => {
                let named = |answer: &Response| world.images.iter().any(|image| image.digest() == answer.sha256);
                tally.judge("tag", client.get_manifest(&image.repository, "moving").await, named);
            }
            2 => {
                let answer = client.get_manifest(&image.repository, image.digest()).await;
                tally.judge("manifest", answer, |answer| answer.sha256 == image.digest());
            }
            3..6 => {
                let answer = client.get_blob(&image.repository, blob).await;
                tally.judge("blob", answer, |answer| answer.sha256 == *blob);
            }
            6 => {
                let bytes = &world.blobs[blob];
                let start = random.below(bytes.len() as u64) as usize;
                let end = start + random.below((bytes.len() - start) as u64) as usize;
                let request = Request::get(client.blob(&image.repository, blob)).range(format!("bytes={start}-{end}"));
                let is_right = |answer: &Response| {
                    answer.body == bytes[start..=end] || may_be_unverified(answer, start, end, bytes.len())
                };
                tally.judge("range", client.send(&request).await, is_right);
            }
            7 if kept < PUSHED => {
                let length = 1 + random.below(100_000);
                let bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
                let name = digest(&bytes);
                let target = format!("/v2/{repository}/blobs/uploads/?digest={name}");
                match client.send(&Request::new("POST", target).body(bytes)).await {
                    Ok(answer) if answer.status() == 201 => pushed.push((name, true)),
                    other => tally.wrong(format!("push: {other:?}")),
                }
                tally.pushes.fetch_add(1, Ordering::Relaxed);
            }
            8 if kept > PUSHED / 2 => {
                let one = random.below(pushed.len() as u64) as usize;
                let answer = client.send(&Request::new("DELETE", client.blob(&repository, &pushed[one].0))).await;
                let expected = if pushed[one].1 { 202 } else { 404 };
                if answer.as_ref().map_or(0, Response::status) != expected {
                    tally.wrong(format!("delete: {answer:?}"));
                }
                pushed[one].1 = false;
            }
            _ if pushed.is_empty() => {}
            _ => {
                let (name, there) = &pushed[random.below(pushed.len() as u64) as usize];
                let answer = client.get_blob(&repository, name).await;
                match answer {
                    Ok(answer) if !there && answer.status() == 404 => {}
                    answer if *there => tally.judge("pushed blob", answer, |answer| answer.sha256 == *name),
                    answer => tally.wrong(format!("a deleted blob: {answer:?}")),
                }
            }
        }
        if pushed.len() > 4 * PUSHED {
            pushed.retain(|(_, there)| *there);
        }
    }
}

/// Lets the upstream misbehave in one way after the other.
async fn disturb(world: Arc<World>, mut random: Random) {
    while !world.over.load(Ordering::Relaxed) {
        let count = 1 + random.below(6) as u32;
        match random.below(16) {
            0 => world.hub.fault(Fault::times(count, What::Status(503))),
            1 => world.hub.fault(Fault::times(count, What::Status(500))),
            2 => world.hub.fault(Fault::times(count, What::Html)),
            3 => world.hub.fault(Fault::times(count, What::Corrupt(random.pick(&[At::Start, At::Middle, At::Last])))),
            4 => world.hub.fault(Fault::times(count, What::Truncate(0.5))),
            5 => world.hub.fault(Fault::times(count, What::Reset(0.3))),
            6 => world.hub.fault(Fault::times(count, What::Stall(0.5))),
            7 => world.hub.fault(Fault::times(count, What::Slow(200_000))),
            8 => world.hub.fault(Fault::times(count, What::WrongDigest)),
            9 => world.hub.fault(Fault::times(count, What::ContentEncoding)),
            10 => world.hub.fault(Fault::times(count, What::TokenStatus(503))),
            11 => world.hub.revoke_tokens(),
            12 => {
                world.hub.down().await;
                tokio::time::sleep(Duration::from_millis(500)).await;
                world.hub.up().await.unwrap();
            }
            13 => world.hub.release(),
            _ => {
                let image = random.pick(&world.images);
                world.hub.retag(&image.repository, "moving", image.digest());
            }
        }
        tokio::time::sleep(Duration::from_millis(random.below(1500))).await;
        if random.below(3) == 0 {
            world.hub.clear_faults();
            world.hub.release();
        }
    }
}

/// By how much a minute the second half of the samples grows: least squares.
fn slope(samples: &[f64]) -> f64 {
    let half = &samples[samples.len() / 2..];
    let (count, per_minute) = (half.len() as f64, 60.0 / SAMPLE.as_secs_f64());
    let (middle, mean) = ((count - 1.0) / 2.0, half.iter().sum::<f64>() / count);
    let (mut above, mut below) = (0.0, 0.0);
    for (at, sample) in half.iter().enumerate() {
        above += (at as f64 - middle) * (sample - mean);
        below += (at as f64 - middle).powi(2);
    }
    per_minute * above / below
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_an_hour_of_faults_leaves_every_answer_right_and_nothing_behind() {
    let (minutes, seed) = (number("WEIR_SOAK_MINUTES", 30), number("WEIR_SOAK_SEED", 1));
    let settings = hub::Settings { limit: Some(Limit::hub(1_000_000)), log_length: 1000, ..hub::Settings::default() };
    let hub = Hub::start(settings).await.unwrap();
    let mut images = Vec::new();
    for number in 0..REPOSITORIES * IMAGES {
        let repository = format!("library/s{}", number % REPOSITORIES);
        let layers = [20_000, 3_000_000 + 100_000 * number as u64];
        images.push(
            hub.push(Spec::new(repository).tags(["moving"]).single().layers(layers).seed(number as u64)).unwrap(),
        );
    }
    // All that is upstream is some 95 MiB, so that eviction never rests.
    let extra = "[mirror]\ntag_ttl = \"1s\"\n[hosted]\nnamespaces = [\"local/*\"]\nanonymous_push = true\n";
    let weir = Weir::start(hub.registry(), "capacity = \"64MiB\"", extra).await;
    let mut blobs = HashMap::new();
    for image in &images {
        for blob in image.blobs() {
            let answer = weir.client.get_blob(&image.repository, &blob.digest).await.unwrap();
            assert!(answer.complete() && answer.sha256 == blob.digest, "{}", answer.describe());
            blobs.insert(blob.digest.clone(), answer.body);
        }
    }
    let (tally, over) = (Tally::default(), AtomicBool::new(false));
    let world = Arc::new(World { hub, client: weir.client.clone(), images, blobs, tally, over });
    let mut tasks = vec![tokio::spawn(disturb(world.clone(), Random::new(seed)))];
    for number in 0..WORKERS {
        tasks.push(tokio::spawn(work(world.clone(), number, Random::new(seed * 1000 + number))));
    }
    let (end, mut samples) = (Instant::now() + Duration::from_secs(60 * minutes), Vec::new());
    while Instant::now() < end {
        tokio::time::sleep(SAMPLE).await;
        samples.push(weir.measure());
        if samples.len().is_multiple_of(12) {
            let (resident, descriptors) = samples[samples.len() - 1];
            println!("{} min: {resident:.1} MiB resident, {descriptors} descriptors", samples.len() / 12);
        }
    }
    world.over.store(true, Ordering::Relaxed);
    world.hub.release();
    for task in tasks {
        task.await.unwrap();
    }
    world.hub.clear_faults();
    world.hub.release();
    // Its breaker closes within 30 s of the last failure; then everything is to be had again.
    let deadline = Instant::now() + Duration::from_secs(120);
    for image in &world.images {
        for blob in image.blobs() {
            loop {
                let answer = weir.client.get_blob(&image.repository, &blob.digest).await.unwrap();
                if answer.complete() && answer.sha256 == blob.digest {
                    break;
                }
                assert!(Instant::now() < deadline, "{}: {}", blob.digest, answer.describe());
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
    let (memory, descriptors): (Vec<f64>, Vec<f64>) = samples.into_iter().unzip();
    let highest = |samples: &[f64]| samples.iter().copied().fold(0.0, f64::max);
    let tally = &world.tally;
    println!(
        "{minutes} min: {} answers, {} refused, {} broken off, {} pushes; memory at most {:.1} MiB, {:+.2} MiB a minute; descriptors at \
         most {}, {:+.2} a minute",
        tally.answers.load(Ordering::Relaxed),
        tally.refused.load(Ordering::Relaxed),
        tally.broken.load(Ordering::Relaxed),
        tally.pushes.load(Ordering::Relaxed),
        highest(&memory),
        slope(&memory),
        highest(&descriptors),
        slope(&descriptors),
    );
    let wrong = tally.wrong.lock().unwrap();
    assert!(wrong.is_empty(), "{} wrong answers: {}", wrong.len(), wrong[..wrong.len().min(5)].join("\n"));
    assert!(slope(&memory) < 1.0 && slope(&descriptors) < 2.0);
}
