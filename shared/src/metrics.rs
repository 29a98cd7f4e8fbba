//! What is counted of the bucket.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// What is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Blob,
    Manifest,
    Member,
    Tag,
}

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Hit,
    Miss,
    /// It is away, or did not answer.
    Failed,
    /// What came was not what was written.
    Damaged,
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Done,
    /// Another replica was first.
    There,
    /// Too much waited already, it failed again and again, or it left the disk before its turn.
    Lost,
}

/// How a replica that lacked an object came to it, where a lease decides who asks upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It had the lease, and asked upstream.
    Led,
    /// Another replica brought it while this one waited.
    Followed,
    /// It got the bytes from the replica that had the lease, as they arrived there.
    Streamed,
    /// The replica that had the lease said what upstream answered.
    Told,
    /// It waited for long enough, and asked upstream beside the owner.
    Split,
    /// Redis was away, or the owner failed: it asked upstream without a lease.
    Alone,
}

/// By two labels.
type Pairs = Family<[(&'static str, &'static str); 2], Counter>;

/// Counters since the start, and what waits.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// By `kind` and `outcome`.
    reads: Pairs,
    /// By `kind` and `outcome`.
    writes: Pairs,
    pub(crate) waiting: Gauge,
    pub(crate) answers_waiting: Gauge,
    /// By `outcome`.
    flights: Family<[(&'static str, &'static str); 1], Counter>,
    /// By `engine`.
    up: Family<[(&'static str, &'static str); 1], Gauge>,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Blob => "blob",
            Kind::Manifest => "manifest",
            Kind::Member => "member",
            Kind::Tag => "tag",
        }
    }
}

impl Metrics {
    pub(crate) fn read(&self, kind: Kind, outcome: Found) {
        let outcome = match outcome {
            Found::Hit => "hit",
            Found::Miss => "miss",
            Found::Failed => "failed",
            Found::Damaged => "damaged",
        };
        self.reads.get_or_create(&[("kind", kind.word()), ("outcome", outcome)]).inc();
    }

    pub(crate) fn wrote(&self, kind: Kind, outcome: Written) {
        let outcome = match outcome {
            Written::Done => "done",
            Written::There => "there",
            Written::Lost => "lost",
        };
        self.writes.get_or_create(&[("kind", kind.word()), ("outcome", outcome)]).inc();
    }

    pub(crate) fn flight(&self, way: Way) {
        let outcome = match way {
            Way::Led => "led",
            Way::Followed => "followed",
            Way::Streamed => "streamed",
            Way::Told => "told",
            Way::Split => "split",
            Way::Alone => "alone",
        };
        self.flights.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// The gauge of an engine: 1 while it answers.
    pub(crate) fn up(&self, engine: &'static str) -> Gauge {
        self.up.get_or_create(&[("engine", engine)]).clone()
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        let help = "Whether an engine that replicas share answers";
        registry.register("shared_up", help, self.up.clone());
        let help = "What was looked for in the bucket, by kind and by how that ended";
        registry.register("shared_reads", help, self.reads.clone());
        let help = "What was to be written to the bucket, by kind and by how that ended";
        registry.register("shared_writes", help, self.writes.clone());
        let help = "Objects that this replica lacked, by who asked upstream, where leases decide that";
        registry.register("shared_flights", help, self.flights.clone());
        let help = "Requests, nearly all of other replicas, that wait for what upstream tells this one";
        registry.register("shared_answers_waiting", help, self.answers_waiting.clone());
        let help = "What waits to be written to the bucket";
        registry.register("shared_writes_waiting", help, self.waiting.clone());
    }
}
