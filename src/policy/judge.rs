//! Rules against facts: one verdict for each rule.

use std::time::{Duration, SystemTime};

use super::{
    base::Base,
    contents::Contents,
    date::Created,
    facts::Facts,
    lint::{Lint, Severity},
    signature::{Checked, LookedUp, Signers},
    supply::{Attested, Supply},
    user::User,
    verdict::{Outcome, Rule, Verdict},
    vulnerabilities::{Vulnerabilities, no_critical},
};
use crate::oci::matches;

/// What a Dockerfile names as its base when it begins with nothing.
const SCRATCH: &str = "scratch";

/// What an image is held to.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Those that are looked at.
    pub rules: Vec<Rule>,
    /// How old an image may be.
    pub max_age: Duration,
    /// How long an image must have been in the cache.
    pub min_age: Duration,
    /// Bytes of config and layers that it may have.
    pub max_size: u64,
    /// Patterns of the names of bases that it may be built on.
    pub trusted_base: Vec<String>,
    /// Those whose signatures count; without any, that there is one says nothing.
    pub signers: Signers,
    /// The attestations that it must have.
    pub attested: Vec<Attested>,
}

/// What is known of an image besides its facts. All of it may change.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Signatures and attestations.
    pub supply: &'a Supply,
    /// A base that was found by its layers.
    pub shared: Option<&'a Base>,
    /// Whether the name of its base stands for another image by now; `None` when the cache does not know.
    pub has_moved: Option<bool>,
    /// What its layers hold.
    pub contents: &'a Contents,
    /// What a scanner found last, and when.
    pub scanned: Option<&'a (SystemTime, Vulnerabilities)>,
    /// When it came into the cache.
    pub arrived: Option<SystemTime>,
}

impl Default for Rules {
    /// What a report holds an image to: half a year, in which every distribution of Linux has mended something that is in every image;
    /// 2 GiB, which takes a minute at 300 Mbit/s; any base that is named.
    fn default() -> Rules {
        Rules {
            rules: Rule::ALL.into(),
            max_age: Duration::from_secs(180 * 86_400),
            min_age: Duration::ZERO,
            max_size: 2 << 30,
            trusted_base: vec!["*".to_owned()],
            signers: Signers::default(),
            attested: vec![Attested::Sbom, Attested::Provenance],
        }
    }
}

impl Rules {
    /// What these rules say, in their order. Without facts, because the config is not here or is no config, `why` says
    /// so of every rule that needs them.
    pub fn judge(&self, facts: Result<&Facts, &str>, known: &Known<'_>, now: SystemTime) -> Vec<Verdict> {
        let Known { supply, contents, arrived, .. } = *known;
        let verifies = !self.signers.is_empty() && self.looks_beside();
        let checked = if verifies { supply.beside.check(&self.signers, now) } else { Checked::default() };
        let of = |rule: Rule| {
            let (outcome, finding) = match (rule, facts) {
                (Rule::Signed, _) => self.signed(supply, &checked),
                (Rule::Attested, _) => self.attested(supply, &checked),
                (Rule::NoCritical, _) => no_critical(known.scanned, now),
                (_, Err(why)) => (Outcome::Unknown, why.to_owned()),
                (Rule::NonRoot, Ok(facts)) => non_root(&facts.user, contents),
                (Rule::NoSecrets, Ok(facts)) => contents.no_secrets(&facts.secrets),
                (Rule::MaxAge, Ok(facts)) => self.age(facts.created, arrived, now),
                (Rule::MinAge, Ok(_)) => self.time_here(arrived, now),
                (Rule::NoLowPorts, Ok(facts)) => no_low_ports(facts, contents),
                (Rule::TrustedBase, Ok(facts)) => self.base(facts.base.as_ref().or(known.shared)),
                (Rule::FreshBase, Ok(facts)) => fresh_base(facts.base.as_ref().or(known.shared), known.has_moved),
                (Rule::Minimal, Ok(_)) => contents.minimal(),
                (Rule::NoSetuid, Ok(_)) => contents.no_setuid(),
                (Rule::MaxSize, Ok(facts)) => self.size(facts),
                (Rule::Lint, Ok(facts)) => lint(&facts.lint),
            };
            let mend = if outcome == Outcome::Pass { "" } else { mend(rule) };
            Verdict { rule, outcome, finding, mend }
        };
        self.rules.iter().copied().map(of).collect()
    }

