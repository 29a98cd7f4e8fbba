//! How soon Weir answers when it starts on a directory full of blobs that its index has never seen.
//!
//! The blobs are put there as files: files are the truth, the index is made from them. That is the slowest start there is.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest as _, Sha256};

use crate::{
    client::hex,
    mirror::process::{Process, Program},
    report::Row,
};

pub(super) async fn row(weir: &Path, upstream: SocketAddr, stored: usize) -> Result<Row, String> {
    let mut process = Process::start(Program::Weir(weir.to_owned()), upstream, "").await?;
    process.kill().await?;
    let blobs = process.data().join("blobs/sha256");
    tokio::task::spawn_blocking(move || fill(blobs, stored)).await.map_err(|e| e.to_string())??;
    let index = process.data().join("index");
    let _ = std::fs::remove_dir_all(index);
    let took = process.restart().await?;
    let figure = format!("{:.2} s to the first answer with {stored} blobs and no index", took.as_secs_f64());
    let outcome = if took < Duration::from_secs(2) { Ok(figure) } else { Err(figure) };
    Ok(Row::new("bench", "start with many cached blobs", "bar: < 2 s to the first answer", outcome, took))
}

fn fill(blobs: PathBuf, stored: usize) -> Result<(), String> {
    for serial in 0..stored {
        let bytes = serial.to_le_bytes();
        let name = hex(&Sha256::digest(bytes));
        let directory = blobs.join(&name[..2]);
        std::fs::create_dir_all(&directory).map_err(|e| e.to_string())?;
        std::fs::write(directory.join(&name), bytes).map_err(|e| e.to_string())?;
    }
    Ok(())
}
