//! What the mirror decides, where the front door cannot make it happen on demand: rights, races, a full disk, a restart.
//!
//! What a client can see is checked through real sockets by the mirror suite of `weir-conformance`.

mod identities;
mod layers;
pub(crate) mod support;

use std::time::{Duration, SystemTime};

use prometheus_client::{encoding::text::encode, registry::Registry};
use support::{Bench, Change, assemble, lookup, read};
use weir::{
    answer::CacheStatus,
    mirror::{Error, Mirror, Repository, Selection},
    oci::{Digest, Reference},
};
use weir_conformance::hub::{self, At, Fault, Kind, Match, Spec, What};
use weir_storage::{Call, Faults, Source, TagRecord};

const MIB: u64 = 1 << 20;

fn tag(text: &str) -> Reference {
    text.parse().unwrap()
}

fn digest(text: &str) -> Digest {
    text.parse().unwrap()
}

fn limited(pulls: u32) -> hub::Settings {
    let limit = hub::Limit { pulls, window: Duration::from_secs(21_600) };
    hub::Settings { limit: Some(limit), ..hub::Settings::default() }
}

/// What only our account can read is for those whose patterns name it alone, cached or not.
#[tokio::test]
async fn private_content_is_only_for_those_whose_patterns_name_it() {
    let settings = hub::Settings { accounts: vec![hub::Account::new("robot", "secret")], ..hub::Settings::default() };
    let change = Change { accounts: vec![("robot", "secret")], ..Change::default() };
    let bench = Bench::start(settings, change).await;
    let private = bench.hub.push(Spec::new("corp/app").seed(7).private().layers([MIB])).unwrap();
    bench.hub.push(Spec::new("library/open").layers([MIB])).unwrap();
    let (insider, outsider) = (lookup("corp/app", &["docker.io/corp/*"]), lookup("corp/app", &[]));
    let blob = digest(&private.blobs()[0].digest);

    for _ in 0..2 {
        assert!(bench.mirror.manifests.get(&insider, &tag("latest")).await.is_ok());
        let refused = bench.mirror.manifests.get(&outsider, &tag("latest")).await;
        assert!(matches!(refused, Err(Error::NameUnknown)), "{refused:?}");
    }
    let size = bench.mirror.blobs.get(&insider, &blob, None).await.unwrap().reader.size();
    assert_eq!(size, private.blobs()[0].size);
    let unknown = digest(&format!("sha256:{}", "0".repeat(64)));
    for repository in ["corp/app", "library/open"] {
        let there = bench.mirror.blobs.get(&lookup(repository, &[]), &blob, None).await.map(|_| ()).unwrap_err();
        let nowhere = bench.mirror.blobs.get(&lookup(repository, &[]), &unknown, None).await.map(|_| ()).unwrap_err();
        assert!(matches!(there, Error::BlobUnknown), "{repository}: {there:?}");
        assert_eq!(there.to_string(), nowhere.to_string());
    }
    assert!(bench.mirror.manifests.get(&lookup("library/open", &[]), &tag("latest")).await.is_ok());
}

/// A tag that moved while nothing is left to fetch it with goes on naming what is here, by GET and by HEAD.
#[tokio::test]
async fn a_moved_tag_that_the_budget_cannot_fetch_keeps_its_old_answer() {
    let bench = Bench::start(limited(100), Change::default()).await;
    let old = bench.hub.push(Spec::new("library/moves").seed(1)).unwrap();
    let asker = lookup("library/moves", &[]);
    bench.mirror.manifests.get(&asker, &tag("latest")).await.unwrap();
    bench.hub.push(Spec::new("library/moves").seed(2)).unwrap();
    bench.hub.set_budget(0);
    for _ in 0..2 {
        let head = bench.mirror.manifests.head(&asker, &tag("latest")).await.unwrap();
        assert_eq!(head.digest.to_string(), old.digest());
        let answer = bench.mirror.manifests.get(&asker, &tag("latest")).await.unwrap();
        assert_eq!(answer.manifest.digest.to_string(), old.digest());
        assert_eq!(answer.facts.status, CacheStatus::Stale);
        assert!(answer.facts.warning.is_some());
    }
    let counted = bench.hub.count(|request| request.kind == Kind::ManifestGet && request.counted);
    assert_eq!(counted, 1, "no counted GET was tried in vain");
    bench.hub.set_budget(10);
    let answer = bench.mirror.manifests.get(&asker, &tag("latest")).await.unwrap();
    assert_ne!(answer.manifest.digest.to_string(), old.digest());
}

