//! A seeded simulation of mirror, store, ledger and hosted repositories, compared with a reference model after each operation.
//!
//! Operations come from a seed: pulls by tag, digest, blob and range, by one or several clients at once; pushes and deletes; tags that
//! move upstream; an upstream that fails in fourteen ways; a disk whose calls fail; a clock that is set; and ends of the process:
//! in order, by a kill, by a power cut (`power`), with an object that rots meanwhile. What must hold:
//!
//! 1. A body is what its digest says, or the answer is an error.
//! 2. "There is no such thing" is never said of a thing that is there.
//! 3. While upstream and disk are well every pull succeeds, by a tag with what it named within its time to live.
//! 4. One operation, of however many clients, costs one request for each object, and none, not even a HEAD, for what is cached or
//!    for a tag that is fresh.
//! 5. The ledger holds what upstream counted, and knows what is left.
//! 6. What was acknowledged of a push or a delete is so after every end of the process.
//!
//! `WEIR_SIMULATION_SEED=7 cargo test -p weir --test weir simulation` runs one seed again, and
//! `WEIR_SIMULATION_SEEDS=100000` so many from the first. A seed decides the operations; threads and sockets keep their own order, so that
//! a fault that depends on it may need more than one run.

mod check;
mod model;
mod operation;
mod power;
mod random;
mod world;

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use self::{check::Simulation, random::Random, world::World};

/// Seeds of a plain `cargo test`; a phase of `.ci/run` takes 500.
const SEEDS: u64 = 100;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number")))
}

/// Takes seeds until there are none, on one thread with a hub of its own.
fn work(next: &AtomicU64, end: u64, failures: &Mutex<Vec<String>>, operations: &AtomicU64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut world = World::new().await;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end || failures.lock().unwrap().len() >= 5 {
                break;
            }
            let mut done = Vec::new();
            let outcome = Simulation::run(&mut world, Random::new(seed), &mut done).await;
            operations.fetch_add(done.len() as u64, Ordering::Relaxed);
            if let Err(why) = outcome {
                let done: Vec<String> = done.iter().map(|operation| format!("  {operation:?}\n")).collect();
                failures.lock().unwrap().push(format!("seed {seed}, after\n{}{why}\n", done.concat()));
            }
        }
    });
}

#[test]
fn every_answer_is_as_the_model_says_whatever_fails() {
    let first = number("WEIR_SIMULATION_SEED");
    let count = number("WEIR_SIMULATION_SEEDS").unwrap_or(if first.is_some() { 1 } else { SEEDS });
    let first = first.unwrap_or(0);
    let (next, failures, operations) = (AtomicU64::new(first), Mutex::default(), AtomicU64::new(0));
    let workers = std::thread::available_parallelism().map_or(2, usize::from) as u64 * 4;
    std::thread::scope(|scope| {
        for _ in 0..workers.min(count) {
            scope.spawn(|| work(&next, first + count, &failures, &operations));
        }
    });
    let failures = failures.into_inner().unwrap();
    println!("{count} seeds, {} operations, {} failed", operations.into_inner(), failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
