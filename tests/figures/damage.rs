//! Twelve kinds of damage to a file of the cache while Weir serves it fifty times a second.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    time::Duration,
};

use weir_conformance::hub::{self, Hub, Kind, Spec};

use crate::support::{Weir, object};

/// Answers that are looked at after each damage, and how far they are apart.
const ANSWERS: usize = 50;
const PAUSE: Duration = Duration::from_millis(20);

type Damage = (&'static str, fn(&Path, u64));

fn put(path: &Path, at: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

fn cut(path: &Path, length: u64) {
    File::options().write(true).open(path).unwrap().set_len(length).unwrap();
}

/// Another file under the same name.
fn replace(path: &Path, bytes: &[u8]) {
    let other = path.with_extension("other");
    fs::write(&other, bytes).unwrap();
    fs::rename(other, path).unwrap();
}

const KINDS: [Damage; 12] = [
    ("the first byte is another", |path, _| put(path, 0, b"?")),
    ("a byte in the middle is another", |path, size| put(path, size / 2, b"?")),
    ("the last byte is another", |path, size| put(path, size - 1, b"?")),
    ("a page is zero", |path, size| put(path, (size / 2) & !4095, &[0; 4096])),
    ("all of it is zero", |path, size| put(path, 0, &vec![0; size as usize])),
    ("one byte is missing", |path, size| cut(path, size - 1)),
    ("half of it is missing", |path, size| cut(path, size / 2)),
    ("it is empty", |path, _| cut(path, 0)),
    ("it has one byte more", |path, size| put(path, size, b"?")),
    ("another file of its size has its name", |path, size| replace(path, &vec![1; size as usize])),
    ("a shorter file has its name", |path, size| replace(path, &vec![1; size as usize / 3])),
    ("it is gone", |path, _| fs::remove_file(path).unwrap()),
];

#[tokio::test(flavor = "multi_thread")]
async fn no_kind_of_damage_gives_a_complete_wrong_body_and_each_is_fetched_again_once() {
    let hub = Hub::start(hub::Settings::default()).await.unwrap();
    let weir = Weir::start(hub.registry(), "", "").await;
    let mut lines = Vec::new();
    for (number, (kind, damage)) in KINDS.iter().enumerate() {
        let image = hub.push(Spec::new("library/rot").single().layers([300_000]).seed(number as u64)).unwrap();
        let layer = image.platforms[0].layers[0].clone();
        let ask = || weir.client.get_blob("library/rot", &layer.digest);
        let fetched = || hub.count(|logged| logged.kind == Kind::CdnGet && logged.reference == layer.digest);
        let path = object(&weir.data(), "blobs", &layer.digest);
        for _ in 0..10 {
            assert!(ask().await.unwrap().complete());
        }
        while !path.exists() {
            tokio::time::sleep(PAUSE).await;
        }
        assert_eq!(fetched(), 1);
        damage(&path, layer.size);
        let (mut wrong, mut broken) = (0, 0);
        for _ in 0..ANSWERS {
            let answer = ask().await.unwrap();
            wrong += usize::from(answer.complete() && answer.sha256 != layer.digest);
            broken += usize::from(!answer.complete());
            tokio::time::sleep(PAUSE).await;
        }
        let last = ask().await.unwrap();
        lines.push((kind, wrong, broken, fetched() - 1, last.complete() && last.sha256 == layer.digest));
    }
    for (kind, wrong, broken, again, well) in &lines {
        println!(
            "{kind}: {wrong} complete wrong bodies and {broken} cut ones of {ANSWERS}, fetched again {again} times, well again: {well}"
        );
    }
    assert!(lines.iter().all(|(_, wrong, _, again, well)| *wrong == 0 && *again == 1 && *well));
}
