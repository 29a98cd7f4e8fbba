//! Schedules of the threads that share an arriving blob, explored by shuttle: the very source files of the store, over
//! shuttle's locks and atomics. A lost wake is a deadlock, which shuttle reports with the schedule that led to it.

#![expect(dead_code, unreachable_pub, reason = "The source files have more functions than the explorations call.")]

#[path = "../../src/blobs/in_use.rs"]
mod in_use;
#[path = "../../src/blobs/shared.rs"]
mod shared;

mod sync {
    pub(crate) use shuttle::sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicU8, AtomicU64, Ordering},
    };
}

mod files {
    #[derive(Hash)]
    pub(crate) struct Stamp;
}

mod oci {
    pub(crate) use weir_storage::oci::{Digest, Hasher};
}

use std::{fs::File, future::poll_fn, sync::Arc};

use shuttle::{
    future::block_on,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};
use weir_storage::oci::Algorithm;

use crate::{
    in_use::InUse,
    oci::Digest,
    shared::{HOLD_BACK, SharedBlob},
};

/// How many schedules each exploration tries; `WEIR_SCHEDULES` in the environment has it try more.
fn schedules() -> usize {
    std::env::var("WEIR_SCHEDULES").ok().and_then(|number| number.parse().ok()).unwrap_or(1000)
}

const SIZE: u64 = HOLD_BACK + 3000;

fn digest() -> Digest {
    Algorithm::Sha256.digest(b"shared")
}

fn arriving(size: Option<u64>) -> Arc<SharedBlob> {
    let file = Arc::new(File::open("/dev/null").unwrap());
    Arc::new(SharedBlob::new(file, size, InUse::new(std::time::Duration::MAX).hold(&digest())))
}

/// Reads from the start to the end, and gives how far it came and whether it was stopped there.
fn read(shared: &SharedBlob, verified: &AtomicBool) -> (u64, bool) {
    let reader = shared.join();
    let mut offset = 0;
    loop {
        match block_on(poll_fn(|cx| shared.poll_readable(reader, cx, offset))) {
            Ok(end) if end == offset => break (offset, false),
            Ok(end) => {
                let is_verified = verified.load(Ordering::SeqCst);
                assert!(is_verified || end <= SIZE - HOLD_BACK, "{end} was readable before the blob was verified");
                offset = end;
                if offset == SIZE && shared.size() == Some(SIZE) {
                    shared.leave(reader);
                    break (offset, false);
                }
            }
            Err(_) => break (offset, true),
        }
    }
}

/// Publishes in three steps, and ends the blob as `end` says.
fn explore(size: Option<u64>, end: fn(&SharedBlob, &AtomicBool), sound: fn((u64, bool)) -> bool) {
    let schedule = move || {
        let shared = arriving(size);
        let verified = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (shared, verified) = (shared.clone(), verified.clone());
                thread::spawn(move || read(&shared, &verified))
            })
            .collect();
        // A reader that polls once and goes away.
        let leaves = thread::spawn({
            let shared = shared.clone();
            move || {
                let reader = shared.join();
                let _ = block_on(poll_fn(|cx| std::task::Poll::Ready(shared.poll_readable(reader, cx, 1000))));
                shared.leave(reader);
            }
        });
        for written in [1000, 2000, SIZE] {
            shared.publish(written);
        }
        end(&shared, &verified);
        for reader in readers {
            let outcome = reader.join().unwrap();
            assert!(sound(outcome), "{outcome:?}");
        }
        leaves.join().unwrap();
    };
    shuttle::check_random(schedule, schedules());
    shuttle::check_pct(schedule, schedules(), 3);
}

fn finish(shared: &SharedBlob, verified: &AtomicBool) {
    verified.store(true, Ordering::SeqCst);
    shared.finish(SIZE);
}

/// Invariant 2: every reader gets the whole of a blob that was verified, and none of its last 64 KiB before that.
#[test]
fn every_reader_gets_the_whole_of_a_verified_blob_and_its_end_only_then() {
    explore(Some(SIZE), finish, |outcome| outcome == (SIZE, false));
    explore(None, finish, |outcome| outcome == (SIZE, false));
}

/// The writer leaves or fails: no reader waits for ever, and none gets a clean end.
#[test]
fn every_reader_of_a_blob_that_stops_is_stopped_before_its_end() {
    let is_cut = |(end, stopped)| stopped && end <= SIZE - HOLD_BACK;
    explore(Some(SIZE), |shared, _| shared.stop("the writer left".into()), is_cut);
}

/// A pause of upstream: what was published before it is read before it ends.
#[test]
fn a_reader_catches_up_with_what_is_published_while_nothing_more_comes() {
    let schedule = || {
        let shared = arriving(Some(SIZE));
        let reader = thread::spawn({
            let shared = shared.clone();
            move || {
                let reader = shared.join();
                let mut offset = 0;
                while offset < SIZE - HOLD_BACK {
                    offset = block_on(poll_fn(|cx| shared.poll_readable(reader, cx, offset))).unwrap();
                }
            }
        });
        shared.publish(1000);
        shared.publish(SIZE);
        reader.join().unwrap();
    };
    shuttle::check_random(schedule, schedules());
}

/// Two ends at once, as when the fill fails while the blob is committed: the blob has one end, whichever came first.
#[test]
fn a_blob_that_is_stopped_while_it_is_committed_ends_once() {
    let schedule = || {
        let shared = arriving(Some(SIZE));
        let verified = Arc::new(AtomicBool::new(false));
        let reader = thread::spawn({
            let (shared, verified) = (shared.clone(), verified.clone());
            move || read(&shared, &verified)
        });
        let stop = thread::spawn({
            let shared = shared.clone();
            move || shared.stop("too slow".into())
        });
        if !shared.is_stopped() {
            finish(&shared, &verified);
        }
        stop.join().unwrap();
        let (end, stopped) = reader.join().unwrap();
        assert!(if stopped { end <= SIZE } else { end == SIZE && shared.is_whole() }, "{end} {stopped}");
    };
    shuttle::check_random(schedule, schedules());
}

/// Eviction and a reader: a reader that found the file has it for as long as it holds it.
#[test]
fn what_a_reader_holds_is_not_evicted_and_its_readers_share_one_blob() {
    let schedule = || {
        let in_use = InUse::<SharedBlob>::new(std::time::Duration::MAX);
        let exists = Arc::new(AtomicBool::new(true));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (in_use, exists) = (in_use.clone(), exists.clone());
                thread::spawn(move || {
                    let hold = in_use.hold(&digest());
                    if !exists.load(Ordering::SeqCst) {
                        return None;
                    }
                    let file = Arc::new(File::open("/dev/null").unwrap());
                    let mine = Arc::new(SharedBlob::whole(file, SIZE, hold));
                    let shared = in_use.share(&digest(), mine);
                    assert!(exists.load(Ordering::SeqCst), "evicted under a reader");
                    Some(shared)
                })
            })
            .collect();
        in_use.unless_held(&digest(), || exists.store(false, Ordering::SeqCst));
        let found: Vec<_> = readers.into_iter().filter_map(|reader| reader.join().unwrap()).collect();
        if let [one, other] = &found[..] {
            assert!(Arc::ptr_eq(one, other), "two readers have two files");
        }
        drop(found);
        assert!(in_use.unless_held(&digest(), || ()).is_some(), "a hold outlived its readers");
    };
    shuttle::check_random(schedule, schedules());
}
