//! How fast layers can be pushed: hashed, synced and acknowledged, by turns to Weir and to Debian's docker-registry.

use std::{net::SocketAddr, path::Path, time::Instant};

use sha2::{Digest as _, Sha256};

use super::{connection::Connection, load, server::Server};
use crate::client;

const CONNECTIONS: u64 = 8;
/// Layers for each connection and round.
const LAYERS: u64 = 4;
const LAYER: usize = 10 << 20;
/// The bar.
const TIMES: f64 = 1.5;

pub(super) fn run(weir: &Path, registry: &Path, rounds: usize) -> Result<String, String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let servers = [
        Server::weir(weir, directory.path(), &directory.path().join("weir"), "40GiB")?,
        Server::docker_registry(registry, directory.path())?,
    ];
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..rounds as u64 {
        for (server, rates) in servers.iter().zip(&mut rates) {
            rates.push(push(server.address, round)?);
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
fn push(address: SocketAddr, round: u64) -> Result<f64, String> {
    let base = load::content(round + 1, LAYER);
    let layers = |connection: u64| -> Vec<(Vec<u8>, String)> {
        let layer = |number: u64| {
            let mut bytes = base.clone();
            bytes[..8].copy_from_slice(&(connection * LAYERS + number).to_le_bytes());
            let digest = format!("sha256:{}", client::hex(&Sha256::digest(&bytes)));
            (bytes, digest)
        };
        (0..LAYERS).map(layer).collect()
    };
    let all: Vec<_> = (0..CONNECTIONS).map(layers).collect();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let pushers: Vec<_> = all
            .iter()
            .map(|layers| {
                scope.spawn(move || -> Result<(), String> {
                    let mut wire = Connection::to(address)?;
                    layers.iter().try_for_each(|(bytes, digest)| layer(&mut wire, bytes, digest))
                })
            })
            .collect();
        pushers.into_iter().try_for_each(|pusher| pusher.join().unwrap_or_else(|_| Err("a client panicked".into())))
    })?;
    let bytes = (CONNECTIONS * LAYERS) as f64 * LAYER as f64;
    Ok(bytes / f64::from(1 << 20) / begun.elapsed().as_secs_f64())
}

/// As docker does it.
fn layer(wire: &mut Connection, bytes: &[u8], digest: &str) -> Result<(), String> {
    let begun = wire.ask("POST", "/v2/local/rate/blobs/uploads/", "", b"")?;
    let patched = wire.ask("PATCH", begun.header("location").unwrap_or_default(), "", bytes)?;
    let location = patched.header("location").unwrap_or_default();
    let separator = if location.contains('?') { '&' } else { '?' };
    let put = wire.ask("PUT", &format!("{location}{separator}digest={digest}"), "", b"")?;
    if put.status == 201 { Ok(()) } else { Err(format!("{}, {}, {}", begun.status, patched.status, put.status)) }
}
