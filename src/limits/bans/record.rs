//! One ban as it is kept, exported and shown, and the sentence that the client reads.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::{
    client::ClientKey,
    limits::{
        penalty::PenaltyLevel,
        target::Target,
        time::{rfc3339, until},
    },
};

/// Requests that are kept as evidence.
pub const MAX_EVIDENCE: usize = 20;
/// Repositories that are kept for the index by namespace.
pub const MAX_REPOSITORIES: usize = 50;
/// The longest ban (30 days).
pub const MAX_DURATION: Duration = Duration::from_secs(30 * 24 * 3600);

/// A shorter ban is none.
pub const MIN_DURATION: Duration = Duration::from_secs(1);

/// Who made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A rule.
    Auto,
    /// An operator.
    Admin,
    /// A file.
    Imported,
}

/// One request that led to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// When.
    #[serde(with = "rfc3339")]
    pub at: SystemTime,
    /// `GET` or `HEAD`, mostly.
    pub method: String,
    /// As the client named it.
    pub repository: String,
    /// The tag or digest.
    pub reference: String,
    /// What was answered.
    pub status: u16,
}

/// How it ended early.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lift {
    /// When.
    #[serde(with = "rfc3339")]
    pub at: SystemTime,
    /// Who did.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// One ban, as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BanRecord {
    /// Short enough to be read out on the telephone.
    pub id: String,
    /// Who.
    pub client: Target,
    /// When it was made.
    #[serde(with = "rfc3339")]
    pub created: SystemTime,
    /// When it ends.
    #[serde(with = "rfc3339")]
    pub until: SystemTime,
    /// What it stops.
    #[serde(rename = "rung")]
    pub level: PenaltyLevel,
    /// Which rule saw it; `admin` for an operator's.
    pub rule: String,
    /// Who made it.
    pub origin: Origin,
    /// Why, in a sentence for people.
    pub reason: String,
    /// The user who made it; empty for a rule.
    #[serde(default)]
    pub created_by: String,
    /// What it saw, the newest last.
    #[serde(default)]
    pub evidence: Vec<Evidence>,
    /// Repositories that these and earlier requests were for.
    #[serde(default)]
    pub repositories: Vec<String>,
    /// How often this client had been here before.
    #[serde(default)]
    pub strikes: u32,
    /// Recorded in dry run: it stops no client.
    #[serde(default)]
    pub simulated: bool,
    /// Its owner may lift it.
    #[serde(default)]
    pub self_service: bool,
    /// How it ended early, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifted: Option<Lift>,
}

impl BanRecord {
    /// Whether it is in force, or would be if it were not simulated.
    pub fn is_live(&self, now: SystemTime) -> bool {
        self.lifted.is_none() && now < self.until
    }

    /// As it is taken up by a process whose clock says `now`: what was made in the future was made under a clock that was ahead, and lasts as
    /// long from now on as it was meant to.
    pub(super) fn clamped(mut self, now: SystemTime) -> BanRecord {
        if self.created > now {
            let duration = self.until.duration_since(self.created).unwrap_or_default();
            (self.created, self.until) = (now, now + duration.min(MAX_DURATION));
        }
        self
    }

    /// Whether a repository in this namespace is concerned: `library/` and `library` mean all below it, `library/nginx` also itself.
    pub fn concerns(&self, namespace: &str) -> bool {
        let namespace = namespace.trim_end_matches('/');
        let below = |repository: &str| {
            let rest = repository.strip_prefix(namespace);
            rest.is_some_and(|rest| namespace.is_empty() || rest.is_empty() || rest.starts_with('/'))
        };
        self.repositories.iter().any(|repository| {
            // With its registry or without: the owner of a namespace knows it by one of the two.
            let (registry, bare) = repository.split_once('/').unwrap_or_default();
            below(repository) || registry.contains(['.', ':']) && below(bare)
        })
    }
}

/// A ban to be made.
#[derive(Clone, Debug)]
pub struct NewBan {
    /// Who.
    pub client: Target,
    /// For how long; at most [`MAX_DURATION`].
    pub duration: Duration,
    /// What it stops.
    pub level: PenaltyLevel,
    /// Which rule.
    pub rule: String,
    /// Why.
    pub reason: String,
    /// What was seen; the newest 20 are kept.
    pub evidence: Vec<Evidence>,
    /// What it was about; the first 50 are kept.
    pub repositories: Vec<String>,
    /// How often before.
    pub strikes: u32,
    /// In dry run.
    pub simulated: bool,
}

/// What happened, for the audit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum BanEvent {
    /// A ban was made.
    Banned {
        /// All of it.
        record: BanRecord,
    },
    /// A ban was lifted.
    Lifted {
        /// All of it, with who and why.
        record: BanRecord,
    },
    /// A ban is to end at another time.
    EndMoved {
        /// All of it, with the new end.
        record: BanRecord,
        /// When it would have ended.
        #[serde(with = "rfc3339")]
        before: SystemTime,
        /// Why.
        reason: String,
    },
    /// A ban ended by itself.
    Expired {
        /// Which.
        id: String,
        /// Whose.
        client: Target,
    },
    /// An attempt that was not allowed.
    Refused {
        /// What they tried to do.
        attempt: String,
        /// Why not.
        reason: String,
    },
}

/// A ban that a request met.
#[derive(Clone, Copy, Debug)]
pub struct Ban<'a>(pub &'a BanRecord);

/// What a banned client prints: in the first 80 characters who is blocked and until when; then the rule, the id, the reason that an operator
/// gave, and where it can be lifted.
///
/// `client` is the key of the client that asks: a ban of a network does not say what the network is. Without `public_url`
/// it names the operator.
pub fn sentence(record: &BanRecord, client: &ClientKey, public_url: &str, now: SystemTime) -> String {
    let (who, until) = (short(client), until(record.until, now));
    let what = if record.level < PenaltyLevel::Client { "blocked from uncached content" } else { "blocked" };
    let (rule, id) = (&record.rule, &record.id);
    let lift = match public_url.trim_end_matches('/') {
        "" => "ask the operator of this mirror to lift it".to_owned(),
        url => format!("{url}/unblock/{id}"),
    };
    let reason = match record.reason.trim() {
        reason if record.origin != Origin::Auto && !reason.is_empty() => format!("{reason}; "),
        _ => String::new(),
    };
    format!("{who} {what} until {until} (rule {rule}, id {id}): {reason}{lift}")
}

/// A client's name, short enough to leave room for the rest of the sentence.
pub(crate) fn short(client: &ClientKey) -> String {
    let mut who = client.to_string();
    if let Some((end, _)) = who.char_indices().nth(32) {
        who.truncate(end);
        who.push('…');
    }
    who
}