    /// What these rules say of what could not be looked at, because of `why`.
    pub fn unknown(&self, why: &str) -> Vec<Verdict> {
        let of = |rule: &Rule| Verdict {
            rule: *rule,
            outcome: Outcome::Unknown,
            finding: why.to_owned(),
            mend: mend(*rule),
        };
        self.rules.iter().map(of).collect()
    }

    /// Whether it takes a look at what is beside an image.
    pub fn looks_beside(&self) -> bool {
        self.rules.iter().any(|rule| matches!(rule, Rule::Signed | Rule::Attested))
    }

    fn signed(&self, supply: &Supply, checked: &Checked) -> (Outcome, String) {
        if self.signers.is_empty() {
            // Whose it is, and whether it is of this image, was not looked at.
            let finding = match supply.has(Attested::Signature) {
                true => "has a signature, which was not verified",
                false => "has no signature that the cache knows of",
            };
            return (Outcome::Unknown, finding.to_owned());
        }
        match (&checked.by, supply.beside.looked_up, checked.nearest) {
            (Some(by), ..) if checked.by_index => {
                (Outcome::Pass, format!("is named by an index that is signed by {by}"))
            }
            (Some(by), ..) => (Outcome::Pass, format!("is signed by {by}")),
            (None, LookedUp::No, _) => (Outcome::Unknown, "has signatures that were not looked up yet".to_owned()),
            (None, LookedUp::Partly, _) => {
                (Outcome::Unknown, "has no verified signature, and not all could be looked up".to_owned())
            }
            (None, LookedUp::Wholly, Some(nearest)) => (Outcome::Fail, nearest.as_str().to_owned()),
            (None, LookedUp::Wholly, None) => (Outcome::Fail, "has no signature".to_owned()),
        }
    }

    /// With signers, an attestation counts that one of them signed, or that stands in an index that one of them signed.
    fn attested(&self, supply: &Supply, checked: &Checked) -> (Outcome, String) {
        let has_signers = !self.signers.is_empty();
        let stated = if has_signers { checked.predicates.clone() } else { supply.beside.claims() };
        let stated: Vec<Attested> = stated.iter().map(|predicate| Attested::of_predicate(predicate)).collect();
        let has = |kind: Attested| {
            let is_known = if has_signers { checked.by_index && supply.has_inside(kind) } else { supply.has(kind) };
            is_known || stated.contains(&kind)
        };
        let (found, missing): (Vec<Attested>, Vec<Attested>) = self.attested.iter().partition(|kind| has(**kind));
        let names = |kinds: &[Attested]| kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>();
        let verified = if has_signers { "verified " } else { "" };
        if missing.is_empty() {
            return (Outcome::Pass, format!("has {}", list(verified, &names(&found))));
        }
        let missing = list(verified, &names(&missing)).replace(" and ", " or ");
        match supply.beside.looked_up {
            LookedUp::Wholly => (Outcome::Fail, format!("has no {missing}")),
            LookedUp::Partly => (Outcome::Unknown, format!("has no {missing} among what could be looked up")),
            LookedUp::No if found.is_empty() && !supply.has(Attested::Other) => {
                (Outcome::Unknown, "has no attestation that the cache knows of".to_owned())
            }
            LookedUp::No => (Outcome::Unknown, format!("has no {missing} that the cache knows of")),
        }
    }

    /// The publisher writes `created`, so an image is at least as old as its time in the cache.
    fn age(&self, created: Created, arrived: Option<SystemTime>, now: SystemTime) -> (Outcome, String) {
        let since = |at: SystemTime| now.duration_since(at).unwrap_or_default();
        let (created, here) = match created {
            Created::At(at) => (Some(since(at)), arrived.map(since)),
            Created::Unknown => (None, arrived.map(since)),
        };
        match created.max(here) {
            Some(age) if age > self.max_age => {
                let (age, most) = differing(age, self.max_age, days);
                (Outcome::Fail, format!("is {age} old, more than {most}"))
            }
            _ => match created {
                Some(age) => (Outcome::Pass, format!("is {} old", days(age))),
                None => (Outcome::Unknown, "has no date, or one that reproducible builds write".to_owned()),
            },
        }
    }