/// A HEAD that finds a tag moved does not throw away the old answer before upstream gives the new one.
#[tokio::test]
async fn a_moved_tag_that_upstream_fails_to_give_keeps_its_old_answer_after_a_head() {
    let bench = Bench::start(limited(100), Change::default()).await;
    let old = bench.hub.push(Spec::new("library/moves").seed(1)).unwrap();
    let asker = lookup("library/moves", &[]);
    bench.mirror.manifests.get(&asker, &tag("latest")).await.unwrap();
    let new = bench.hub.push(Spec::new("library/moves").seed(2)).unwrap();
    bench.hub.fault(Fault::always(What::Status(503)).on(Match::kind(Kind::ManifestGet)));
    let head = bench.mirror.manifests.head(&asker, &tag("latest")).await.unwrap();
    assert_eq!(head.digest.to_string(), new.digest());
    let answer = bench.mirror.manifests.get(&asker, &tag("latest")).await.unwrap();
    assert_eq!((answer.manifest.digest.to_string(), answer.facts.status), (old.digest().into(), CacheStatus::Stale));
    bench.hub.clear_faults();
    // As docker goes on: by the digest that the HEAD named. From then on the tag names it, whatever becomes of upstream.
    let digest = Reference::Digest(new.digest().parse().unwrap());
    let mut got = bench.mirror.manifests.get(&asker, &digest).await;
    for _ in 0..40 {
        if got.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
        got = bench.mirror.manifests.get(&asker, &digest).await;
    }
    got.unwrap();
    bench.hub.down().await;
    let answer = bench.mirror.manifests.get(&asker, &tag("latest")).await.unwrap();
    assert_eq!(answer.manifest.digest.to_string(), new.digest());
}

/// Pulls that come back before their forecast are seen by a HEAD, for a digest that a fresh tag names, too.
#[tokio::test]
async fn pulls_that_come_back_early_are_seen() {
    let mut change = Change::default();
    change.mirror.tag_ttl = Duration::from_secs(3600);
    let bench = Bench::start(limited(100), change).await;
    bench.hub.push(Spec::new("library/later")).unwrap();
    let asker = lookup("library/later", &[]);
    bench.hub.set_budget(0);
    let head = bench.mirror.manifests.head(&asker, &tag("latest")).await.unwrap();
    let refused = bench.mirror.manifests.get(&asker, &Reference::Digest(head.digest.clone())).await;
    assert!(matches!(refused, Err(Error::BudgetSpent { .. })), "{refused:?}");
    bench.hub.set_budget(10);
    // The identity is looked at again once in five seconds.
    let mut pulled = bench.mirror.manifests.get(&asker, &tag("latest")).await;
    for _ in 0..20 {
        if pulled.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        pulled = bench.mirror.manifests.get(&asker, &tag("latest")).await;
    }
    assert_eq!(pulled.unwrap().manifest.digest, head.digest);
}

/// A tag that upstream deleted does not come back as a stale answer when upstream is next out of reach.
#[tokio::test]
async fn a_tag_that_upstream_deleted_is_not_brought_back_by_an_outage() {
    let change = Change::default();
    let mut bench = Bench::start(hub::Settings::default(), change).await;
    bench.hub.push(Spec::new("library/gone")).unwrap();
    let asker = lookup("library/gone", &[]);
    bench.mirror.manifests.get(&asker, &tag("latest")).await.unwrap();
    bench.hub.remove("library/gone", "latest");
    let gone = bench.mirror.manifests.get(&asker, &tag("latest")).await;
    assert!(matches!(gone, Err(Error::ManifestUnknown)), "{gone:?}");
    bench.hub.down().await;
    bench = bench.restart().await;
    let down = bench.mirror.manifests.get(&asker, &tag("latest")).await;
    assert!(matches!(down, Err(Error::UpstreamUnavailable { .. })), "{down:?}");
}

