//! Checks that measure the machine as well as the mirror, or that wait a minute. `cargo test` leaves them to the release build.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};

use super::{
    Check, Failure, Harness, Outcome, check, ensure,
    harness::percentile,
    herd::at_once,
    limits::{is_too_many, message},
    process,
};
use crate::{
    client::{Client, Connection, Incoming, Request},
    hub::{Fault, What},
};

pub(super) const CHECKS: &[Check] = &[
    check!(
        "1,000 clients, one cold 256 MiB image, upstream 48 MiB/s",
        "invariant 3; first byte within 100 ms of when a warm answer has it",
        thousand
    ),
    check!("1,000 clients: resident memory", "bar: < 200 MiB", thousand_memory, Process),
    check!("abuse 429 without Retry-After", "429 with a Retry-After of the mirror's own", abuse_bare),
];

/// Bytes each of the thousand reads before it waits for the others to be done. A sample reads, hashes and compares everything: two
/// cores cannot carry a thousand times 256 MiB in a reasonable time.
const READ_BY_EACH: u64 = 4 << 20;
const THOUSAND: usize = 1000;
/// Every fiftieth reads all.
const SAMPLE: usize = 50;

/// How much later than of the same layer when it is cached the followers have their first byte, at the 99th percentile. A thousand answers
/// at once take a while on any machine, and longer beside what else it does: that is in both.
const LATE: Duration = Duration::from_millis(100);
/// How often the delay is measured before it is too long. What else the machine does adds to it and takes nothing away: of these, the
/// shortest is the mirror's.
const TRIES: usize = 3;

async fn thousand(harness: Arc<Harness>) -> Outcome {
    let mut late = Vec::new();
    for _ in 0..TRIES {
        let measured = thousand_on_one(&harness).await?;
        ensure!(measured.spent_once, "{measured}");
        late.push((measured.late_p99, measured.warm_p99));
        if measured.late_p99 <= measured.warm_p99 + LATE {
            return Ok(format!("{measured}; p99 of each try, cold and warm: {late:.0?}"));
        }
    }
    Err(format!("p99 of followers' first byte after the leader's, cold and warm, in {TRIES} tries: {late:.0?}").into())
}

async fn thousand_memory(harness: Arc<Harness>) -> Outcome {
    let pid = harness.pid().await.ok_or_else(|| Failure::NotRun("the mirror is not a process of ours".into()))?;
    process::forget_peak(pid);
    let measured = thousand_on_one(&harness).await?;
    let peak = process::peak(pid).ok_or("no VmHWM in /proc")? >> 20;
    let now = process::resident(pid).unwrap_or_default() >> 20;
    ensure!(peak < 200, "peak {peak} MiB resident, {now} MiB after; {measured}");
    Ok(format!("peak {peak} MiB resident, {now} MiB after"))
}

struct Thousand {
    late_median: Duration,
    late_p99: Duration,
    late_max: Duration,
    /// The same of the layer when it is cached.
    warm_p99: Duration,
    total: Duration,
    /// Two manifest GETs, one GET for the layer, one token.
    spent_once: bool,
    spent: super::UpstreamCost,
}

impl std::fmt::Display for Thousand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |d: Duration| d.as_secs_f64() * 1000.0;
        write!(
            f,
            "first byte after the leader's: median {:.1} ms, p99 {:.1} ms (warm {:.1} ms), max {:.1} ms; all connected throughout and read {} MiB, {} of \
             them read and hashed 256 MiB, {:.1} s; upstream: {}",
            ms(self.late_median),
            ms(self.late_p99),
            ms(self.warm_p99),
            ms(self.late_max),
            READ_BY_EACH >> 20,
            THOUSAND / SAMPLE,
            self.total.as_secs_f64(),
            self.spent
        )
    }
}

async fn thousand_on_one(harness: &Arc<Harness>) -> Result<Thousand, Failure> {
    let image = harness.image("thousand", &[256 << 20]).await?;
    harness.pace(Some(48 << 20), Duration::from_millis(20));
    let begun = Instant::now();
    let cold = late(&at_once_on(harness, &image, true).await?)?;
    let (total, spent) = (begun.elapsed(), harness.spent(&image));
    let warm = late(&at_once_on(harness, &image, false).await?)?;
    Ok(Thousand {
        spent_once: spent.manifest_gets == 2 && spent.most_for_one_blob() == 1 && spent.tokens == 1,
        late_median: percentile(&cold, 50.0),
        late_p99: percentile(&cold, 99.0),
        late_max: percentile(&cold, 100.0),
        warm_p99: percentile(&warm, 99.0),
        total,
        spent,
    })
}

/// How long after the first of all each had its first byte, in order; what it waited before it asked is not in it.
fn late(times: &[(Instant, Instant)]) -> Result<Vec<Duration>, Failure> {
    let leader = times.iter().map(|(_, first)| *first).min().ok_or("no client")?;
    let mut late: Vec<Duration> =
        times.iter().map(|(sent, first)| first.saturating_duration_since(leader.max(*sent))).collect();
    late.sort();
    Ok(late)
}

