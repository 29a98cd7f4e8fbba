//! A job of a warm, as values: what is wanted, and what became of each image.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::oci::{Digest, Name, Reference};

/// An image that is to be here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Wanted {
    /// The upstream's configured name.
    pub upstream: Arc<str>,
    /// The repository, as upstream names it.
    #[serde(with = "text")]
    pub repository: Name,
    /// The tag or digest.
    #[serde(with = "text")]
    pub reference: Reference,
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let separator = if matches!(self.reference, Reference::Tag(_)) { ':' } else { '@' };
        write!(f, "{}/{}{separator}{}", self.upstream, self.repository, self.reference)
    }
}

/// What became of one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Outcome {
    /// It was not looked at yet.
    Pending,
    /// It cannot be fetched now.
    Waiting {
        /// When it is tried again; for want of budget by forecast.
        until: SystemTime,
        /// Why, in a sentence.
        why: String,
        /// Whether it waits for budget.
        budget: bool,
    },
    /// All that is wanted of it was here.
    Here {
        /// What it names.
        #[serde(with = "text")]
        digest: Digest,
    },
    /// All that is wanted of it is here now.
    Fetched {
        /// What it names.
        #[serde(with = "text")]
        digest: Digest,
        /// Bytes of blobs that came.
        bytes: u64,
        /// Manifests that came; each cost a pull where pulls are counted.
        manifests: u64,
    },
    /// It will not be here.
    Refused {
        /// Why, in a sentence.
        why: String,
    },
    /// It was here, and some of it was evicted, purged or damaged before the job ended.
    Evicted,
}

impl Outcome {
    /// As the API names it.
    pub fn word(&self) -> &'static str {
        match self {
            Outcome::Pending => "pending",
            Outcome::Waiting { .. } => "waiting",
            Outcome::Here { .. } => "here",
            Outcome::Fetched { .. } => "fetched",
            Outcome::Refused { .. } => "refused",
            Outcome::Evicted => "evicted",
        }
    }

    /// What the image named, when it is here.
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Outcome::Here { digest } | Outcome::Fetched { digest, .. } => Some(digest),
            _ => None,
        }
    }

    /// Whether nothing more is done about it.
    pub fn is_settled(&self) -> bool {
        !matches!(self, Outcome::Pending | Outcome::Waiting { .. })
    }
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Something is still to be done.
    Open,
    /// Every image is settled.
    Done,
    /// An operator ended it.
    Cancelled,
}

/// One image of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Which.
    pub image: Wanted,
    /// What became of it.
    pub outcome: Outcome,
    /// The version of the job at which that changed last.
    #[serde(skip)]
    pub changed: u64,
}

/// What was asked for, by whom, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its number; jobs are numbered as they are made.
    pub id: u64,
    /// The operator, or the schedule.
    pub by: String,
    /// The reason that the operator gave.
    pub reason: String,
    /// When it was made.
    pub made_at: SystemTime,
    /// When it was done or cancelled.
    pub ended_at: Option<SystemTime>,
    /// Which platforms of each image, as `linux/arm64`; none is all that it has.
    pub platforms: Vec<String>,
    /// Where it stands.
    pub state: JobState,
    /// Bytes that it may bring, once that is known.
    pub room: Option<u64>,
    /// The images.
    pub items: Vec<Item>,
    /// Grows with each change of an image.
    #[serde(skip)]
    pub version: u64,
}

/// After so long a job ends, and what still waits is refused: its budget has no surplus in a whole week.
pub(super) const LONGEST: Duration = Duration::from_secs(7 * 86_400);

impl Job {
    /// Images in each state.
    pub fn count(&self, is_counted: impl Fn(&Outcome) -> bool) -> usize {
        self.items.iter().filter(|item| is_counted(&item.outcome)).count()
    }

    /// Bytes of blobs that came.
    pub fn bytes(&self) -> u64 {
        let bytes = |item: &Item| if let Outcome::Fetched { bytes, .. } = item.outcome { bytes } else { 0 };
        self.items.iter().map(bytes).sum()
    }

    /// Whether every image is here.
    pub fn is_complete(&self) -> bool {
        self.items.iter().all(|item| item.outcome.digest().is_some())
    }

    /// What became of an image, as of now.
    pub(super) fn set(&mut self, number: usize, outcome: Outcome) {
        if let Some(item) = self.items.get_mut(number).filter(|item| item.outcome != outcome) {
            self.version += 1;
            (item.outcome, item.changed) = (outcome, self.version);
        }
    }
}

/// Values that are written as their text.
mod text {
    use std::{fmt::Display, str::FromStr};

    use super::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