/// A lookup on a server worker looks in memory only: a disk that hangs would stop the worker and all its connections.
#[tokio::test]
async fn a_lookup_that_does_not_await_reads_no_file() {
    let settings = weir::mirror::Settings { tag_ttl: Duration::from_secs(3600), ..Change::default().mirror };
    let mut bench = Bench::start(hub::Settings::default(), Change { mirror: settings, ..Change::default() }).await;
    bench.hub.push(Spec::new("library/warm")).unwrap();
    let asker = lookup("library/warm", &[]);
    bench.mirror.manifests.get(&asker, &tag("latest")).await.unwrap();
    bench = bench.restart().await;
    let asked = bench.hub.count(|_| true);
    let cached = |bench: &Bench| bench.mirror.manifests.cached(&asker, &tag("latest"), SystemTime::now());
    let reads_tag = |bench: &Bench| bench.faults.recorded().iter().any(|(_, path)| path.ends_with("latest"));
    bench.faults.record();
    assert!(cached(&bench).is_none(), "memory is empty after a restart");
    assert!(!reads_tag(&bench));
    bench.mirror.manifests.get(&asker, &tag("latest")).await.unwrap();
    assert!(reads_tag(&bench));
    bench.faults.record();
    assert!(cached(&bench).is_some());
    assert!(!reads_tag(&bench));
    assert_eq!(bench.hub.count(|_| true), asked);
}

/// A refusal is for the refused request alone, though both wait for the same digest at once.
#[tokio::test]
async fn a_source_that_is_refused_does_not_fail_another_that_waits_for_the_same_blob() {
    let bench = Bench::start(hub::Settings::default(), Change::default()).await;
    let image = bench.hub.push(Spec::new("library/has").layers([MIB])).unwrap();
    bench.hub.push(Spec::new("library/lacks").seed(9)).unwrap();
    let blob = digest(&image.platforms[0].layers[0].digest);
    let gate = bench.hub.hold(Match::kind(Kind::BlobGet).repository("library/lacks"));
    let refused = tokio::spawn({
        let (mirror, blob) = (bench.mirror.clone(), blob.clone());
        async move { mirror.blobs.get(&lookup("library/lacks", &[]), &blob, None).await.map(|_| ()) }
    });
    assert!(gate.started().await, "the one that will be refused leads");
    let served = tokio::spawn({
        let (mirror, blob) = (bench.mirror.clone(), blob.clone());
        async move {
            let mut answer = mirror.blobs.get(&lookup("library/has", &[]), &blob, None).await?;
            let size = answer.reader.size();
            Ok::<_, Error>(read(&mut answer.reader, 0, size).await.unwrap())
        }
    });
    assert!(bench.hub.wait_for(|log| log.iter().any(|request| request.kind == Kind::BlobHead)).await);
    gate.open();
    assert!(matches!(refused.await.unwrap(), Err(Error::BlobUnknown)));
    let bytes = served.await.unwrap().unwrap();
    assert_eq!(blob.algorithm().digest(&bytes), blob);
}

/// An earlier fill may end at any moment before a download begins: then there is none. The leader of a flight looks again, and once more
/// when the digest is its own to fill.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_lands_between_the_lookup_and_the_download_is_not_downloaded_again() {
    let other = Bench::start(hub::Settings::default(), Change::default()).await;
    let spec = || Spec::new("library/lands").layers([100]);
    let blob = digest(&other.hub.push(spec()).unwrap().platforms[0].layers[0].digest);
    let mut answer = other.mirror.blobs.get(&lookup("library/lands", &[]), &blob, None).await.unwrap();
    let size = answer.reader.size();
    let bytes = read(&mut answer.reader, 0, size).await.unwrap();
    // Before the client's look at the members, the leader's look at the blob, and its second one.
    for looks in 0..3 {
        let bench = Bench::start(hub::Settings::default(), Change::default()).await;
        bench.hub.push(spec()).unwrap();
        let (store, wanted, content) = (bench.store.clone(), blob.clone(), bytes.clone());
        let land = move || {
            let put = async {
                let mut writer = store.blobs.write(&wanted, Some(size)).await.unwrap();
                writer.append(content.into()).await.unwrap();
                writer.commit().await.unwrap();
            };
            let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            std::thread::scope(|threads| threads.spawn(|| runtime().block_on(put)).join().unwrap());
        };
        bench.faults.before(Call::Stat, looks, land);
        let mut answer = bench.mirror.blobs.get(&lookup("library/lands", &[]), &blob, None).await.unwrap();
        assert!(bench.store.blobs.size(&blob).await.unwrap().is_some(), "it landed before look {looks}");
        assert_eq!(read(&mut answer.reader, 0, size).await.unwrap(), bytes);
        assert_eq!(bench.hub.count(|request| request.kind == Kind::BlobGet), 0, "before look {looks}");
    }
}

