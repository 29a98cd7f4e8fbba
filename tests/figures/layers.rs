//! Layers of a GiB, each compression, read as the mirror reads them: time, and what the memory grows by.

use std::{
    io::{self, BufReader, Read, Write},
    time::Instant,
};

use flate2::{Compression, write::GzEncoder};
use weir::policy::{Bounds, scan};
use weir_conformance::mirror::process::resident;

use crate::{random::Random, support::number};

const MIB: u64 = 1 << 20;
/// What the memory may grow by.
const MOST_GROWTH: u64 = 64 * MIB;

/// A tar of files of 1 MiB, a quarter of it random, and at its end a secret.
struct Files {
    left: u64,
    piece: io::Cursor<Vec<u8>>,
    random: Random,
}

impl Files {
    fn new(bytes: u64) -> Files {
        Files { left: bytes / MIB, piece: io::Cursor::default(), random: Random::new(1) }
    }

    fn entry(path: &str, contents: &[u8]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(contents.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, contents).unwrap();
        let mut bytes = tar.into_inner().unwrap();
        // Without the end of the archive.
        bytes.truncate(bytes.len() - 1024);
        bytes
    }
}

impl Read for Files {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.piece.read(buffer)?;
            if count > 0 || self.left == u64::MAX {
                return Ok(count);
            }
            self.left = self.left.wrapping_sub(1);
            self.piece = io::Cursor::new(match self.left {
                u64::MAX => Files::entry("app/last", format!("ghp_{}", "aB3".repeat(12)).as_bytes()),
                left => {
                    let line = format!("export const value{left} = compute({left});\n");
                    let mut contents = line.repeat(MIB as usize / line.len()).into_bytes();
                    contents[..MIB as usize / 4].fill_with(|| b' ' + (self.random.next() % 95) as u8);
                    Files::entry(&format!("app/file{left}.js"), &contents)
                }
            });
        }
    }
}

#[test]
fn layers_of_a_gibibyte_are_read_in_little_memory() {
    let mib = number("WEIR_LAYER_MIB", 1024);
    let directory = tempfile::tempdir().unwrap();
    let create = |name: &str| std::fs::File::create(directory.path().join(name)).unwrap();
    let mut gzip = GzEncoder::new(create("gzip"), Compression::fast());
    io::copy(&mut Files::new(mib * MIB), &mut gzip).unwrap();
    gzip.finish().unwrap().flush().unwrap();
    let fastest = ruzstd::encoding::CompressionLevel::Fastest;
    ruzstd::encoding::compress(Files::new(mib * MIB), create("zstd"), fastest);
    // A thousand bytes of zeros for one.
    let mut bomb = GzEncoder::new(create("bomb"), Compression::best());
    let mut header = tar::Header::new_gnu();
    header.set_size(4 * mib * MIB);
    header.set_mode(0o644);
    header.set_path("zeros").unwrap();
    header.set_cksum();
    bomb.write_all(header.as_bytes()).unwrap();
    io::copy(&mut io::repeat(0).take(4 * mib * MIB + 1024), &mut bomb).unwrap();
    bomb.finish().unwrap().flush().unwrap();
    let own = std::process::id();
    for name in ["gzip", "zstd", "bomb"] {
        let file = std::fs::File::open(directory.path().join(name)).unwrap();
        let size = file.metadata().unwrap().len();
        let (before, begun) = (resident(own).unwrap(), Instant::now());
        let peak = std::cell::Cell::new(before);
        let looks = std::cell::Cell::new(0_u32);
        let may_go_on = || {
            looks.set(looks.get() + 1);
            if looks.get().is_multiple_of(100) {
                peak.set(peak.get().max(resident(own).unwrap()));
            }
            true
        };
        let found = scan(BufReader::new(file), Bounds::default(), &may_go_on);
        let (took, grew) = (begun.elapsed(), peak.get() - before);
        println!(
            "{name}: {} MiB of {} MiB in {:.1} s, {} MiB of memory",
            size / MIB,
            found.bytes / MIB,
            took.as_secs_f64(),
            grew / MIB
        );
        assert!(found.problems.is_empty() && found.bytes >= mib * MIB, "{found:?}");
        assert_eq!(found.secrets.len(), usize::from(name != "bomb"), "{found:?}");
        assert!(grew < MOST_GROWTH, "{name} grew by {} MiB", grew / MIB);
    }
}
