//! What the mirror counts. Handles are cached in the struct; counting is one atomic increment and no label look-up.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::outcome::{FillOutcome, FlightKind, FlightOutcome, PullDecision};
use crate::{answer::CacheStatus, client::Class, telemetry::Durations};

/// Counters of the mirror, all since start.
#[derive(Debug)]
pub struct Metrics {
    /// By `kind` and `status`.
    answers: Family<[(&'static str, &'static str); 2], Counter>,
    manifests: [Counter; CacheStatus::ALL.len()],
    blobs: [Counter; CacheStatus::ALL.len()],
    flights: Family<FlightLabels, Counter>,
    fill_outcomes: Family<FillLabels, Counter>,
    joined: Family<JoinedLabels, Counter>,
    /// By `class` and `decision`.
    decisions: Family<[(&'static str, &'static str); 2], Counter>,
    /// From the first header of a blob to its end on the disk.
    pub(super) fill_seconds: Durations,
    /// In the queue for a pull.
    pub(super) budget_wait_seconds: Durations,
    /// Blobs that began to arrive.
    pub fills: Counter,
    /// Broken bodies that were picked up by Range.
    pub resumes: Counter,
    /// Blobs that arrived whole and were not what their digest says.
    pub mismatches: Counter,
    /// Blobs sent to one client without being kept, because the disk was full.
    pub passed_through: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FlightLabels {
    flight: FlightKind,
    outcome: FlightOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JoinedLabels {
    flight: FlightKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FillLabels {
    outcome: FillOutcome,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let answers = Family::<[(&str, &str); 2], Counter>::default();
        let handles = |kind| {
            CacheStatus::ALL.map(|status| answers.get_or_create(&[("kind", kind), ("status", status.as_str())]).clone())
        };
        // From the start, so that the first one is seen as a change.
        let (joined, decisions) =
            (Family::<JoinedLabels, Counter>::default(), Family::<[(&str, &str); 2], _>::default());
        for flight in FlightKind::ALL {
            drop(joined.get_or_create(&JoinedLabels { flight }));
        }
        for class in Class::ALL {
            for decision in PullDecision::ALL {
                drop(decisions.get_or_create(&[("class", class.word()), ("decision", decision.word())]));
            }
        }
        Metrics {
            manifests: handles("manifest"),
            blobs: handles("blob"),
            answers,
            flights: Family::default(),
            fill_outcomes: Family::default(),
            joined,
            decisions,
            fill_seconds: Durations::default(),
            budget_wait_seconds: Durations::default(),
            fills: Counter::default(),
            resumes: Counter::default(),
            mismatches: Counter::default(),
            passed_through: Counter::default(),
        }
    }
}

impl Metrics {
    /// Counts an answered manifest GET.
    pub(super) fn manifest(&self, status: CacheStatus) {
        self.manifests[status as usize].inc();
    }

    /// Counts an answered blob GET.
    pub(super) fn blob(&self, status: CacheStatus) {
        self.blobs[status as usize].inc();
    }

    /// GETs of manifests and blobs that were answered, and those of them for which no body was fetched.
    pub fn answers(&self) -> (u64, u64) {
        let of = |status: CacheStatus| self.manifests[status as usize].get() + self.blobs[status as usize].get();
        let fetched = of(CacheStatus::Miss) + of(CacheStatus::Bypass);
        let all = CacheStatus::ALL.into_iter().map(of).sum::<u64>();
        (all, all.saturating_sub(fetched))
    }

    /// Counts a flight that ended.
    pub(super) fn flight(&self, flight: FlightKind, outcome: FlightOutcome) {
        self.flights.get_or_create(&FlightLabels { flight, outcome }).inc();
    }

    /// Counts a lookup that joined a flight under way.
    pub(super) fn joined(&self, flight: FlightKind) {
        self.joined.get_or_create(&JoinedLabels { flight }).inc();
    }

    /// Counts what was decided about a pull of a client of this class.
    pub(super) fn decided(&self, class: Class, decision: PullDecision) {
        self.decisions.get_or_create(&[("class", class.word()), ("decision", decision.word())]).inc();
    }

    /// Counts a fill that ended.
    pub(super) fn fill(&self, outcome: FillOutcome) {
        self.fill_outcomes.get_or_create(&FillLabels { outcome }).inc();
    }

    #[cfg(test)]
    pub(super) fn flights(&self, flight: FlightKind, outcome: FlightOutcome) -> u64 {
        self.flights.get_or_create(&FlightLabels { flight, outcome }).get()
    }

    /// Puts everything into the registry that `/metrics` shows.
    pub fn register(&self, registry: &mut Registry) {
        let help = "GETs of manifests and blobs answered from the cache or upstream, by kind and how: for a hit ratio";
        registry.register("answers", help, self.answers.clone());
        let help = "Pieces of work that lookups share, by what they are for and how they ended";
        registry.register("flights", help, self.flights.clone());
        let help = "Lookups that waited for a flight of another one instead of asking upstream";
        registry.register("flights_joined", help, self.joined.clone());
        let help = "Pulls by the class of the client and by what was decided: spent, queued to wait for one, denied for want of budget";
        registry.register("budget_decisions", help, self.decisions.clone());
        registry.register("fills", "Blobs that began to arrive from upstream", self.fills.clone());
        registry.register(
            "fill_outcomes",
            "Blobs that stopped arriving or could not begin to in time, by how that ended",
            self.fill_outcomes.clone(),
        );
        registry.register(
            "fill_seconds",
            "From the head of upstream's answer to the end of a blob on the disk, or of the attempt",
            self.fill_seconds.clone(),
        );
        registry.register(
            "budget_wait_seconds",
            "Time that requests waited for a pull to come back, granted or not",
            self.budget_wait_seconds.clone(),
        );
        registry.register("fill_resumes", "Broken upstream bodies picked up by Range", self.resumes.clone());
        registry.register("digest_mismatches", "Blobs from upstream thrown away", self.mismatches.clone());
        registry.register("passed_through", "Blobs sent without being kept", self.passed_through.clone());
    }
}
