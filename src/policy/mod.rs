//! What is known of an image, and what rules say of it. Pure: bytes and times in, facts and verdicts out.
//!
//! [`Facts`] are read from a manifest and its config blob, and belong to a digest: they never change. [`Supply`] is what the cache
//! knows of signatures and attestations, and [`Contents`] what the layers hold that were looked at ([`scan`]). [`Rules::judge`] holds both against what is wanted, and gives one [`Verdict`] for each rule. An
//! index is judged by the manifest of the platform that is asked for.
//!
//! Signatures and signed attestations are verified ([`Signers`]) in what the mirror found [`Beside`] an image.
//!
//! `[[policy]]` ([`Table`]) says which images are held to which rules and what becomes of one that breaks one: a [`Decision`]. The first
//! of [`Policies`] that is for an image decides.
//!
//! What cannot be known is unknown, and never passes: a user by name stands in a file of a layer, a date of 1970 is written by
//! reproducible builds, and a signature of which the cache knows nothing may exist upstream.
//!
//! # What this refuses
//! A config that two readers could read in two ways is no evidence: container engines take keys in any letter case, and the last of
//! two. Such a config is [`Malformed`](crate::oci::Malformed).

mod base;
mod config;
mod contents;
mod count;
mod date;
mod decide;
mod facts;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod history;
mod judge;
mod layer;
mod lint;
mod manifest_kind;
mod secrets;
mod settings;
mod signature;
mod supply;
mod text;
mod user;
mod verdict;
mod vulnerabilities;

pub use self::{
    base::{Base, nearest_base},
    config::{ImageConfig, MOST_CONFIG_BYTES},
    contents::{Contents, LayerLeak},
    date::Created,
    decide::{Breach, Decision, Policies, Policy},
    facts::Facts,
    judge::{Known, Rules, mend},
    layer::{Bounds, LayerFacts, Leak, Problem, Tool, ToolKind, scan},
    lint::{Lint, Severity},
    manifest_kind::ManifestKind,
    secrets::Secret,
    settings::{Exemption, Mode, Table, Unknown, Wanted},
    signature::{
        Beside, Evidence, Finding, Layer, LookedUp, MOST_BYTES_BESIDE, MOST_SIGNATURE_BYTES, MOST_SIGNATURES, SignedBy,
        Signers, is_signature,
    },
    supply::{Attested, Supply},
    text::Text,
    user::User,
    verdict::{Outcome, Rule, Verdict},
    vulnerabilities::{ARCHIVE, Scanner, ScannerSettings, Vulnerabilities},
};
