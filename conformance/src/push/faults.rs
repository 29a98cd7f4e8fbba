//! System calls that fail in the middle of pushes, as strace makes them fail, and a kill -9 after that.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use super::load::{self, Load, Pushed, next};
use crate::mirror::process::{Process, Program};

/// What fails, and how. A name that this machine's kernel does not have is left out.
const CALLS: [(&str, &str); 14] = [
    ("fdatasync", "EIO"),
    ("?rename,?renameat,?renameat2", "EIO"),
    ("pwrite64", "ENOSPC"),
    ("openat", "EMFILE"),
    ("fsync", "EIO"),
    ("?mkdir,?mkdirat", "ENOSPC"),
    ("fallocate", "ENOSPC"),
    ("?unlink,?unlinkat", "EIO"),
    ("?statx,?newfstatat,?fstat", "EIO"),
    ("pwrite64", "EIO"),
    ("fdatasync", "ENOSPC"),
    ("openat", "EIO"),
    ("?rename,?renameat,?renameat2", "ENOSPC"),
    ("accept4", "EMFILE"),
];

/// A life of the process is under load for so many times as long as one that is killed: traced calls are slow.
const LOADS: u64 = 8;
const LOAD_US: u64 = 200_000;

/// Lives that meet no call of their kind, one after another, before it is given up.
const MOST_IN_VAIN: usize = 3 * CALLS.len();

/// Has `wanted` calls fail, each kind in turn.
pub(super) async fn run(weir: &Path, wanted: u64, first: u64) -> Result<String, String> {
    let root = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut server = Process::hosting(Program::Weir(weir.to_owned()), root.path(), "8GiB").await?;
    let (mut failed, mut acknowledged, mut all, mut in_vain, mut seed) = (0, 0, Vec::new(), 0, first);
    while failed < wanted {
        let (calls, error) = CALLS[(seed - first) as usize % CALLS.len()];
        let told = |why: String| format!("seed {seed}, {error} of {calls}: {why}");
        let (count, pushed) = life(&mut server, calls, error, seed).await.map_err(told)?;
        server.restart().await.map_err(told)?;
        acknowledged += load::check(server.address, &pushed).await.map_err(told)?;
        all.extend(pushed);
        in_vain = if count == 0 { in_vain + 1 } else { 0 };
        if in_vain == MOST_IN_VAIN {
            return Err(format!("no call failed in {in_vain} lives"));
        }
        failed += count;
        seed += 1;
    }
    let kept = load::check(server.address, &all).await.map_err(|why| format!("after all: {why}"))?;
    if kept != acknowledged {
        return Err(format!("{acknowledged} were acknowledged and {kept} are kept"));
    }
    let log = std::fs::read_to_string(server.directory().join("log")).map_err(|error| error.to_string())?;
    if let Some(line) = log.lines().find(|line| line.contains("panicked")) {
        return Err(line.to_owned());
    }
    let lives = seed - first;
    Ok(format!("{failed} failed calls in {lives} lives, {acknowledged} acknowledged and kept, of {} begun", all.len()))
}

/// Pushes while calls fail, and kills. Gives how many failed, and what was pushed.
async fn life(server: &mut Process, calls: &str, error: &str, seed: u64) -> Result<(u64, Vec<Pushed>), String> {
    let mut state = seed;
    let trace = server.directory().join("trace");
    let mut tracer = attach(server, calls, error, 1 + next(&mut state) % 3, &trace).await?;
    let mut pushed = Vec::new();
    for number in 0..LOADS {
        // A client ends with the first failure that it meets.
        let load = Load::on(server.address, seed * LOADS + number, 100_000);
        tokio::time::sleep(Duration::from_micros(next(&mut state) % LOAD_US)).await;
        if number + 1 < LOADS {
            pushed.extend(load.end().await);
            continue;
        }
        if server.ended(Duration::ZERO).await.is_ok() {
            return Err(format!("it ended by itself:\n{}", server.log_tail()));
        }
        server.kill().await?;
        pushed.extend(load.end().await);
    }
    tracer.wait().await.map_err(|error| format!("strace: {error}"))?;
    let text = std::fs::read_to_string(&trace).map_err(|error| format!("{}: {error}", trace.display()))?;
    Ok((text.matches("(INJECTED)").count() as u64, pushed))
}

/// strace of all threads, once it has them. Of each thread every third call fails, from the one with this number on.
async fn attach(server: &Process, calls: &str, error: &str, from: u64, trace: &PathBuf) -> Result<Child, String> {
    let pid = server.pid().ok_or("it has ended")?.to_string();
    let mut command = Command::new("strace");
    command.args(["-f", "-p", &pid, "-e", &format!("trace={calls}"), "-e"]);
    command.arg(format!("inject={calls}:error={error}:when={from}+3")).arg("-o").arg(trace);
    let spawned = command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).spawn();
    let mut tracer = spawned.map_err(|error| format!("cannot start strace: {error}"))?;
    let mut lines = BufReader::new(tracer.stderr.take().ok_or("strace has no standard error")?).lines();
    while let Some(line) = lines.next_line().await.map_err(|error| error.to_string())? {
        if line.contains("attached") {
            // It goes on to say which threads come and go.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(tracer);
        }
    }
    Err("strace does not attach; it needs root".into())
}
