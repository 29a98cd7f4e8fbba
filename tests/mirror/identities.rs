//! A blob that anonymous may not have and an account of ours may.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::runtime::Handle;
use weir_conformance::hub::{self, Kind, Match, Spec};

use super::{
    MIB, digest,
    support::{Bench, Change, lookup},
};

/// An identity that is refused gives the right to fill the blob to the next identity of the same lookup, and to no other lookup.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_has_one_lookup_that_fills_it_while_identities_are_tried() {
    let settings = hub::Settings { accounts: vec![hub::Account::new("robot", "secret")], ..hub::Settings::default() };
    let change = Change { accounts: vec![("robot", "secret")], ..Change::default() };
    let bench = Bench::start(settings, change).await;
    // The moment between two identities is short, so that it is looked for many times.
    for number in 0..40 {
        let name = format!("corp/app{number}");
        let image = bench.hub.push(Spec::new(&*name).seed(number).private().layers([MIB])).unwrap();
        let blob = digest(&image.platforms[0].layers[0].digest);
        let as_anonymous = bench.hub.hold(Match::kind(Kind::BlobGet).repository(&*name));
        let (mirror, insider) = (bench.mirror.clone(), lookup(&name, &["docker.io/corp/*"]));
        let pull = tokio::spawn(async move { mirror.blobs.get(&insider, &blob, None).await.map(|_| ()) });
        assert!(as_anonymous.started().await, "anonymous is asked first");
        let as_account = bench.hub.hold(Match::kind(Kind::CdnGet));
        let (ended, free) = (AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|threads| {
            let (mirror, ended, free) = (&bench.mirror, &ended, &free);
            threads.spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    free.fetch_add(u32::from(mirror.blobs.fills() == 0), Ordering::Relaxed);
                }
            });
            as_anonymous.open();
            let started = tokio::task::block_in_place(|| Handle::current().block_on(as_account.started()));
            ended.store(true, Ordering::Relaxed);
            assert!(started, "the account is asked next");
        });
        assert_eq!(free.into_inner(), 0, "another lookup could have begun to fill it");
        as_account.open();
        pull.await.unwrap().unwrap();
        while bench.mirror.blobs.fills() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
