//! Processes that are killed, and two that want one directory. The child is this test binary itself.

use std::{
    io::{BufRead, BufReader, Lines},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use tempfile::tempdir;
use weir_storage::{Error, Store};

use crate::{assert_every_blob_is_what_its_name_says, content, drain, open, put, settings, until};

const SIZE: usize = 1 << 20;

/// What the child does when it is one; in an ordinary run nothing.
#[tokio::test]
async fn child() {
    let Ok(root) = std::env::var("WEIR_TEST_CHILD") else { return };
    let store = open(Path::new(&root));
    println!("open");
    let (digest, bytes) = content(0, SIZE);
    put(&store, &digest, &bytes).await.unwrap();
    println!("whole");
    let (digest, bytes) = content(1, SIZE);
    let mut half = store.blobs.write(&digest, Some(SIZE as u64)).await.unwrap();
    half.append(bytes.slice(..SIZE / 2)).await.unwrap();
    let arriving = half.arriving();
    until("half is written", || arriving.readable() == SIZE as u64 / 2).await;
    println!("half");
    let journal = store.journals.open("ledger").unwrap();
    for seed in 2.. {
        journal.append(format!("{seed}").as_bytes()).await.unwrap();
        println!("journaled {seed}");
        let (digest, bytes) = content(seed, 50_000);
        put(&store, &digest, &bytes).await.unwrap();
        println!("stored {seed}");
    }
}

struct Running {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(root: &Path) -> Running {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "crash::child", "--nocapture", "--test-threads=1"]).env("WEIR_TEST_CHILD", root);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Running { process, lines }
    }

    /// Waits until it says so.
    fn wait_for(&mut self, said: &str) {
        for line in &mut self.lines {
            // The harness writes its own words before the first of ours, on the same line.
            if line.unwrap().ends_with(said) {
                return;
            }
        }
        panic!("it ended before it said {said}");
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Invariants 2 and 8: after `kill -9` what was stored is there, nothing partial is served, and the half is resumed.
#[tokio::test]
async fn what_was_stored_survives_a_kill_and_what_was_not_is_resumed() {
    for last in ["whole", "half", "journaled 2", "stored 2", "journaled 5", "stored 9"] {
        let root = tempdir().unwrap();
        let mut child = Running::start(root.path());
        child.wait_for(last);
        child.kill();

        assert_every_blob_is_what_its_name_says(root.path());
        let store = open(root.path());
        let (digest, bytes) = content(0, SIZE);
        assert_eq!(drain(&mut store.blobs.load(&digest).await.unwrap().unwrap()).await.0, bytes);
        let (digest, bytes) = content(1, SIZE);
        assert!(store.blobs.load(&digest).await.unwrap().is_none());
        if last != "whole" {
            let mut writer = store.blobs.write(&digest, Some(SIZE as u64)).await.unwrap();
            assert_eq!(writer.written(), SIZE as u64 / 2);
            writer.append(bytes.slice(SIZE / 2..)).await.unwrap();
            writer.commit().await.unwrap();
            assert_eq!(drain(&mut store.blobs.load(&digest).await.unwrap().unwrap()).await.0, bytes);
        }
        let journaled = store.journals.open("ledger").unwrap().replay().unwrap();
        if let Some((verb, seed)) = last.split_once(' ') {
            let seed: u64 = seed.parse().unwrap();
            assert!(journaled.len() as u64 >= seed - 1, "{last}: {journaled:?}");
            let (digest, _) = content(seed, 50_000);
            assert!(verb == "journaled" || store.blobs.load(&digest).await.unwrap().is_some());
        }
    }
}

/// One directory, one process: the second reads who has it.
#[test]
fn two_processes_cannot_share_a_directory() {
    let root = tempdir().unwrap();
    let mut child = Running::start(root.path());
    child.wait_for("open");
    let error = Store::open(settings(root.path())).unwrap_err();
    let pid = child.process.id();
    assert!(matches!(&error, Error::Unusable(text) if text.contains(&format!("process {pid}"))), "{error}");
    child.kill();
    drop(Store::open(settings(root.path())).unwrap());
}

/// A power cut in the first moments leaves the first small file on its way, under the name that the next start takes first.
#[tokio::test]
async fn what_a_cut_left_on_its_way_does_not_keep_the_store_closed() {
    let directory = tempdir().unwrap();
    std::fs::create_dir_all(directory.path().join("partial")).unwrap();
    std::fs::write(directory.path().join("partial/record.0"), b"half of a rec").unwrap();
    let store = open(directory.path());
    let (digest, bytes) = content(7, 1000);
    put(&store, &digest, &bytes).await.unwrap();
    assert!(store.blobs.load(&digest).await.unwrap().is_some());
}
