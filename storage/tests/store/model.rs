//! The store against a reference model: whatever is done in whatever order, with disks that fail and processes that end.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, test_runner::Config};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use weir_storage::{
    Call, Faults, Protection, Settings, Store,
    oci::{Algorithm, Name},
};

use crate::{EIO, assert_every_blob_is_what_its_name_says, content, drain, put, settings};

/// Blobs that there are, and repositories that may hold them.
const BLOBS: u8 = 12;
const REPOSITORIES: u8 = 3;

/// A repository and a blob.
type Held = (u8, u8);

/// What the store must say, as far as that does not depend on where a disk failed.
#[derive(Clone, Debug, Default)]
struct Model {
    held: BTreeSet<Held>,
    /// Changed while the disk failed: held or not.
    doubtful: BTreeSet<Held>,
    failing: bool,
}

#[derive(Clone, Debug)]
enum Step {
    /// A blob from upstream, which may evict others.
    Cache(u8),
    Push(Held),
    Delete(Held),
    Read(u8),
    /// From this call of the kind on, all of them fail, until the process ends.
    Fail(Call, u32),
    /// The process ends, without a word, and begins again.
    Restart,
}

impl ReferenceStateMachine for Model {
    type State = Model;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Model> {
        Just(Model::default()).boxed()
    }

    fn transitions(_: &Model) -> BoxedStrategy<Step> {
        let held = || (0..REPOSITORIES, 0..BLOBS);
        let calls = [Call::Create, Call::Write, Call::Sync, Call::Rename, Call::Remove, Call::Truncate, Call::Stat];
        prop_oneof![
            4 => (0..BLOBS).prop_map(Step::Cache),
            4 => held().prop_map(Step::Push),
            2 => held().prop_map(Step::Delete),
            2 => (0..BLOBS).prop_map(Step::Read),
            1 => (prop::sample::select(calls.to_vec()), 0..12_u32).prop_map(|(call, skip)| Step::Fail(call, skip)),
            1 => Just(Step::Restart),
        ]
        .boxed()
    }

    fn apply(mut model: Model, step: &Step) -> Model {
        match step {
            Step::Push(held) | Step::Delete(held) if model.failing => drop(model.doubtful.insert(*held)),
            Step::Push(held) => {
                model.held.insert(*held);
                model.doubtful.remove(held);
            }
            Step::Delete(held) => {
                model.held.remove(held);
                model.doubtful.remove(held);
            }
            Step::Fail(..) => model.failing = true,
            Step::Restart => model.failing = false,
            Step::Cache(_) | Step::Read(_) => {}
        }
        model
    }
}

struct Machine {
    runtime: Runtime,
    root: TempDir,
    faults: Faults,
    store: Option<Store>,
    /// The last answer to each change that succeeded while the disk failed.
    acknowledged: BTreeMap<Held, bool>,
}

impl Machine {
    fn open(&mut self) {
        self.store = None;
        self.faults = Faults::default();
        let namespaces = vec!["local/*".into()];
        // Above the mark what is cached is evicted, and what is pushed is not.
        let (high_watermark, low_watermark) = (0.2, 0.15);
        let bounds = settings(self.root.path());
        let settings = Settings { capacity: 500_000, high_watermark, low_watermark, namespaces, ..bounds };
        self.store = Some(Store::open_on(settings, self.faults.clone()).unwrap());
    }
}

fn name(repository: u8) -> Name {
    format!("local/r{repository}").parse().unwrap()
}

fn blob(n: u8) -> (weir_storage::oci::Digest, bytes::Bytes) {
    content(u64::from(n), 10_000 + usize::from(n) * 1000)
}

impl StateMachineTest for Machine {
    type SystemUnderTest = Machine;
    type Reference = Model;

    fn init_test(_: &Model) -> Machine {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let root = tempfile::tempdir().unwrap();
        let (faults, acknowledged) = (Faults::default(), BTreeMap::new());
        let mut machine = Machine { runtime, root, faults, store: None, acknowledged };
        machine.open();
        machine
    }

    fn apply(mut machine: Machine, model: &Model, step: Step) -> Machine {
        let store = machine.store.clone().unwrap();
        let changed = match step {
            Step::Cache(n) => {
                let (digest, bytes) = blob(n);
                // Refused when what is pushed leaves no room; what is read below shows that nothing else came of it.
                let _ = machine.runtime.block_on(put(&store, &digest, &bytes));
                None
            }
            Step::Read(n) => {
                let (digest, bytes) = blob(n);
                if let Ok(Some(mut reader)) = machine.runtime.block_on(store.blobs.load(&digest)) {
                    let (got, end) = machine.runtime.block_on(drain(&mut reader));
                    assert!(if end.is_ok() { got == bytes } else { got.len() < bytes.len() });
                }
                None
            }
            Step::Push(held) => {
                let (digest, bytes) = blob(held.1);
                let pushed = machine.runtime.block_on(async {
                    let upload = store.uploads.begin(&name(held.0), "", "", Algorithm::Sha256).await?;
                    upload.append(vec![bytes]).await?;
                    upload.commit(&digest).await
                });
                Some((held, true, pushed.map(drop)))
            }
            Step::Delete(held) => {
                let deleted = machine.runtime.block_on(store.repositories.delete_blob(
                    &name(held.0),
                    &blob(held.1).0,
                    Protection::default(),
                ));
                Some((held, false, deleted.map(drop)))
            }
            Step::Fail(call, skip) => {
                machine.faults.fail(call, skip, u32::MAX, EIO);
                None
            }
            Step::Restart => {
                drop(store);
                machine.open();
                return machine;
            }
        };
        if let Some((held, there, result)) = changed {
            match result {
                Ok(()) => drop(machine.acknowledged.insert(held, there)),
                Err(error) => {
                    assert!(model.failing, "{error}");
                    machine.acknowledged.remove(&held);
                }
            }
        }
        machine
    }

    fn check_invariants(machine: &Machine, model: &Model) {
        assert_every_blob_is_what_its_name_says(machine.root.path());
        let store = machine.store.as_ref().unwrap();
        for held in (0..REPOSITORIES).flat_map(|repository| (0..BLOBS).map(move |n| (repository, n))) {
            let (digest, bytes) = blob(held.1);
            let found = machine.runtime.block_on(store.repositories.blob_size(&name(held.0), &digest));
            let Ok(size) = found else {
                assert!(model.failing);
                continue;
            };
            let expected = match machine.acknowledged.get(&held) {
                Some(there) => Some(*there),
                None if model.doubtful.contains(&held) => None,
                None => Some(model.held.contains(&held)),
            };
            if let Some(there) = expected {
                assert_eq!(size, there.then_some(bytes.len() as u64), "{held:?}");
            }
        }
    }
}

prop_state_machine! {
    #![proptest_config(Config { cases: 24, failure_persistence: None, ..Config::default() })]

    #[test]
    fn the_store_keeps_what_it_acknowledged(sequential 1..30 => Machine);
}
