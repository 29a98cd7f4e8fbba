//! How flights and fills end, as metrics label them.

use prometheus_client::encoding::EncodeLabelValue;

/// What a flight is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the variants are the label's values as they are exported")]
pub(super) enum FlightKind {
    manifest,
    manifest_head,
    tag,
    blob,
    blob_head,
    listing,
    signatures,
}

impl FlightKind {
    pub(super) const ALL: [FlightKind; 7] = [
        FlightKind::manifest,
        FlightKind::manifest_head,
        FlightKind::tag,
        FlightKind::blob,
        FlightKind::blob_head,
        FlightKind::listing,
        FlightKind::signatures,
    ];
}

/// How a flight ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the variants are the label's values as they are exported")]
pub(super) enum FlightOutcome {
    done,
    absent,
    budget_spent,
    throttled,
    upstream_limited,
    upstream_unavailable,
    upstream_malformed,
    internal,
    /// Its task panicked or was cancelled.
    vanished,
    /// It reached the age limit.
    too_old,
}

/// How a fill ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the variants are the label's values as they are exported")]
pub(super) enum FillOutcome {
    done,
    /// What arrived does not match its digest or its size.
    mismatch,
    /// Upstream broke off, and the resumes failed.
    upstream_failed,
    disk_failed,
    /// It made no progress for as long as a fill may.
    too_old,
    /// The mirror closed.
    closed,
}

/// What was decided about a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PullDecision {
    /// It may be spent.
    Spent,
    /// It waits for one to come back.
    Queued,
    /// There is none for it.
    Denied,
}

impl PullDecision {
    pub(super) const ALL: [PullDecision; 3] = [PullDecision::Spent, PullDecision::Queued, PullDecision::Denied];

    pub(super) fn word(self) -> &'static str {
        match self {
            PullDecision::Spent => "spent",
            PullDecision::Queued => "queued",
            PullDecision::Denied => "denied",
        }
    }
}
