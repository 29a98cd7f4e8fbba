//! What a request is asked by, and what it gets: a permit that it holds until its last byte, or the words of a refusal.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    allowlist::Exemption,
    bans::{self, BanRecord},
    headers::{self, HeaderFields},
    penalty::PenaltyLevel,
    throttle::{Algorithm, Meter, Meters, Mode, Scope, ThrottleDecision, ThrottleStatus},
    time::until,
};
use crate::client::{Client, ClientKey};

/// What a request counts for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestKind {
    /// `/v2/` itself: counts for nothing and always answers.
    Ping,
    /// GET of a manifest.
    Pull,
    /// Anything else under `/v2/`.
    #[default]
    Registry,
    /// The JSON API.
    AdminApi,
    /// The pages.
    AdminWeb,
}

impl RequestKind {
    /// What is counted at once.
    pub(super) fn takes(self) -> Meters {
        match self {
            RequestKind::Ping => Meters::NONE,
            RequestKind::Pull => Meter::RegistryApi.alone().and(Meter::Pulls),
            RequestKind::Registry => Meter::RegistryApi.alone(),
            RequestKind::AdminApi => Meter::AdminApi.alone(),
            RequestKind::AdminWeb => Meter::AdminWeb.alone(),
        }
    }

    /// What is charged later and may be overdrawn by now.
    pub(super) fn looks_at(self) -> Meters {
        match self {
            RequestKind::Pull | RequestKind::Registry => Meter::Bytes.alone().and(Meter::NotFound).and(Meter::Auth),
            _ => Meters::NONE,
        }
    }
}

/// Permission to be answered. Held in the response body; what it led to is reported with [`Limits::record_outcome`](super::Limits::record_outcome) and
/// [`Limits::charge_bytes`](super::Limits::charge_bytes).
#[derive(Clone, Debug)]
pub struct Permit {
    /// Who was let in.
    pub client: Arc<Client>,
    /// Why it was not counted, if it was not.
    pub safe: Option<Exemption>,
    /// Where it stands with its throttles.
    pub decision: ThrottleDecision,
    /// What was counted; given back when nothing came of it.
    pub(super) took: Meters,
    /// What an uncached request of this client is answered with: level 2 or 3. Cached content goes on.
    pub misses: Option<Box<Denied>>,
    /// Lines for the log: safelisted, dry runs.
    pub notes: Vec<LogFields>,
}

impl Permit {
    /// Leave that costs nothing and says nothing.
    pub fn unlimited(client: Arc<Client>) -> Permit {
        Permit {
            client,
            safe: None,
            decision: ThrottleDecision::default(),
            took: Meters::NONE,
            misses: None,
            notes: Vec::new(),
        }
    }

    /// The header fields of the throttle that is used up most: the IETF's.
    pub fn fields(&self) -> HeaderFields {
        headers::ietf(&self.decision)
    }

    /// Sentences for `Warning: 299`: a quota of which four fifths are used, and what a dry run would have denied.
    pub fn warnings(&self) -> impl Iterator<Item = String> + '_ {
        self.decision.standings().filter_map(|standing| warning(&standing))
    }

    /// Whether there is anything to tell in headers.
    pub fn is_quiet(&self) -> bool {
        self.decision.is_empty()
    }
}

