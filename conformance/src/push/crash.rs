//! kill -9 at moments that come from a seed, in the middle of pushes, on one directory that goes through it all.

use std::{path::Path, time::Duration};

use super::load::{self, Load, next};
use crate::mirror::process::{Process, Program};

/// Each seed's process lives for up to so long under load: a push takes a few milliseconds, so every step of one is met.
const LIFE_US: u64 = 120_000;

pub(super) async fn run(weir: &Path, seeds: u64, first: u64) -> Result<String, String> {
    let root = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (mut acknowledged, mut all) = (0, Vec::new());
    let mut server = Process::hosting(Program::Weir(weir.to_owned()), root.path(), "8GiB").await?;
    for seed in first..first + seeds {
        let mut state = seed;
        let load = Load::on(server.address, seed, 300_000);
        tokio::time::sleep(Duration::from_micros(next(&mut state) % LIFE_US)).await;
        server.kill().await?;
        let pushed = load.end().await;
        server.restart().await.map_err(|why| format!("seed {seed}: {why}"))?;
        acknowledged += load::check(server.address, &pushed).await.map_err(|why| format!("seed {seed}: {why}"))?;
        all.extend(pushed);
    }
    // What was kept once was kept for good.
    let kept = load::check(server.address, &all).await.map_err(|why| format!("after all: {why}"))?;
    let begun = std::time::Instant::now();
    let left = || std::fs::read_dir(root.path().join("uploads")).map_or(0, Iterator::count);
    while left() > 0 {
        if begun.elapsed() > Duration::from_secs(30) {
            return Err(format!("{} files of uploads are left after they expired", left()));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    if kept != acknowledged {
        return Err(format!("{acknowledged} were acknowledged and {kept} are kept"));
    }
    Ok(format!("{seeds} kills, {acknowledged} acknowledged and kept, of {} begun; no upload left", all.len()))
}
