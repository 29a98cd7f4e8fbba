//! Clients that push until their registry dies, and remember what it acknowledged.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use sha2::{Digest as _, Sha256, Sha512};
use tokio::task::JoinHandle;

use crate::client::{Connection, Request, Response, hex};

/// Clients that push at once.
const CLIENTS: u64 = 4;

/// What was pushed, and how far that came.
#[derive(Clone, Debug)]
pub(super) struct Pushed {
    repository: String,
    digest: String,
    seed: u64,
    /// Bytes of a blob; 0 for a manifest, whose bytes are kept.
    length: usize,
    manifest: Vec<u8>,
    tag: String,
    acknowledged: bool,
}

/// Numbers that look random and come from a seed.
pub(super) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

pub(super) fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&next(&mut state).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Clients under way.
pub(super) struct Load {
    clients: Vec<JoinHandle<Vec<Pushed>>>,
    over: Arc<AtomicBool>,
}

impl Load {
    /// Begins to push blobs of up to `largest` bytes, and manifests that name them.
    pub(super) fn on(address: SocketAddr, seed: u64, largest: u64) -> Load {
        let over = Arc::new(AtomicBool::new(false));
        let client = |number| {
            let over = over.clone();
            tokio::spawn(async move {
                let mut pushed = Vec::new();
                let mut state = seed.wrapping_mul(1000).wrapping_add(number);
                // The registry is to die, so that every failure is one that was expected.
                while !over.load(Ordering::Relaxed) && image(address, &mut state, largest, &mut pushed).await.is_ok() {}
                pushed
            })
        };
        Load { clients: (0..CLIENTS).map(client).collect(), over }
    }

    /// What was pushed, once the clients have noticed that it is over.
    pub(super) async fn end(self) -> Vec<Pushed> {
        self.over.store(true, Ordering::Relaxed);
        let mut pushed = Vec::new();
        for client in self.clients {
            pushed.extend(client.await.unwrap_or_default());
        }
        pushed
    }
}

/// Sends a request and reads all of its answer; an answer that breaks off is none.
pub(super) async fn ask(wire: &mut Connection, request: &Request) -> Result<Response, String> {
    let answer = wire.exchange(request).await.map_err(|error| error.to_string())?;
    answer.broken.as_ref().map_or(Ok(()), |error| Err(error.to_string()))?;
    Ok(answer)
}

/// Two blobs, each in one of the ways there are, and a manifest with a tag.
async fn image(address: SocketAddr, state: &mut u64, largest: u64, pushed: &mut Vec<Pushed>) -> Result<(), String> {
    let mut wire = Connection::open(address).await.map_err(|error| error.to_string())?;
    let repository = format!("local/r{}", next(state) % 3);
    let mut digests = Vec::new();
    for _ in 0..2 {
        let (seed, length) = (next(state), (next(state) % largest) as usize + 1);
        let bytes = content(seed, length);
        let digest = match next(state) % 4 {
            0 => format!("sha512:{}", hex(&Sha512::digest(&bytes))),
            _ => format!("sha256:{}", hex(&Sha256::digest(&bytes))),
        };
        digests.push((digest.clone(), length));
        let way = next(state);
        pushed.push(Pushed {
            repository: repository.clone(),
            digest: digest.clone(),
            seed,
            length,
            manifest: Vec::new(),
            tag: String::new(),
            acknowledged: false,
        });
        blob(&mut wire, &repository, &digest, &bytes, way).await?;
        acknowledge(pushed);
    }
    let entries: Vec<String> = digests
        .iter()
        .map(|(digest, length)| {
            format!(r#"{{"mediaType":"application/octet-stream","digest":"{digest}","size":{length}}}"#)
        })
        .collect();
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{},"layers":[{}]}}"#,
        entries[0], entries[1]
    )
    .into_bytes();
    // Each tag is pushed once, so that there is no question of what it should name.
    let tag = format!("t{:016x}", next(state));
    pushed.push(Pushed {
        repository: repository.clone(),
        digest: format!("sha256:{}", hex(&Sha256::digest(&manifest))),
        seed: 0,
        length: 0,
        manifest: manifest.clone(),
        tag: tag.clone(),
        acknowledged: false,
    });
    let request = Request::new("PUT", format!("/v2/{repository}/manifests/{tag}")).with("Content-Type", media_type);
    expect(&mut wire, request.body(manifest), 201).await?;
    acknowledge(pushed);
    Ok(())
}

fn acknowledge(pushed: &mut [Pushed]) {
    if let Some(last) = pushed.last_mut() {
        last.acknowledged = true;
    }
}

/// The `Location` of an answer with this status.
async fn expect(wire: &mut Connection, request: Request, status: u16) -> Result<String, String> {
    let answer = ask(wire, &request).await?;
    match answer.status() == status {
        true => Ok(answer.head.header("location").unwrap_or_default().to_owned()),
        false => Err(format!("{} {}: {} instead of {status}", request.method, request.target, answer.describe())),
    }
}

async fn blob(wire: &mut Connection, repository: &str, digest: &str, bytes: &[u8], way: u64) -> Result<(), String> {
    let begin = format!("/v2/{repository}/blobs/uploads/");
    if way.is_multiple_of(3) {
        let whole = Request::new("POST", format!("{begin}?digest={digest}")).body(bytes);
        return expect(wire, whole, 201).await.map(drop);
    }
    let mut location = expect(wire, Request::new("POST", begin).body(""), 202).await?;
    let mut rest = bytes;
    if way % 3 == 1 {
        let mut at = 0;
        for piece in bytes.chunks(bytes.len() / 3 + 1) {
            let range = format!("{at}-{}", at + piece.len() - 1);
            location =
                expect(wire, Request::new("PATCH", location).with("Content-Range", range).body(piece), 202).await?;
            at += piece.len();
        }
        rest = b"";
    }
    expect(wire, Request::new("PUT", format!("{location}?digest={digest}")).body(rest), 201).await.map(drop)
}

/// What a registry keeps of what was pushed: each thing that it acknowledged is there, and nothing is there but as it was pushed.
/// Gives how many were acknowledged.
pub(super) async fn check(address: SocketAddr, pushed: &[Pushed]) -> Result<u64, String> {
    let mut wire = Connection::open(address).await.map_err(|error| error.to_string())?;
    let mut kept = 0;
    for one in pushed {
        let Pushed { repository, digest, .. } = one;
        let (kind, bytes) = match one.manifest.is_empty() {
            true => ("blobs", content(one.seed, one.length)),
            false => ("manifests", one.manifest.clone()),
        };
        let by_tag = (!one.tag.is_empty()).then(|| format!("/v2/{repository}/manifests/{}", one.tag));
        for target in [Some(format!("/v2/{repository}/{kind}/{digest}")), by_tag].into_iter().flatten() {
            let answer = ask(&mut wire, &Request::get(&*target)).await?;
            match (answer.status(), one.acknowledged) {
                (200, _) if answer.body == bytes => {}
                (404, false) => {}
                (200, _) => return Err(format!("{target}: {} bytes that were never pushed", answer.body.len())),
                (status, _) => return Err(format!("{target}: {status}, acknowledged: {}", one.acknowledged)),
            }
        }
        kept += u64::from(one.acknowledged);
    }
    Ok(kept)
}