/// A disk without room costs the cache an entry and no client its pull; a wrong byte never completes.
#[tokio::test]
async fn a_full_disk_degrades_to_pass_through_which_verifies_too() {
    let change = Change { capacity: 4 * MIB, ..Change::default() };
    let bench = Bench::start(hub::Settings::default(), change).await;
    let image = bench.hub.push(Spec::new("library/big").layers([16 * MIB])).unwrap();
    let blob = image.platforms[0].layers[0].clone();
    let (asker, wanted) = (lookup("library/big", &[]), digest(&blob.digest));
    let both =
        tokio::join!(bench.mirror.blobs.get(&asker, &wanted, None), bench.mirror.blobs.get(&asker, &wanted, None));
    for answer in [both.0, both.1] {
        let mut answer = answer.unwrap();
        assert_eq!(answer.facts.status, CacheStatus::Bypass);
        let bytes = read(&mut answer.reader, 0, blob.size).await.unwrap();
        assert_eq!(wanted.algorithm().digest(&bytes), wanted);
    }
    assert!(bench.store.blobs.load(&wanted).await.unwrap().is_none());
    bench.hub.fault(Fault::once(What::Corrupt(At::Last)).on(Match::kind(Kind::CdnGet)));
    let mut answer = bench.mirror.blobs.get(&asker, &wanted, None).await.unwrap();
    assert!(read(&mut answer.reader, 0, blob.size).await.is_err());
}

/// A disk that hangs ends the fill after its time: its reader learns of it, the digest is free, and the outcome has a name.
#[tokio::test]
async fn a_fill_whose_disk_hangs_is_given_up_and_the_next_lookup_starts_anew() {
    // In the beginning, with more than the write buffer takes, and at the end.
    tokio::join!(hang(Call::Create, MIB), hang(Call::Write, 16 * MIB), hang(Call::Write, MIB));
}

async fn hang(call: Call, size: u64) {
    let mut change = Change::default();
    change.mirror.fill_timeout = Duration::from_secs(3);
    let bench = Bench::start(hub::Settings::default(), change).await;
    let image = bench.hub.push(Spec::new("library/hung").layers([size])).unwrap();
    let blob = image.platforms[0].layers[0].clone();
    let (asker, wanted) = (lookup("library/hung", &[]), digest(&blob.digest));
    // The index would meet the fault instead.
    while !bench.store.usage().index_ready {
        tokio::task::yield_now().await;
    }
    let (release, released) = std::sync::mpsc::channel::<()>();
    bench.faults.before(call, 0, move || {
        let _ = released.recv();
    });
    let lookups = async {
        match bench.mirror.blobs.get(&asker, &wanted, None).await {
            Ok(mut answer) => assert!(read(&mut answer.reader, 0, blob.size).await.is_err(), "{call:?} {size}"),
            Err(error) => assert!(matches!(error, Error::UpstreamUnavailable { .. }), "{error}"),
        }
        // The fill that was given up still waits for the disk.
        let mut answer = bench.mirror.blobs.get(&asker, &wanted, None).await.unwrap();
        let bytes = read(&mut answer.reader, 0, blob.size).await.unwrap();
        assert_eq!(wanted.algorithm().digest(&bytes), wanted);
    };
    tokio::time::timeout(Duration::from_secs(60), lookups).await.expect("a lookup waits for the disk that hangs");
    drop(release);
    let text = exported(&bench);
    assert!(text.contains("fill_outcomes_total{outcome=\"too_old\"} 1\n"), "{call:?} {size}: {text}");
}