fn warning(standing: &ThrottleStatus<'_>) -> Option<String> {
    let (rule, limit) = (standing.rule, standing.limit);
    let (name, period) = (rule.name(), rule.period());
    if rule.mode() == Mode::DryRun {
        return standing
            .over
            .then(|| format!("throttle {name} (dry run) would have denied this: {limit} in {period} s"));
    }
    // With gcra a burst is all that one may have at once, so four fifths of that are what matters.
    let whole = match rule.algorithm() {
        Algorithm::FixedWindow => u64::from(limit),
        Algorithm::Gcra if limit == rule.limit() => u64::from(rule.burst()),
        Algorithm::Gcra => u64::from(limit) * u64::from(rule.burst()) / u64::from(rule.limit().max(1)),
    };
    let is_near = u64::from(standing.remaining) * 5 <= whole;
    is_near.then(|| format!("{} of {limit} left of {name} in {period} s", standing.remaining))
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenialCause {
    /// A throttle: 429.
    Throttled,
    /// Its misses are held back: 429, level 2.
    MissesHeld,
    /// A ban: 403, level 3 or 4.
    Banned,
}

/// The words of a refusal.
#[derive(Clone, Debug)]
pub struct Denied {
    /// Why.
    pub cause: DenialCause,
    /// One sentence whose first 80 characters say who is held back and until when.
    pub message: String,
    /// How long to stay away; at least a second.
    pub retry_after: Duration,
    /// Header fields: the IETF's on `/v2`, GitLab's on the admin listener.
    pub fields: HeaderFields,
    /// Code `DENIED` instead of `TOOMANYREQUESTS`, where the operator wants it so.
    pub as_denied: bool,
    /// For the log.
    pub note: LogFields,
}

impl Denied {
    /// The status: never 503, whose body every client drops.
    pub fn status(&self) -> u16 {
        match self.cause {
            DenialCause::Throttled | DenialCause::MissesHeld => 429,
            DenialCause::Banned => 403,
        }
    }

    /// The reason phrase, which is all that an old containerd prints.
    pub fn reason(&self) -> &'static str {
        match self.cause {
            DenialCause::Throttled => "Too Many Requests: quota of this mirror reached",
            DenialCause::MissesHeld => "Too Many Requests: blocked from uncached content",
            DenialCause::Banned => "Blocked by mirror",
        }
    }

    pub(super) fn throttled(
        client: &ClientKey,
        decision: &ThrottleDecision,
        kind: RequestKind,
        text: &str,
        now: SystemTime,
    ) -> Option<Denied> {
        let standing = decision.denied()?;
        let until = until(now + standing.more_in, now);
        let who = bans::short(client);
        let whose = if standing.scope == Scope::Client { "" } else { " (its network)" };
        let (limit, period, name) = (standing.limit, standing.rule.period(), standing.rule.name());
        let message = format!("{who}{whose} is over its limit until {until}: {limit} in {period} s, {name}. {text}");
        let fields = match kind {
            RequestKind::AdminApi | RequestKind::AdminWeb => headers::gitlab(&standing, now),
            _ => headers::ietf(decision),
        };
        Some(Denied {
            cause: DenialCause::Throttled,
            message: message.trim_end().to_owned(),
            retry_after: standing.more_in.max(Duration::from_secs(1)),
            fields,
            as_denied: false,
            note: LogFields::of(&standing, "throttle"),
        })
    }

    pub(super) fn banned(
        record: &BanRecord,
        client: &ClientKey,
        url: &str,
        as_denied: bool,
        now: SystemTime,
    ) -> Denied {
        let cause = if record.level == PenaltyLevel::Misses { DenialCause::MissesHeld } else { DenialCause::Banned };
        let left = record.until.duration_since(now).unwrap_or_default();
        Denied {
            cause,
            message: bans::sentence(record, client, url, now),
            retry_after: left.max(Duration::from_secs(1)),
            fields: Vec::new(),
            as_denied: as_denied && cause == DenialCause::Banned,
            note: LogFields::of_ban(record, "blocklist"),
        }
    }
}

/// One decision as a line of the log: GitLab's fields, as far as it has them, and ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct LogFields {
    /// `throttle`, `track` (a dry run), `safelist`, `blocklist`.
    pub env: &'static str,
    /// The throttle, or the rule of a ban.
    pub matched: String,
    /// GitLab's word for why it was let pass.
    pub throttle_safelist: Option<&'static str>,
    /// Requests in a period.
    pub limit: Option<u32>,
    /// Seconds.
    pub period: Option<u32>,
    /// Requests seen in it.
    pub observed: Option<u32>,
    /// How many more may come.
    pub remaining: Option<u32>,
    /// The ban.
    pub ban: Option<String>,
}

