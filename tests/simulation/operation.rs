//! What is done, by a seed.

use weir_conformance::hub::{At, Kind, What};
use weir_storage::Call;

use super::random::Random;

/// Repositories upstream, and as many that are hosted.
pub(super) const REPOSITORIES: usize = 3;
/// Images of each repository upstream.
pub(super) const IMAGES: usize = 3;
/// Blobs of each of those images: its config and its layers.
pub(super) const BLOBS: usize = 3;
/// Tags of each repository.
pub(super) const TAGS: usize = 2;
/// Blobs, and manifests that name two of them, which may be pushed.
pub(super) const PUSHED: usize = 4;

/// A repository and one of what it may hold.
pub(super) type Place = (usize, usize);

#[derive(Clone, Debug)]
pub(super) enum Operation {
    PullTag {
        tag: Place,
        clients: usize,
    },
    PullDigest {
        image: Place,
        clients: usize,
    },
    PullBlob {
        image: Place,
        blob: usize,
        clients: usize,
    },
    PullRange {
        image: Place,
        blob: usize,
        from: f64,
        length: f64,
    },
    /// Upstream's tag names another image, or nothing.
    MoveTag {
        tag: Place,
        image: Option<usize>,
    },
    Budget(i64),
    Forget(usize),
    Push(Place),
    PushManifest {
        manifest: Place,
        tag: usize,
    },
    Delete(Place),
    DeleteManifest(Place),
    DeleteTag(Place),
    /// Everything that is hosted is read.
    Read,
    Upstream {
        what: What,
        count: u32,
        on: Option<Kind>,
    },
    UpstreamDown,
    UpstreamWell,
    Disk {
        call: Call,
        skip: u32,
        times: u32,
        errno: i32,
    },
    DiskWell,
    /// Seconds.
    Clock(i64),
    End {
        how: End,
        rot: Option<Rot>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    Stop,
    Kill,
    PowerCut,
}

/// What happens to one cached object while the process is not there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rot {
    Flip,
    Cut,
    Lose,
}

const CALLS: [Call; 12] = [
    Call::Open,
    Call::Create,
    Call::Read,
    Call::Write,
    Call::Sync,
    Call::Rename,
    Call::Remove,
    Call::MakeDirectory,
    Call::List,
    Call::Stat,
    Call::Reserve,
    Call::Truncate,
];

fn fault(random: &mut Random) -> (What, Option<Kind>) {
    let body = random.pick(&[None, Some(Kind::ManifestGet), Some(Kind::BlobGet)]);
    match random.below(14) {
        0 => (What::Status(500), random.pick(&[None, Some(Kind::ManifestHead), Some(Kind::BlobGet)])),
        1 => (What::Status(503), random.pick(&[None, Some(Kind::ManifestGet), Some(Kind::CdnGet)])),
        2 => (What::Html, None),
        3 => (What::Corrupt(random.pick(&[At::Start, At::Middle, At::Last])), body),
        4 => (What::Truncate(0.5), body),
        5 => (What::Reset(0.3), body),
        6 => (What::Stall(0.5), body),
        7 => (What::Slow(4_000_000), body),
        8 => (What::ShortLength(100), body),
        9 => (What::LongLength(100), body),
        10 => (What::WrongDigest, None),
        11 => (What::ContentEncoding, body),
        12 => (What::NoHead, None),
        _ => (What::TokenStatus(503), None),
    }
}

impl Operation {
    pub(super) fn by(random: &mut Random) -> Operation {
        // Half of all operations meet at one place, so that what one of them did is seen by the next.
        let place = |random: &mut Random, most| match random.below(2) {
            0 => (0, 0),
            _ => (random.below(REPOSITORIES as u64) as usize, random.below(most) as usize),
        };
        let clients = |random: &mut Random| random.pick(&[1, 1, 1, 2, 5]);
        match random.below(100) {
            0..15 => Operation::PullTag { tag: place(random, TAGS as u64), clients: clients(random) },
            15..23 => Operation::PullDigest { image: place(random, IMAGES as u64), clients: clients(random) },
            23..38 => Operation::PullBlob {
                image: place(random, IMAGES as u64),
                blob: random.below(BLOBS as u64) as usize,
                clients: clients(random),
            },
            38..44 => Operation::PullRange {
                image: place(random, IMAGES as u64),
                blob: random.below(BLOBS as u64) as usize,
                from: random.below(1000) as f64 / 1000.0,
                length: random.below(1000) as f64 / 1000.0,
            },
            44..49 => {
                let image = random.below(IMAGES as u64 + 1) as usize;
                Operation::MoveTag { tag: place(random, TAGS as u64), image: (image < IMAGES).then_some(image) }
            }
            49 => Operation::Budget(random.below(6) as i64),
            50 => Operation::Forget(random.below(REPOSITORIES as u64) as usize),
            51..61 => Operation::Push(place(random, PUSHED as u64)),
            61..68 => Operation::PushManifest {
                manifest: place(random, PUSHED as u64),
                tag: random.below(TAGS as u64) as usize,
            },
            68..71 => Operation::Delete(place(random, PUSHED as u64)),
            71..73 => Operation::DeleteManifest(place(random, PUSHED as u64)),
            73..75 => Operation::DeleteTag(place(random, TAGS as u64)),
            75..78 => Operation::Read,
            78..82 => {
                let (what, on) = fault(random);
                Operation::Upstream { what, count: 1 + random.below(2) as u32, on }
            }
            82 => Operation::UpstreamDown,
            83..86 => Operation::UpstreamWell,
            86..89 => Operation::Disk {
                call: random.pick(&CALLS),
                skip: random.below(12) as u32,
                times: random.pick(&[1, 3, u32::MAX]),
                errno: random.pick(&[5, 28]),
            },
            89..91 => Operation::DiskWell,
            91..94 => Operation::Clock(random.pick(&[
                -10,
                10,
                70,
                -7_200,
                7_200,
                -259_200,
                259_200,
                -630_720_000,
                630_720_000,
            ])),
            _ => Operation::End {
                how: random.pick(&[End::Stop, End::Kill, End::PowerCut]),
                rot: random.pick(&[None, None, Some(Rot::Flip), Some(Rot::Cut), Some(Rot::Lose)]),
            },
        }
    }
}