    /// What is new may be what an attacker pushed yesterday. The publisher writes `created`: only the arrival here counts.
    fn time_here(&self, arrived: Option<SystemTime>, now: SystemTime) -> (Outcome, String) {
        let Some(arrived) = arrived else {
            return (Outcome::Unknown, "is not in the cache".to_owned());
        };
        let here = now.duration_since(arrived).unwrap_or_default();
        match here < self.min_age {
            true => {
                let (here, least) = differing(here, self.min_age, span);
                (Outcome::Fail, format!("came into the cache {here} ago, which is less than {least}"))
            }
            false => (Outcome::Pass, format!("came into the cache {} ago", span(here))),
        }
    }

    fn base(&self, base: Option<&Base>) -> (Outcome, String) {
        let Some(base) = base else {
            return (
                Outcome::Unknown,
                "names no base, and shares its lower layers with no other cached image".to_owned(),
            );
        };
        let how = match base {
            Base::Named { name, .. } => format!("says that it is built on {name}"),
            Base::Shared { name, layers, .. } => format!("is built on the {layers} layers of {name}"),
        };
        match self.trusted_base.iter().any(|pattern| matches(pattern, base.name())) {
            true => (Outcome::Pass, how),
            false => (Outcome::Fail, format!("{how}, which is no trusted base")),
        }
    }

    fn size(&self, facts: &Facts) -> (Outcome, String) {
        let (mut size, mut most) = (mebibytes(facts.size), mebibytes(self.max_size));
        if size == most {
            (size, most) = (bytes(facts.size), bytes(self.max_size));
        }
        let layers = match facts.layers.len() {
            1 => "1 layer".to_owned(),
            layers => format!("{layers} layers"),
        };
        match facts.size > self.max_size {
            true => (Outcome::Fail, format!("has {size} in {layers}, more than {most}")),
            false => (Outcome::Pass, format!("has {} in {layers}", mebibytes(facts.size))),
        }
    }
}