impl LogFields {
    pub(super) fn of(standing: &ThrottleStatus<'_>, env: &'static str) -> LogFields {
        LogFields {
            env,
            matched: standing.rule.name().to_owned(),
            limit: Some(standing.limit),
            period: Some(standing.rule.period()),
            observed: Some(standing.observed),
            remaining: Some(standing.remaining),
            ..LogFields::default()
        }
    }

    pub(super) fn of_ban(record: &BanRecord, env: &'static str) -> LogFields {
        LogFields { env, matched: record.rule.clone(), ban: Some(record.id.clone()), ..LogFields::default() }
    }

    pub(super) fn safe(safe: Exemption) -> LogFields {
        LogFields {
            env: "safelist",
            matched: safe.as_str().to_owned(),
            throttle_safelist: Some(safe.as_str()),
            ..LogFields::default()
        }
    }
}

/// What a request was about: for evidence, and for telling retries from new requests.
#[derive(Clone, Copy, Debug)]
pub struct RequestInfo<'a> {
    /// `GET`, `HEAD`, …
    pub method: &'a str,
    /// As the client named it; empty when it is about none.
    pub repository: &'a str,
    /// Tag or digest; empty when it is about none.
    pub reference: &'a str,
}

/// What is known of a request when it arrives.
#[derive(Clone, Debug)]
pub struct AdmissionRequest<'a> {
    /// Who asks; see [`Limits::client`](super::Limits::client).
    pub client: Arc<Client>,
    /// What it counts for.
    pub kind: RequestKind,
    /// What it is about.
    pub about: RequestInfo<'a>,
    /// The bypass header was there and believed; see [`bypasses`](super::allowlist::bypasses).
    pub bypass: Option<Exemption>,
}