/// An upstream that sends nothing for as long as its own limit allows ends the fill after the fill's, and what came is resumed.
#[tokio::test]
async fn a_fill_whose_upstream_sends_too_little_is_given_up_and_resumed_by_the_next_lookup() {
    let mut change = Change { idle_timeout: Duration::from_secs(600), ..Change::default() };
    change.mirror.fill_timeout = Duration::from_secs(3);
    let bench = Bench::start(hub::Settings::default(), change).await;
    let image = bench.hub.push(Spec::new("library/slow").layers([8 * MIB])).unwrap();
    let blob = image.platforms[0].layers[0].clone();
    let (asker, wanted) = (lookup("library/slow", &[]), digest(&blob.digest));
    bench.hub.fault(Fault::once(What::Stall(0.5)).on(Match::kind(Kind::CdnGet)));
    let mut answer = bench.mirror.blobs.get(&asker, &wanted, None).await.unwrap();
    let given_up = tokio::time::timeout(Duration::from_secs(60), read(&mut answer.reader, 0, blob.size)).await;
    assert!(given_up.expect("the fill waits for upstream").is_err());
    let mut answer = bench.mirror.blobs.get(&asker, &wanted, None).await.unwrap();
    let bytes = read(&mut answer.reader, 0, blob.size).await.unwrap();
    assert_eq!(wanted.algorithm().digest(&bytes), wanted);
    assert_eq!(bench.hub.count(|request| request.kind == Kind::CdnGet && request.range.is_some()), 1);
    assert!(exported(&bench).contains("fill_outcomes_total{outcome=\"too_old\"} 1\n"));
    bench.hub.release();
}

fn exported(bench: &Bench) -> String {
    let (mut registry, mut text) = (Registry::default(), String::new());
    bench.mirror.metrics().register(&mut registry);
    encode(&mut text, &registry).unwrap();
    text
}

/// A small range far ahead of the fill does not wait for it, and is the range's own bytes.
#[tokio::test]
async fn a_small_range_far_ahead_of_the_fill_is_passed_through() {
    let bench = Bench::start(hub::Settings::default(), Change::default()).await;
    let image = bench.hub.push(Spec::new("library/lazy").layers([32 * MIB])).unwrap();
    let blob = image.platforms[0].layers[0].clone();
    let (asker, wanted) = (lookup("library/lazy", &[]), digest(&blob.digest));
    bench.hub.fault(Fault::once(What::Stall(0.1)).on(Match::kind(Kind::CdnGet)));
    let mut arriving = bench.mirror.blobs.get(&asker, &wanted, None).await.unwrap();
    let (start, end) = (blob.size - MIB, blob.size - 17);
    let mut ahead = bench.mirror.blobs.get(&asker, &wanted, Some((start, Some(end)))).await.unwrap();
    assert_eq!(ahead.facts.status, CacheStatus::Bypass);
    let tail = read(&mut ahead.reader, start, end).await.unwrap();
    bench.hub.release();
    let whole = read(&mut arriving.reader, 0, blob.size).await.unwrap();
    assert_eq!(&whole[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()], tail);
}

/// A fill that a stopping mirror leaves behind is resumed by Range, and verified as a whole.
#[tokio::test]
async fn a_fill_left_by_a_stopping_mirror_is_resumed() {
    let mut bench = Bench::start(hub::Settings::default(), Change::default()).await;
    let image = bench.hub.push(Spec::new("library/half").layers([8 * MIB])).unwrap();
    let blob = image.platforms[0].layers[0].clone();
    let (asker, wanted) = (lookup("library/half", &[]), digest(&blob.digest));
    bench.hub.fault(Fault::once(What::Stall(0.5)).on(Match::kind(Kind::CdnGet)));
    let mut cut = bench.mirror.blobs.get(&asker, &wanted, None).await.unwrap();
    read(&mut cut.reader, 0, blob.size / 2 - MIB).await.unwrap();
    bench = bench.restart().await;
    bench.hub.release();
    assert!(read(&mut cut.reader, 0, blob.size).await.is_err(), "its reader learns of it");
    let mut answer = bench.mirror.blobs.get(&asker, &wanted, None).await.unwrap();
    let bytes = read(&mut answer.reader, 0, blob.size).await.unwrap();
    assert_eq!(wanted.algorithm().digest(&bytes), wanted);
    let ranged = bench.hub.count(|request| request.kind == Kind::CdnGet && request.range.is_some());
    assert_eq!(ranged, 1);
}

