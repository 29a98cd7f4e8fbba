//! How fast layers can be pushed: hashed, synced and acknowledged, by turns to Weir and to Debian's docker-registry.

use std::{net::SocketAddr, path::Path, time::Instant};

use sha2::{Digest as _, Sha256};

use super::load::{self, ask};
use crate::{
    client::{Connection, Request, Response, hex},
    mirror::process::{Process, Program},
};

const CONNECTIONS: u64 = 8;
/// Layers for each connection and round.
const LAYERS: u64 = 4;
const LAYER: usize = 10 << 20;
/// The bar.
const TIMES: f64 = 1.5;

pub(super) async fn run(weir: &Path, registry: &Path, rounds: usize) -> Result<String, String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let servers = [
        Process::hosting(Program::Weir(weir.to_owned()), &directory.path().join("weir"), "40GiB").await?,
        Process::hosting(Program::DockerRegistry(registry.to_owned()), &directory.path().join("registry"), "").await?,
    ];
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..rounds as u64 {
        for (server, rates) in servers.iter().zip(&mut rates) {
            rates.push(push(server.address, round).await?);
        }
    }
    let [weir, registry] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    });
    let figure =
        format!("{weir:.0} and {registry:.0} MiB/s: {:.2} times (medians of {rounds} rounds)", weir / registry);
    if weir >= TIMES * registry { Ok(figure) } else { Err(figure) }
}

/// MiB/s of one round. The bytes are made and hashed before the clock starts.
async fn push(address: SocketAddr, round: u64) -> Result<f64, String> {
    let base = load::content(round + 1, LAYER);
    let layers = |connection: u64| -> Vec<(Request, String)> {
        let layer = |number: u64| {
            let mut bytes = base.clone();
            bytes[..8].copy_from_slice(&(connection * LAYERS + number).to_le_bytes());
            let digest = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
            (Request::new("PATCH", "").body(bytes), digest)
        };
        (0..LAYERS).map(layer).collect()
    };
    let all: Vec<_> = (0..CONNECTIONS).map(layers).collect();
    let begun = Instant::now();
    let pushers = all.into_iter().map(|layers| async move {
        let mut wire = Connection::open(address).await.map_err(|error| error.to_string())?;
        for (request, digest) in layers {
            layer(&mut wire, request, &digest).await?;
        }
        Ok::<_, String>(())
    });
    for pushed in pushers.map(tokio::spawn).collect::<Vec<_>>() {
        pushed.await.unwrap_or_else(|_| Err("a client panicked".to_owned()))?;
    }
    let bytes = (CONNECTIONS * LAYERS) as f64 * LAYER as f64;
    Ok(bytes / f64::from(1 << 20) / begun.elapsed().as_secs_f64())
}

/// As docker does it: `patch` has the bytes and no target yet.
async fn layer(wire: &mut Connection, patch: Request, digest: &str) -> Result<(), String> {
    let location = |answer: &Response| {
        let location = answer.head.header("location").unwrap_or_default();
        // Some registries answer a whole URL.
        let path = location.split_once("://").map_or(location, |(_, rest)| &rest[rest.find('/').unwrap_or(0)..]);
        path.to_owned()
    };
    let begun = ask(wire, &Request::new("POST", "/v2/local/rate/blobs/uploads/").body("")).await?;
    let patched = ask(wire, &Request { target: location(&begun), ..patch }).await?;
    let at = location(&patched);
    let separator = if at.contains('?') { '&' } else { '?' };
    let put = ask(wire, &Request::new("PUT", format!("{at}{separator}digest={digest}")).body("")).await?;
    if put.status() == 201 {
        Ok(())
    } else {
        Err(format!("{}, {}, {}", begun.status(), patched.status(), put.status()))
    }
}