fn days(age: Duration) -> String {
    match age.as_secs() / 86_400 {
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

/// Two spans of which one is longer, so that a reader sees that it is: as `coarse` writes them, else in the largest unit in which they differ.
fn differing(one: Duration, other: Duration, coarse: fn(Duration) -> String) -> (String, String) {
    let words = (coarse(one), coarse(other));
    if words.0 != words.1 {
        return words;
    }
    let units = [(3_600_000, "h"), (60_000, "min"), (1000, "s"), (1, "ms")];
    let in_unit =
        |(length, unit): (u128, &str)| [one, other].map(|span| format!("{} {unit}", span.as_millis() / length));
    let differ = units.into_iter().map(in_unit).find(|[one, other]| one != other);
    differ.map_or(words, |[one, other]| (one, other))
}

fn span(span: Duration) -> String {
    match span.as_secs() {
        0..60 => "less than a minute".to_owned(),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds @ 3600..172_800 => format!("{} h", seconds / 3600),
        _ => days(span),
    }
}

fn bytes(bytes: u64) -> String {
    if bytes == 1 { "1 byte".to_owned() } else { format!("{bytes} bytes") }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

fn non_root(user: &User, contents: &Contents) -> (Outcome, String) {
    let is_named = matches!(user, User::Name(_));
    match contents.resolve(user) {
        Some(User::Root) if is_named => (Outcome::Fail, "starts as a user by name that is root".to_owned()),
        Some(User::Root) => (Outcome::Fail, "starts as root".to_owned()),
        Some(user) => (Outcome::Pass, format!("starts as {user}")),
        // The publisher's text goes into no sentence.
        None => (Outcome::Unknown, "starts as a user by name, which a file in its layers may say is root".to_owned()),
    }
}

fn no_low_ports(facts: &Facts, contents: &Contents) -> (Outcome, String) {
    let ports: Vec<String> = facts.low_ports.iter().map(u16::to_string).collect();
    match (ports.is_empty(), contents.resolve(&facts.user)) {
        (true, _) => (Outcome::Pass, "exposes no port below 1024".to_owned()),
        (false, Some(User::Root)) => (Outcome::Fail, format!("exposes {} and starts as root", ports.join(", "))),
        (false, _) => (Outcome::Pass, format!("exposes {} without starting as root", ports.join(", "))),
    }
}

fn fresh_base(base: Option<&Base>, has_moved: Option<bool>) -> (Outcome, String) {
    let Some(base) = base else {
        return (Outcome::Unknown, "names no base, and shares its lower layers with no other cached image".to_owned());
    };
    let name = base.name();
    // No image has this name, which Docker reserves.
    if name == SCRATCH {
        return (Outcome::Pass, format!("is built from {SCRATCH}, which is no image that could move on"));
    }
    match has_moved {
        Some(true) => (Outcome::Fail, format!("was built on {name}, which is another image by now")),
        Some(false) => (Outcome::Pass, format!("is built on {name} as it is now")),
        None => {
            (Outcome::Unknown, format!("was built on {name}, of which the cache does not know whether it moved on"))
        }
    }
}

/// `verified SBOM and verified provenance`.
fn list(before: &str, names: &[&str]) -> String {
    names.iter().map(|name| format!("{before}{name}")).collect::<Vec<_>>().join(" and ")
}

/// As `hadolint --failure-threshold error`.
fn lint(lints: &[Lint]) -> (Outcome, String) {
    let named = |lint: &Lint| format!("{} ({})", lint.rule, lint.advice);
    let errors: Vec<String> = lints.iter().filter(|lint| lint.severity == Severity::Error).map(named).collect();
    let rest = lints.len() - errors.len();
    match (errors.is_empty(), rest) {
        (true, 0) => (Outcome::Pass, "has a history that breaks no rule".to_owned()),
        (true, _) => {
            let rules: Vec<&str> = lints.iter().map(|lint| lint.rule).collect();
            (Outcome::Pass, format!("has a history with no error; it breaks {}", rules.join(", ")))
        }
        (false, 0) => (Outcome::Fail, format!("has a history that breaks {}", errors.join(", "))),
        (false, _) => {
            (Outcome::Fail, format!("has a history that breaks {} and {rest} lesser rules", errors.join(", ")))
        }
    }
}

/// How to mend an image that breaks this rule.
pub fn mend(rule: Rule) -> &'static str {
    match rule {
        Rule::NonRoot => "end the Dockerfile with a USER that is a number, such as USER 65532:65532",
        Rule::NoSecrets => {
            "revoke them, build with RUN --mount=type=secret, and give them to the container at its start"
        }
        Rule::MaxAge => "build it again on a new base, and with its real date",
        Rule::MinAge => "pull an older version meanwhile",
        Rule::NoLowPorts => "listen on a port from 1024 up, and publish that as the low one",
        Rule::TrustedBase => "build on a trusted base, and annotate org.opencontainers.image.base.name",
        Rule::FreshBase => "build it again on the base as it is now",
        Rule::Minimal => "build in stages, the last one FROM scratch or a distroless base",
        Rule::NoSetuid => "add RUN find / -xdev -type f -perm /6002 -exec chmod a-s,o-w {} + before USER",
        Rule::NoCritical => "update what is vulnerable, or the base; weir image --scanner looks again",
        Rule::MaxSize => "build in stages, and copy into the last one only what runs",
        Rule::Signed => "sign its digest with cosign or Notation, by a signer that the policy trusts",
        Rule::Attested => "build with docker buildx build --sbom=true --provenance=mode=max",
        Rule::Lint => "run hadolint over the Dockerfile",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Description;

    const DAY: Duration = Duration::from_secs(86_400);

    fn known<'a>(supply: &'a Supply, contents: &'a Contents) -> Known<'a> {
        Known { supply, shared: None, has_moved: None, contents, scanned: None, arrived: None }
    }

    fn verdict(rule: Rule, facts: &Facts, arrived: Option<Duration>, now: Duration) -> (Outcome, String) {
        let at = |since| SystemTime::UNIX_EPOCH + since;
        let rules = Rules { trusted_base: vec!["docker.io/*".to_owned()], ..Rules::default() };
        let (supply, contents) = (Supply::default(), Contents::default());
        let known = Known { arrived: arrived.map(at), ..known(&supply, &contents) };
        let verdicts = rules.judge(Ok(facts), &known, at(now));
        let verdict = verdicts.into_iter().find(|verdict| verdict.rule == rule).unwrap();
        assert_eq!(verdict.mend.is_empty(), verdict.outcome == Outcome::Pass);
        (verdict.outcome, verdict.finding)
    }

    fn facts(config: &str) -> Facts {
        Facts::read(&Description::default(), config.as_bytes()).unwrap()
    }

    #[test]
    fn an_image_is_as_old_as_its_date_or_its_time_in_the_cache_says() {
        let dated = facts(r#"{"created":"2026-01-01T00:00:00Z"}"#);
        let undated = facts(r#"{"created":"1970-01-01T00:00:00Z"}"#);
        let begin = Duration::from_secs(1_767_225_600);
        let outcome = |facts, arrived, now| verdict(Rule::MaxAge, facts, arrived, now).0;
        assert_eq!(outcome(&dated, None, begin + DAY * 180), Outcome::Pass);
        assert_eq!(outcome(&dated, None, begin + DAY * 181), Outcome::Fail);
        assert_eq!(
            outcome(&dated, Some(begin - DAY * 200), begin),
            Outcome::Fail,
            "its date is later than its arrival"
        );
        assert_eq!(outcome(&undated, None, begin), Outcome::Unknown);
        assert_eq!(outcome(&undated, Some(begin), begin + DAY), Outcome::Unknown);
        assert_eq!(outcome(&undated, Some(begin), begin + DAY * 181), Outcome::Fail);
    }

    #[test]
    fn what_is_new_here_fails_until_it_has_been_here_for_long_enough() {
        let rules = Rules { rules: vec![Rule::MinAge], min_age: DAY * 7, ..Rules::default() };
        let (supply, contents, facts) =
            (Supply::default(), Contents::default(), facts(r#"{"created":"2014-01-01T00:00:00Z"}"#));
        let outcome = |arrived: Option<Duration>| {
            let arrived = arrived.map(|since| SystemTime::UNIX_EPOCH + since);
            let known = Known { arrived, ..known(&supply, &contents) };
            rules.judge(Ok(&facts), &known, SystemTime::UNIX_EPOCH + DAY * 20_000)[0].outcome
        };
        assert_eq!(outcome(Some(DAY * 19_993)), Outcome::Pass);
        assert_eq!(outcome(Some(DAY * 19_994)), Outcome::Fail, "created is the publisher's word");
        assert_eq!(outcome(None), Outcome::Unknown);
    }

    #[test]
    fn numbers_of_which_one_is_too_large_are_written_so_that_they_differ() {
        let rules = Rules { max_age: DAY, min_age: Duration::from_secs(10), max_size: 1 << 20, ..Rules::default() };
        let sentence = |rule, facts: &Facts, arrived| {
            let (supply, contents) = (Supply::default(), Contents::default());
            let known = Known { arrived: Some(SystemTime::UNIX_EPOCH + arrived), ..known(&supply, &contents) };
            let verdicts = rules.judge(Ok(facts), &known, SystemTime::UNIX_EPOCH + DAY * 2);
            let verdict = verdicts.into_iter().find(|verdict| verdict.rule == rule).unwrap();
            assert_eq!(verdict.outcome, Outcome::Fail);
            verdict.finding
        };
        let layer = vec![crate::oci::Algorithm::Sha256.digest(b"layer")];
        let large = Facts { size: (1 << 20) + 1, layers: layer.clone(), ..facts("{}") };
        assert_eq!(sentence(Rule::MaxSize, &large, DAY), "has 2 MiB in 1 layer, more than 1 MiB");
        let small = Rules { max_size: 100, ..rules.clone() };
        assert_eq!(small.size(&Facts { size: 101, ..large }).1, "has 101 bytes in 1 layer, more than 100 bytes");
        let second = Duration::from_secs(1);
        assert_eq!(sentence(Rule::MaxAge, &facts("{}"), DAY - second * 3600), "is 25 h old, more than 24 h");
        assert_eq!(sentence(Rule::MaxAge, &facts("{}"), Duration::ZERO), "is 2 days old, more than 1 day");
        let young = "came into the cache 9 s ago, which is less than 10 s";
        assert_eq!(sentence(Rule::MinAge, &facts("{}"), DAY * 2 - second * 9), young);
    }

    #[test]
    fn a_base_that_moved_on_fails_and_one_of_which_that_is_not_known_does_not_pass() {
        let (supply, contents, facts) = (Supply::default(), Contents::default(), facts("{}"));
        let base = Base::Named { name: "docker.io/library/debian:12".into(), digest: None };
        let outcome = |shared, has_moved| {
            let known = Known { shared, has_moved, ..known(&supply, &contents) };
            let rules = Rules { rules: vec![Rule::FreshBase], ..Rules::default() };
            rules.judge(Ok(&facts), &known, SystemTime::UNIX_EPOCH)[0].outcome
        };
        assert_eq!(outcome(Some(&base), Some(false)), Outcome::Pass);
        assert_eq!(outcome(Some(&base), Some(true)), Outcome::Fail);
        assert_eq!(outcome(Some(&base), None), Outcome::Unknown);
        assert_eq!(outcome(None, None), Outcome::Unknown);
        let scratch = Base::Named { name: "scratch".into(), digest: None };
        assert_eq!(outcome(Some(&scratch), None), Outcome::Pass);
    }

    #[test]
    fn a_low_port_fails_with_root_and_a_base_that_is_not_trusted_fails() {
        let now = DAY * 20_000;
        let outcome = |rule, config: &str| verdict(rule, &facts(config), None, now).0;
        let ports = r#""ExposedPorts":{"80/tcp":{},"8080/tcp":{}}"#;
        assert_eq!(outcome(Rule::NoLowPorts, &format!(r#"{{"config":{{{ports}}}}}"#)), Outcome::Fail);
        assert_eq!(outcome(Rule::NoLowPorts, &format!(r#"{{"config":{{{ports},"User":"7"}}}}"#)), Outcome::Pass);
        assert_eq!(outcome(Rule::NoLowPorts, r#"{"config":{"ExposedPorts":{"8080/tcp":{}}}}"#), Outcome::Pass);
        let named = |name: &str| Facts { base: Some(Base::Named { name: name.into(), digest: None }), ..facts("{}") };
        assert_eq!(verdict(Rule::TrustedBase, &named("docker.io/library/debian:12"), None, now).0, Outcome::Pass);
        assert_eq!(verdict(Rule::TrustedBase, &named("evil.example/debian:12"), None, now).0, Outcome::Fail);
        assert_eq!(verdict(Rule::TrustedBase, &facts("{}"), None, now).0, Outcome::Unknown);
        let large = Facts { size: 3 << 30, ..facts("{}") };
        assert_eq!(verdict(Rule::MaxSize, &large, None, now).0, Outcome::Fail);
    }

    #[test]
    fn without_facts_every_rule_that_needs_them_is_unknown() {
        let (supply, contents) = (Supply::default(), Contents::default());
        let known = known(&supply, &contents);
        let verdicts = Rules::default().judge(Err("has no config here"), &known, SystemTime::UNIX_EPOCH);
        assert_eq!(verdicts.len(), Rule::ALL.len());
        assert!(verdicts.iter().all(|verdict| verdict.outcome == Outcome::Unknown), "{verdicts:?}");
        assert_eq!(verdicts[0].finding, "has no config here");
    }

    #[test]
    fn what_is_signed_is_known_only_when_it_was_verified() {
        let mut supply = Supply::default();
        supply.add(Attested::Signature);
        supply.add(Attested::Sbom);
        let outcomes = |supply: &Supply| {
            let contents = Contents::default();
            let verdicts = Rules::default().judge(Err(""), &known(supply, &contents), SystemTime::UNIX_EPOCH);
            [Rule::Signed, Rule::Attested].map(|rule| verdicts.iter().find(|it| it.rule == rule).unwrap().outcome)
        };
        assert_eq!(outcomes(&supply), [Outcome::Unknown, Outcome::Unknown]);
        supply.add(Attested::Provenance);
        assert_eq!(outcomes(&supply), [Outcome::Unknown, Outcome::Pass]);
    }

    #[test]
    fn an_attestation_that_is_not_there_is_missing_only_when_it_was_looked_up() {
        let outcome = |looked_up, kinds: &[Attested], attested: &[Attested]| {
            let mut supply = Supply::default();
            kinds.iter().for_each(|kind| supply.add(*kind));
            supply.beside.looked_up = looked_up;
            let rules = Rules { rules: vec![Rule::Attested], attested: attested.to_vec(), ..Rules::default() };
            let contents = Contents::default();
            let verdicts = rules.judge(Err(""), &known(&supply, &contents), SystemTime::UNIX_EPOCH);
            (verdicts[0].outcome, verdicts[0].finding.clone())
        };
        let (both, sbom) = (&[Attested::Sbom, Attested::Provenance][..], &[Attested::Sbom][..]);
        assert_eq!(outcome(LookedUp::Wholly, both, both), (Outcome::Pass, "has SBOM and provenance".to_owned()));
        assert_eq!(outcome(LookedUp::No, sbom, sbom).0, Outcome::Pass, "provenance is not wanted");
        assert_eq!(outcome(LookedUp::Wholly, sbom, both), (Outcome::Fail, "has no provenance".to_owned()));
        assert_eq!(outcome(LookedUp::Wholly, &[], both), (Outcome::Fail, "has no SBOM or provenance".to_owned()));
        assert_eq!(outcome(LookedUp::Partly, sbom, both).0, Outcome::Unknown);
        assert_eq!(outcome(LookedUp::No, sbom, both).0, Outcome::Unknown);
    }
}