/// A digest that is gone between HEAD and GET costs one HEAD more, and the tag is not taken for missing.
#[tokio::test]
async fn a_tag_that_moves_between_head_and_get_is_asked_for_once_more() {
    let bench = Bench::start(hub::Settings::default(), Change::default()).await;
    let first = bench.hub.push(Spec::new("library/racy").seed(1)).unwrap();
    let gate = bench.hub.hold(Match::kind(Kind::ManifestGet));
    let asked = tokio::spawn({
        let mirror = bench.mirror.clone();
        async move { mirror.manifests.get(&lookup("library/racy", &[]), &tag("latest")).await }
    });
    assert!(gate.started().await);
    let second = bench.hub.push(Spec::new("library/racy").seed(2)).unwrap();
    bench.hub.remove("library/racy", first.digest());
    gate.open();
    assert_eq!(asked.await.unwrap().unwrap().manifest.digest.to_string(), second.digest());
}

#[tokio::test]
async fn a_purge_forgets_that_a_manifest_had_no_referrers() {
    let mut change = Change::default();
    change.mirror.listing_ttl = Duration::from_secs(3600);
    let bench = Bench::start(hub::Settings::default(), change).await;
    let image = bench.hub.push(Spec::new("library/signed")).unwrap();
    let (lookup, subject) = (lookup("library/signed", &[]), digest(image.digest()));
    assert_eq!(bench.mirror.listings.referrers(&lookup, &subject).await.unwrap().descriptors.len(), 0);
    bench.hub.push_referrer(hub::Artifact {
        repository: "library/signed".into(),
        subject: image.digest().into(),
        artifact_type: "application/vnd.example.signature".into(),
        annotations: Vec::new(),
        content: "signed".into(),
    });
    assert_eq!(bench.mirror.listings.referrers(&lookup, &subject).await.unwrap().descriptors.len(), 0, "it is fresh");
    let repository = Repository { upstream: "docker.io".into(), name: lookup.repository.clone() };
    while !bench.mirror.images().is_complete() {
        tokio::task::yield_now().await;
    }
    bench.mirror.purge(vec![Selection::Repository(repository)], false).await.unwrap();
    assert_eq!(bench.mirror.listings.referrers(&lookup, &subject).await.unwrap().descriptors.len(), 1);
}

/// The tag and the platform of a spend are shown, though clients fetch by digest.
#[tokio::test]
async fn a_spend_shows_the_tag_by_which_its_digest_became_known() {
    let bench = Bench::start(limited(100), Change::default()).await;
    let image = bench.hub.push(Spec::new("library/named").platforms(["linux/amd64", "linux/arm64/v8"])).unwrap();
    let lookup = lookup("library/named", &[]);
    bench.mirror.manifests.head(&lookup, &tag("latest")).await.unwrap();
    for digest in [image.digest(), &image.platforms[1].manifest.digest] {
        bench.mirror.manifests.get(&lookup, &Reference::Digest(digest.parse().unwrap())).await.unwrap();
    }
    let tags: Vec<_> = bench.mirror.spends(9).into_iter().filter_map(|spend| spend.tag).collect();
    assert_eq!(tags.iter().map(|tag| &**tag).collect::<Vec<_>>(), ["latest (linux/arm64/v8)", "latest"]);
}

/// An absence that a client primed does not outlive the push: the tag is seen at once, and so are the objects it names.
#[tokio::test]
async fn what_was_absent_is_served_as_soon_as_a_tag_names_it() {
    let bench = Bench::start(hub::Settings::default(), Change::default()).await;
    let other = Bench::start(hub::Settings::default(), Change::default()).await;
    bench.hub.push(Spec::new("library/soon").tags(["old"]).seed(1)).unwrap();
    // The same image, to know its digests before it is there.
    let image = other.hub.push(Spec::new("library/soon").tags(["new"]).seed(2).layers([MIB])).unwrap();
    let lookup = lookup("library/soon", &[]);
    let layer = digest(&image.platforms[0].layers[0].digest);
    let platform = Reference::Digest(digest(&image.platforms[0].manifest.digest));
    for reference in [Reference::Digest(digest(image.digest())), platform.clone()] {
        assert!(matches!(bench.mirror.manifests.get(&lookup, &reference).await, Err(Error::ManifestUnknown)));
    }
    assert!(matches!(bench.mirror.blobs.get(&lookup, &layer, None).await, Err(Error::BlobUnknown)));
    bench.hub.push(Spec::new("library/soon").tags(["new"]).seed(2).layers([MIB])).unwrap();
    assert_eq!(bench.mirror.manifests.get(&lookup, &tag("new")).await.unwrap().manifest.digest, digest(image.digest()));
    bench.mirror.manifests.get(&lookup, &platform).await.unwrap();
    bench.mirror.blobs.get(&lookup, &layer, None).await.unwrap();
}