impl AdmissionRequest<'_> {
    pub(super) fn address(&self) -> IpAddr {
        self.client.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{
        Limits, LimitsConfig, abuse,
        audit::Actor,
        state::BanRequest,
        throttle::{Rules, Throttle},
    };

    const NAME: &str = "throttle_unauthenticated_pulls";

    fn limits(algorithm: Algorithm, mode: Mode) -> Limits {
        let names = [NAME, "throttle_unauthenticated_admin_web"];
        let settings = names.map(|name| Throttle {
            name: name.into(),
            requests_per_period: 10,
            period_in_seconds: 3600,
            burst: None,
            algorithm,
            mode,
        });
        let abuse = abuse::Settings { code: abuse::Code::Denied, ..abuse::Settings::default() };
        Limits::in_memory(LimitsConfig {
            response_text: "Ask ops.".to_owned(),
            throttles: Rules::new(&settings, &[], 0).unwrap(),
            abuse,
            ..Default::default()
        })
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_262_400)
    }

    fn ask(limits: &Limits, kind: RequestKind) -> Result<Permit, Box<Denied>> {
        let address = [192, 0, 2, 7].into();
        let client = Arc::new(Client::anonymous(address, address));
        let about = RequestInfo { method: "GET", repository: "docker.io/library/a", reference: "1" };
        limits.admit(&AdmissionRequest { client, kind, about, bypass: None }, now())
    }

    #[test]
    fn a_quota_is_announced_when_four_fifths_are_used() {
        let limits = limits(Algorithm::FixedWindow, Mode::Enforce);
        let warned = |_| {
            let permit = ask(&limits, RequestKind::Pull).unwrap();
            assert!(!permit.is_quiet() && !permit.fields().is_empty());
            permit.warnings().collect::<Vec<_>>()
        };
        let warnings: Vec<_> = (0..10).map(warned).collect();
        assert_eq!(warnings[..7], [const { Vec::<String>::new() }; 7]);
        let left = |number| vec![format!("{number} of 10 left of {NAME} in 3600 s")];
        assert_eq!(warnings[7..], [left(2), left(1), left(0)]);
    }

    #[test]
    fn a_dry_run_says_what_it_would_have_denied_and_nothing_before() {
        let limits = limits(Algorithm::FixedWindow, Mode::DryRun);
        let mut permits: Vec<_> = (0..11).map(|_| ask(&limits, RequestKind::Pull).unwrap()).collect();
        let last = permits.pop().unwrap();
        assert!(permits.iter().all(|permit| permit.warnings().count() == 0 && permit.notes.is_empty()));
        let warnings: Vec<_> = last.warnings().collect();
        assert_eq!(warnings, [format!("throttle {NAME} (dry run) would have denied this: 10 in 3600 s")]);
        assert_eq!((last.notes[0].env, &*last.notes[0].matched), ("track", NAME));
    }

    #[test]
    fn a_refusal_says_who_until_when_and_by_which_throttle_to_client_and_log() {
        let limits = limits(Algorithm::FixedWindow, Mode::Enforce);
        let denied = |kind| (0..11).find_map(|_| ask(&limits, kind).err()).unwrap();
        let pull = denied(RequestKind::Pull);
        assert_eq!(pull.message, format!("192.0.2.7 is over its limit until 13:00Z: 10 in 3600 s, {NAME}. Ask ops."));
        assert_eq!((pull.status(), pull.reason()), (429, "Too Many Requests: quota of this mirror reached"));
        let note = LogFields {
            env: "throttle",
            matched: NAME.to_owned(),
            limit: Some(10),
            period: Some(3600),
            observed: Some(11),
            remaining: Some(0),
            ..LogFields::default()
        };
        assert_eq!(pull.note, note);
        let has = |denied: &Denied, field: &str| denied.fields.iter().any(|(name, _)| *name == field);
        assert!(has(&pull, "ratelimit-policy") && !has(&pull, "ratelimit-name"));
        let page = denied(RequestKind::AdminWeb);
        assert!(has(&page, "ratelimit-name") && !has(&page, "ratelimit-policy"));
    }

    #[test]
    fn a_ban_is_answered_with_the_code_that_the_operator_wants() {
        let limits = limits(Algorithm::FixedWindow, Mode::Enforce);
        let (client, duration) = ("192.0.2.7".parse().unwrap(), Duration::from_secs(60));
        let wish = BanRequest { client, duration, reason: String::new(), force: false };
        let record = limits.ban(wish, &Actor::new("ops", None), now()).unwrap();
        let denied = ask(&limits, RequestKind::Pull).unwrap_err();
        assert_eq!((denied.status(), denied.as_denied, denied.retry_after), (403, true, duration));
        assert_eq!((denied.note.env, denied.note.ban.as_deref()), ("blocklist", Some(&*record.id)));
        let held = BanRecord { level: PenaltyLevel::Misses, ..record.clone() };
        let key = ClientKey::Address([192, 0, 2, 7].into());
        let held = Denied::banned(&held, &key, "", true, now());
        assert_eq!((held.status(), held.as_denied), (429, false));
        assert!(!Denied::banned(&record, &key, "", false, now()).as_denied);
    }

    #[test]
    fn a_client_that_is_not_counted_is_logged_with_the_reason() {
        let limits = limits(Algorithm::FixedWindow, Mode::Enforce);
        let hour = now() + Duration::from_secs(3600);
        limits.allow("192.0.2.7".parse().unwrap(), "ours", hour, &Actor::new("ops", None), now());
        let permit = ask(&limits, RequestKind::Pull).unwrap();
        assert!(permit.is_quiet() && permit.fields().is_empty());
        assert_eq!(permit.notes[0].throttle_safelist, Some("throttle_address_allowlist"));
        assert_eq!(permit.notes[0].env, "safelist");
    }
}
