//! The signatures and attestations beside an image, as far as they were looked up, and what of them is verified.

use std::{sync::Arc, time::SystemTime};

use super::{
    bundle::Outline,
    evidence::Evidence,
    finding::Finding,
    signers::{Signers, Subject},
    statement::{Envelope, Statement},
};
use crate::oci::Digest;

/// How far upstream was asked for what is beside an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LookedUp {
    /// It was not.
    #[default]
    No,
    /// It was, and not all that is there could be had.
    Partly,
    /// It was, and this is all.
    Wholly,
}

/// What is beside an image, and beside the indexes that name it: a signature of an index covers what it names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// The digest of the image, then those of indexes that name it.
    pub digests: Vec<Digest>,
    /// The full name of its repository, as `docker.io/library/busybox`.
    pub repository: String,
    /// What was found.
    pub found: Vec<Arc<[Evidence]>>,
    /// How far it was looked for.
    pub looked_up: LookedUp,
}

/// What of it is verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::policy) struct Checked {
    /// Who signed the image, or an index that names it.
    pub(in crate::policy) by: Option<String>,
    /// Whether an index that names the image is signed.
    pub(in crate::policy) by_index: bool,
    /// The predicates of statements about it that are signed.
    pub(in crate::policy) predicates: Vec<String>,
    /// Of the signatures that do not count, why that does not which lacks least.
    pub(in crate::policy) nearest: Option<Finding>,
}

impl Beside {
    /// Verifies all of it. Costs some 0.1 ms for each signature and signer.
    pub(in crate::policy) fn check(&self, signers: &Signers, now: SystemTime) -> Checked {
        let of = Subject { digests: &self.digests, repository: &self.repository, now };
        let mut checked = Checked::default();
        for evidence in self.found.iter().flat_map(|found| found.iter()) {
            let finding = match signers.verify(evidence, &of) {
                Ok(verified) => match verified.predicate {
                    None => {
                        checked.by_index |= self.digests.first() != Some(&verified.digest);
                        checked.by = Some(verified.by);
                        continue;
                    }
                    Some(predicate) => {
                        checked.predicates.push(predicate);
                        Finding::OtherStatement
                    }
                },
                Err(finding) => finding,
            };
            checked.nearest = checked.nearest.max(Some(finding));
        }
        checked
    }

    /// The predicates of the statements in it that are about the image, by any maker: nothing is verified.
    pub(in crate::policy) fn claims(&self) -> Vec<String> {
        let statement = |evidence: &Evidence| {
            let payload = match evidence {
                Evidence::Bundle(bytes) => Outline::read(bytes).and_then(|outline| outline.payload()),
                Evidence::Envelope(bytes) => {
                    let envelope: Result<Envelope, _> = serde_json::from_slice(bytes);
                    envelope.map_err(|_| Finding::Malformed).and_then(|envelope| envelope.payload())
                }
                _ => return None,
            };
            payload.and_then(|payload| Statement::read(&payload)).ok()
        };
        let is_of = |statement: &Statement| statement.subjects.iter().any(|digest| self.digests.contains(digest));
        let found = self.found.iter().flat_map(|found| found.iter());
        found.filter_map(statement).filter(is_of).map(|statement| statement.predicate).collect()
    }
}