/// A flight ends, and the lookups that wait for it have not run yet. The next lookup knows of the absence all the same.
#[tokio::test]
async fn an_absence_is_known_before_its_flight_ends() {
    let bench = Bench::start(hub::Settings::default(), Change::default()).await;
    let digest = format!("sha256:{}", "0".repeat(64));
    let asks = ["HEAD v1", "GET v1", "HEAD digest", "GET digest", "HEAD blob", "GET blob", "GET tags"];
    for (number, ask) in asks.into_iter().enumerate() {
        let repository = format!("library/absent{number}");
        let lookup = lookup(&repository, &[]);
        let absent = async || {
            let Bench { mirror, .. } = &bench;
            let error = match ask {
                "HEAD v1" => mirror.manifests.head(&lookup, &tag("v1")).await.err(),
                "GET v1" => mirror.manifests.get(&lookup, &tag("v1")).await.err(),
                "HEAD digest" => mirror.manifests.head(&lookup, &tag(&digest)).await.err(),
                "GET digest" => mirror.manifests.get(&lookup, &tag(&digest)).await.err(),
                "HEAD blob" => mirror.blobs.head(&lookup, &digest.parse().unwrap()).await.err(),
                "GET blob" => mirror.blobs.get(&lookup, &digest.parse().unwrap(), None).await.err(),
                _ => mirror.listings.tags(&lookup).await.err(),
            };
            matches!(error, Some(Error::NameUnknown | Error::ManifestUnknown | Error::BlobUnknown))
        };
        let gate = bench.hub.hold(Match::any().repository(&repository));
        let ended = absent_flights(&bench.mirror);
        let mut first = Box::pin(absent());
        tokio::select! {
            started = gate.started() => assert!(started, "{ask}"),
            _ = &mut first => unreachable!("upstream is held"),
        }
        gate.open();
        // One thread runs all tasks: when this one sees that the flight was counted, the flight is over.
        while absent_flights(&bench.mirror) == ended {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let asked = || bench.hub.count(|request| request.repository == repository);
        let before = asked();
        assert!(absent().await, "{ask}");
        assert_eq!(asked(), before, "{ask}: upstream is asked once");
        assert!(first.await, "{ask}");
    }
}

/// How many flights have ended with an absence.
fn absent_flights(mirror: &Mirror) -> usize {
    let (mut registry, mut text) = (Registry::default(), String::new());
    mirror.metrics().register(&mut registry);
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let counts = text.lines().filter(|line| line.contains("outcome=\"absent\""));
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
}

/// A source that sends slower than the least rate is left: the fill goes on by another connection, where it was.
#[tokio::test]
async fn a_dripping_body_is_resumed_by_another_connection() {
    let change = Change { idle_timeout: Duration::from_millis(500), ..Change::default() };
    let bench = Bench::start(hub::Settings::default(), change).await;
    let image = bench.hub.push(Spec::new("library/drips").layers([2 * MIB])).unwrap();
    let blob = image.platforms[0].layers[0].clone();
    let wanted = digest(&blob.digest);
    bench.hub.fault(Fault::once(What::Slow(2000)).on(Match::kind(Kind::CdnGet)));
    let mut answer = bench.mirror.blobs.get(&lookup("library/drips", &[]), &wanted, None).await.unwrap();
    let bytes = read(&mut answer.reader, 0, blob.size).await.unwrap();
    assert_eq!(wanted.algorithm().digest(&bytes), wanted);
    assert_eq!(bench.hub.count(|request| request.kind == Kind::CdnGet), 2);
}

/// When its own source will not go on, a fill goes on from another repository that holds the blob.
#[tokio::test]
async fn a_dripping_body_is_resumed_from_another_source_that_holds_the_blob() {
    let change = Change { idle_timeout: Duration::from_millis(500), ..Change::default() };
    let bench = Bench::start(hub::Settings::default(), change).await;
    let image = bench.hub.push(Spec::new("library/drips").layers([2 * MIB])).unwrap();
    bench.hub.push(Spec::new("library/flows").layers([2 * MIB])).unwrap();
    let blob = image.platforms[0].layers[0].clone();
    let wanted = digest(&blob.digest);
    bench.hub.fault(Fault::once(What::Slow(2000)).on(Match::kind(Kind::CdnGet)));
    let mut first = bench.mirror.blobs.get(&lookup("library/drips", &[]), &wanted, None).await.unwrap();
    bench.hub.fault(Fault::always(What::Status(404)).on(Match::kind(Kind::BlobGet).repository("library/drips")));
    bench.mirror.blobs.get(&lookup("library/flows", &[]), &wanted, None).await.unwrap();
    let bytes = read(&mut first.reader, 0, blob.size).await.unwrap();
    assert_eq!(wanted.algorithm().digest(&bytes), wanted);
    let flows = |request: &hub::Logged| request.kind == Kind::BlobGet && request.repository == "library/flows";
    assert_eq!(bench.hub.count(flows), 1);
}

/// A registry that breaks off in the middle and then ignores the range: what is here already is skipped, not appended twice.
#[tokio::test]
async fn a_resume_that_upstream_answers_from_the_start_skips_what_is_here() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let wanted = digest(&format!("sha256:{}", "0".repeat(64))).algorithm().digest(&content);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let served = content.clone();
    let gets = tokio::spawn(async move {
        let mut gets = Vec::new();
        while gets.len() < 2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap().to_lowercase();
            let length = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", served.len());
            stream.write_all(length.as_bytes()).await.unwrap();
            if head.starts_with("get") {
                let share = if gets.is_empty() { served.len() / 2 } else { served.len() };
                stream.write_all(&served[..share]).await.unwrap();
                gets.push(head.contains("range: bytes="));
            }
            stream.shutdown().await.unwrap();
        }
        gets
    });
    let directory = tempfile::tempdir().unwrap();
    let (mirror, _store) = assemble(directory.path(), url, &Change::default(), Faults::default());
    let mut answer = mirror.blobs.get(&lookup("library/whole", &[]), &wanted, None).await.unwrap();
    assert_eq!(read(&mut answer.reader, 0, content.len() as u64).await.unwrap(), content);
    assert_eq!(gets.await.unwrap(), [false, true], "it was resumed by a range");
}

