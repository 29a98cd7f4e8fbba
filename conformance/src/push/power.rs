//! The power is cut: a file system that is being written is copied in mid-flight, and the copy is what the disk had.
//!
//! The data lies on an ext4 in a file on a loop device. What Weir has written and not synced is in the memory of that file
//! system and not in the file; so a copy of the file is what a machine finds after its power came back. The process is stopped while
//! the copy is made, and the copy is made again until it is twice the same, so that it is of one moment. Then the copy is mounted, its journal replayed, and a Weir on it is asked
//! for everything that the first one had acknowledged.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::load::{self, Load, Pushed, next};
use crate::mirror::process::{Process, Program};

/// How long pushes run between two moments.
const BETWEEN_US: u64 = 80_000;

/// Moments for one file system, so that it does not fill up.
const EACH: u64 = 10;

pub(super) async fn run(weir: &Path, moments: u64, first: u64) -> Result<String, String> {
    // In memory when there is room for it: a copy is the more of one moment the less it takes.
    let memory = Path::new("/dev/shm").is_dir().then(|| tempfile::tempdir_in("/dev/shm").ok()).flatten();
    let directory = memory.map_or_else(tempfile::tempdir, Ok).map_err(|error| error.to_string())?;
    let (mut kept, mut done) = (0, 0);
    while done < moments {
        let disk = Disk::make(directory.path(), "disk")?;
        let mut pushed = Vec::new();
        for seed in first + done..(first + done + EACH).min(first + moments) {
            let now = moment(weir, &disk, seed, &mut pushed).await.map_err(|why| format!("moment {seed}: {why}"))?;
            done += 1;
            // A moment looks at all that its file system was ever given.
            if done % EACH == 0 || done == moments {
                kept += now;
            }
        }
    }
    Ok(format!("{moments} cuts, {kept} acknowledged and kept"))
}

/// Pushes for a while, cuts, and looks at what is left of it and of all that came before.
async fn moment(weir: &Path, disk: &Disk, seed: u64, pushed: &mut Vec<Pushed>) -> Result<u64, String> {
    let mut state = seed;
    let copy = disk.directory.join("copy.img");
    let serve =
        async |disk: &Disk| Process::hosting(Program::Weir(weir.to_owned()), &disk.mounted.join("data"), "64MiB").await;
    let mut server = serve(disk).await?;
    let load = Load::on(server.address, seed, 30_000);
    tokio::time::sleep(Duration::from_micros(next(&mut state) % BETWEEN_US)).await;
    server.stop()?;
    // Whatever was acknowledged by now was so before the copy; a client may not have read it yet, which errs on the safe side.
    std::fs::write(&copy, disk.at_rest()?).map_err(|error| error.to_string())?;
    server.kill().await?;
    pushed.extend(load.end().await);
    let found = Disk::mount(&disk.directory, "copy")?;
    let again = serve(&found).await?;
    load::check(again.address, pushed).await
}

/// A file system in a file. Dropping it unmounts.
struct Disk {
    directory: PathBuf,
    image: PathBuf,
    mounted: PathBuf,
}

impl Disk {
    fn make(directory: &Path, name: &str) -> Result<Disk, String> {
        let image = directory.join(format!("{name}.img"));
        let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(96 << 20).map_err(|error| error.to_string())?;
        said(Command::new("mkfs.ext4").args(["-q", "-F", "-J", "size=4"]).arg(&image))?;
        Disk::mount(directory, name)
    }

    /// The file as it is at one moment: read until it was twice the same, for the kernel may be writing what it has begun.
    fn at_rest(&self) -> Result<Vec<u8>, String> {
        let read = || std::fs::read(&self.image).map_err(|error| error.to_string());
        let mut before = read()?;
        for _ in 0..50 {
            let now = read()?;
            if now == before {
                return Ok(now);
            }
            before = now;
        }
        Err("the kernel does not stop writing to the file system".into())
    }

    fn mount(directory: &Path, name: &str) -> Result<Disk, String> {
        let image = directory.join(format!("{name}.img"));
        let mounted = directory.join(name);
        std::fs::create_dir_all(&mounted).map_err(|error| error.to_string())?;
        said(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mounted))?;
        Ok(Disk { directory: directory.to_owned(), image, mounted })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A process that was just killed may hold it for a moment more.
        for _ in 0..50 {
            if said(Command::new("umount").arg(&self.mounted)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn said(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