/// When each of a thousand asked for the image's layer, and when its first byte came. Without `reads` each goes then.
async fn at_once_on(
    harness: &Arc<Harness>,
    image: &super::Image,
    reads: bool,
) -> Result<Vec<(Instant, Instant)>, Failure> {
    let layer = image.layers[0].digest.clone();
    // The manifests first, by all clients, as a pull has it; then each waits for all others, so that the layer is asked for at once.
    let connected = Arc::new(tokio::sync::Barrier::new(THOUSAND));
    // No client reads on before all have a byte: it is the mirror that is timed, not how fast this process can read.
    let flowing = Arc::new(tokio::sync::Barrier::new(THOUSAND));
    // The connections stay open until the last has read what it wants: memory is measured with a thousand of them.
    let done = Arc::new(tokio::sync::Barrier::new(THOUSAND));
    let results = at_once(THOUSAND, |i| {
        let (client, image, layer) = (harness.client.clone(), image.clone(), layer.clone());
        let (connected, flowing, done) = (connected.clone(), flowing.clone(), done.clone());
        async move {
            let mut prepared = prepare(&client, &image).await;
            connected.wait().await;
            let mut incoming = match &mut prepared {
                Ok(connection) => first_piece(&client, connection, &image.repository, &layer).await,
                Err(sentence) => Err(sentence.clone()),
            };
            flowing.wait().await;
            let read = match &mut incoming {
                Ok(incoming) if reads => read_on(incoming, &layer, i).await,
                Ok((incoming, _)) => times(incoming),
                Err(sentence) => Err(sentence.clone()),
            };
            done.wait().await;
            read
        }
    })
    .await;
    let errors: Vec<&String> = results.iter().filter_map(|r| r.as_ref().err()).collect();
    let spent = harness.spent(image);
    ensure!(errors.is_empty(), "{} of {THOUSAND} failed, first: {}; upstream: {spent}", errors.len(), errors[0]);
    Ok(results.into_iter().flatten().collect())
}

/// HEAD the tag, GET the index and the platform's manifest, over the connection that will ask for the layer.
async fn prepare(client: &Client, image: &super::Image) -> Result<Connection, String> {
    let text = |e: crate::client::Error| format!("manifest: {e}");
    let mut connection = Connection::open_small(client.address(), 64 << 10).await.map_err(text)?;
    let head = Request::head(client.manifest(&image.repository, &image.tag)).accepting_manifests();
    let answer = connection.exchange(&head).await.map_err(text)?;
    if answer.head.digest() != Some(&image.digest) {
        return Err(format!("HEAD tag: {}", answer.describe()));
    }
    for digest in [&image.digest, &image.manifest] {
        let get = Request::get(client.manifest(&image.repository, digest)).accepting_manifests();
        let answer = connection.exchange(&get).await.map_err(text)?;
        if !answer.complete() || answer.sha256 != *digest {
            return Err(format!("GET manifest {digest}: {}", answer.describe()));
        }
    }
    Ok(connection)
}

/// The layer's answer up to its first bytes, and their hash so far.
async fn first_piece<'a>(
    client: &Client,
    connection: &'a mut Connection,
    repository: &str,
    layer: &str,
) -> Result<(Incoming<'a>, Sha256), String> {
    let text = |e: crate::client::Error| format!("layer: {e}");
    let mut incoming = connection.start(&Request::get(client.blob(repository, layer))).await.map_err(text)?;
    if incoming.head.status != 200 {
        return Err(format!("layer: {}", incoming.head.status));
    }
    // What this process spends on a thousand first pieces would be counted as the mirror's delay.
    incoming.read_by(2048);
    let mut hash = Sha256::new();
    incoming.piece(|piece| hash.update(piece)).await.map_err(text)?;
    Ok((incoming, hash))
}

/// The rest of it, or of as much as this client reads. When it was asked for and when its first byte came.
async fn read_on(
    (incoming, hash): &mut (Incoming<'_>, Sha256),
    layer: &str,
    i: usize,
) -> Result<(Instant, Instant), String> {
    let text = |e: crate::client::Error| format!("layer: {e}");
    incoming.read_by(64 << 10);
    if i.is_multiple_of(SAMPLE) {
        while incoming.piece(|piece| hash.update(piece)).await.map_err(text)? {}
        let digest = format!("sha256:{}", crate::client::hex(&hash.finalize_reset()));
        if digest != layer {
            return Err(format!("layer: a complete body that is {digest}"));
        }
    } else {
        incoming.discard(READ_BY_EACH).await.map_err(text)?;
    }
    times(incoming)
}

/// When it was asked for, and when its first byte came.
fn times(incoming: &Incoming<'_>) -> Result<(Instant, Instant), String> {
    let timing = incoming.timing();
    Ok((timing.sent, timing.first_byte_at().ok_or("layer: no byte")?))
}

async fn abuse_bare(harness: Arc<Harness>) -> Outcome {
    let image = harness.image("abuse-bare", &[1000]).await?;
    harness.hub.fault(Fault::once(What::Abuse(None)));
    let answer = harness.client.get_manifest(&image.repository, &image.tag).await?;
    let seconds = is_too_many(&answer)?;
    ensure!(seconds <= 60, "Retry-After {seconds}; podman sleeps that long");
    Ok(format!("Retry-After {seconds}: {}", message(&answer)))
}