/// What a tag was found to name by a HEAD that fetched nothing is asked for again after a purge, as what is cached is.
#[tokio::test]
async fn a_purge_forgets_what_a_head_found() {
    let mut change = Change::default();
    change.mirror.tag_ttl = Duration::from_secs(3600);
    let bench = Bench::start(limited(100), change).await;
    let asker = lookup("library/moves", &[]);
    let head = async || bench.mirror.manifests.head(&asker, &tag("latest")).await.unwrap().digest.to_string();
    bench.hub.push(Spec::new("library/moves").seed(1)).unwrap();
    let old = bench.mirror.manifests.get(&asker, &tag("latest")).await.unwrap().manifest;
    // As if an hour had passed: what comes now is fresh, and this is not.
    let checked_at = SystemTime::now() - Duration::from_secs(7200);
    let record = TagRecord { size: old.bytes.len() as u64, digest: old.digest, media_type: old.media_type, checked_at };
    let source = Source {
        upstream: asker.upstream.clone(),
        credential: Source::ANONYMOUS.into(),
        repository: asker.repository.clone(),
    };
    bench.store.cache.tags.put(&source, &"latest".parse().unwrap(), &record).await.unwrap();
    let found = bench.hub.push(Spec::new("library/moves").seed(2)).unwrap();
    assert_eq!(head().await, found.digest());
    let newest = bench.hub.push(Spec::new("library/moves").seed(3)).unwrap();
    assert_eq!(head().await, found.digest(), "it is fresh, and nothing is asked");
    bench.mirror.purge(vec![Selection::All], false).await.unwrap();
    assert_eq!(head().await, newest.digest());
}
