//! Sends an answer, with whatever the fault does to its body on the way.

use std::io::{self, Read};
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::read::GzEncoder;
use tokio::sync::watch;
use tokio::time::Instant;

use super::content::Content;
use super::fault::{At, What};
use super::log::{Entry, Progress};
use super::response::{Body, Response, reason};
use super::wire::Connection;

/// Bytes read and written at a time.
const CHUNK: u64 = 256 << 10;
/// Up to this a body goes out in one write with its head.
const SMALL: u64 = 64 << 10;

/// How an answer is sent.
pub(super) struct Delivery {
    /// Whether this answers a HEAD: the head of the answer, and no body.
    pub(super) head: bool,
    pub(super) keep_alive: bool,
    /// Bytes a second.
    pub(super) bandwidth: Option<u64>,
    /// A fault of the body.
    pub(super) fault: Option<What>,
    /// Changes when stalled bodies are released.
    pub(super) released: watch::Receiver<u64>,
}

/// What a fault does to a body, in terms of what is sent.
struct Plan {
    of: Content,
    start: u64,
    /// The bytes to send from there.
    length: u64,
    /// What `Content-Length` says.
    declared: u64,
    /// The byte to flip, by its place in the object.
    flipped: Option<u64>,
    /// After how many bytes what happens.
    cut: Option<(u64, Cut)>,
    rate: Option<u64>,
    encoded: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Cut {
    Close,
    Reset,
    Stall,
}

/// Sends it and returns whether the connection may carry another request.
pub(super) async fn send(
    connection: &mut Connection,
    answer: Response,
    delivery: Delivery,
    entry: &mut Entry<'_>,
) -> io::Result<bool> {
    entry.update(|logged| {
        logged.status = answer.status;
        logged.counted = answer.counted;
    });
    let (status, headers) = (answer.status, answer.headers);
    let mut released = delivery.released.clone();
    let kept = match answer.body {
        Body::Raw(bytes) => {
            connection.write(&bytes).await?;
            connection.finish().await;
            false
        }
        Body::Empty => {
            let length = (!matches!(status, 204 | 304)).then_some(0);
            connection.write(head(status, &headers, length, false, delivery.keep_alive).as_bytes()).await?;
            delivery.keep_alive
        }
        Body::Part { of, start, end } if delivery.head => {
            drop(of);
            connection.write(head(status, &headers, Some(end - start), false, delivery.keep_alive).as_bytes()).await?;
            delivery.keep_alive
        }
        Body::Part { of, start, end } => {
            let plan = plan(of, start, end, &delivery)?;
            let keep_alive = delivery.keep_alive && plan.length == plan.declared;
            let head = head(status, &headers, Some(plan.declared), plan.encoded, keep_alive);
            part(connection, head, plan, &mut released, entry).await? && keep_alive
        }
        Body::Blanks(size) => {
            let head = head(status, &headers, None, false, false)
                .replace("Connection", "Transfer-Encoding: chunked\r\nConnection");
            connection.write(head.as_bytes()).await?;
            blanks(connection, size, entry).await?;
            false
        }
    };
    entry.update(|logged| logged.progress = Progress::Sent);
    Ok(kept)
}

fn head(status: u16, headers: &[(&str, String)], length: Option<u64>, encoded: bool, keep_alive: bool) -> String {
    let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if encoded {
        head.push_str("Content-Encoding: gzip\r\n");
    }
    if let Some(length) = length {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    let connection = if keep_alive { "keep-alive" } else { "close" };
    head.push_str(&format!("Date: {}\r\nConnection: {connection}\r\n\r\n", httpdate::fmt_http_date(SystemTime::now())));
    head
}

fn plan(of: Content, start: u64, end: u64, delivery: &Delivery) -> io::Result<Plan> {
    let length = end - start;
    let mut plan = Plan {
        start,
        length,
        declared: length,
        flipped: None,
        cut: None,
        rate: delivery.bandwidth,
        encoded: false,
        of,
    };
    let share = |share: f64| (length as f64 * share.clamp(0.0, 1.0)) as u64;
    match delivery.fault {
        Some(What::Corrupt(at)) => {
            let last = plan.of.size().saturating_sub(1);
            plan.flipped = Some(match at {
                At::Start => 0,
                At::Middle => last / 2,
                At::Last => last,
            });
        }
        Some(What::Truncate(at)) => plan.cut = Some((share(at), Cut::Close)),
        Some(What::Reset(at)) => plan.cut = Some((share(at), Cut::Reset)),
        Some(What::Stall(at)) => plan.cut = Some((share(at), Cut::Stall)),
        Some(What::Slow(rate)) => plan.rate = Some(rate),
        Some(What::ShortLength(by)) => {
            plan.declared = length.saturating_sub(by);
            plan.length = plan.declared;
        }
        Some(What::LongLength(by)) => plan.declared = length + by,
        Some(What::ContentEncoding) => {
            let encoded = gzipped(&plan)?;
            (plan.start, plan.length, plan.declared) = (0, encoded.size(), encoded.size());
            (plan.of, plan.encoded) = (encoded, true);
        }
        _ => {}
    }
    Ok(plan)
}

/// The part, gzip'd in memory: configs and manifests are what registries are known to encode.
fn gzipped(plan: &Plan) -> io::Result<Content> {
    let mut plain = vec![0; usize::try_from(plan.length).map_err(|_| io::ErrorKind::OutOfMemory)?];
    plan.of.read_at(&mut plain, plan.start)?;
    let mut encoded = Vec::new();
    GzEncoder::new(plain.as_slice(), Compression::fast()).read_to_end(&mut encoded)?;
    Ok(Content::Memory(encoded.into()))
}

/// Sends head and body; returns whether all of it went out.
async fn part(
    connection: &mut Connection,
    head: String,
    plan: Plan,
    released: &mut watch::Receiver<u64>,
    entry: &mut Entry<'_>,
) -> io::Result<bool> {
    // A body that lacks bytes to its declared length ends with the connection.
    let cut = plan.cut.or((plan.declared > plan.length).then_some((plan.length, Cut::Close)));
    let stop = cut.map_or(plan.length, |(at, _)| at.min(plan.length));
    let mut buffer = head.into_bytes();
    let mut sent = 0;
    // The head goes with the first bytes when they are few, else at once.
    if plan.rate.is_some() || stop > SMALL || stop == 0 {
        connection.write(&buffer).await?;
        buffer.clear();
    }
    let began = Instant::now();
    let mut stop = stop;
    loop {
        while sent < stop {
            let chunk = plan.rate.map_or(CHUNK, |rate| (rate / 50).clamp(1, CHUNK)).min(stop - sent);
            let from = buffer.len();
            buffer.resize(from + chunk as usize, 0);
            let at = plan.start + sent;
            plan.of.read_at(&mut buffer[from..], at)?;
            if let Some(byte) = plan.flipped.filter(|flipped| (at..at + chunk).contains(flipped)) {
                buffer[from + (byte - at) as usize] ^= 1;
            }
            connection.write(&buffer).await?;
            buffer.clear();
            sent += chunk;
            entry.update(|logged| logged.bytes_sent = sent);
            if let Some(rate) = plan.rate {
                let due = began + Duration::from_secs_f64(sent as f64 / rate.max(1) as f64);
                tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = connection.gone() => return Err(io::ErrorKind::ConnectionAborted.into()),
                }
            }
        }
        match cut {
            Some((_, Cut::Stall)) if stop < plan.length => {
                released.mark_unchanged();
                entry.update(|logged| logged.progress = Progress::Stalled);
                tokio::select! {
                    _ = released.changed() => {}
                    () = connection.gone() => return Err(io::ErrorKind::ConnectionAborted.into()),
                }
                entry.update(|logged| logged.progress = Progress::Open);
                stop = plan.length;
            }
            Some((_, Cut::Close)) => {
                connection.finish().await;
                return Ok(false);
            }
            Some((_, Cut::Reset)) => {
                connection.reset_on_close();
                return Ok(false);
            }
            _ => return Ok(true),
        }
    }
}

async fn blanks(connection: &mut Connection, size: u64, entry: &mut Entry<'_>) -> io::Result<()> {
    let chunk = [format!("{CHUNK:x}\r\n").into_bytes(), vec![b' '; CHUNK as usize], b"\r\n".to_vec()].concat();
    let mut sent = 0;
    while sent < size {
        connection.write(&chunk).await?;
        sent += CHUNK;
        entry.update(|logged| logged.bytes_sent = sent);
    }
    connection.write(b"0\r\n\r\n").await
}
