//! What becomes of an image: the first policy that is for it, its rules, and the sentence for the client.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    count::Count,
    judge::Rules,
    settings::{Mode, Table, Unknown, Wanted},
    signature::Signers,
    supply::Attested,
    verdict::{Outcome, Rule, Verdict},
};
use crate::{
    oci::matches,
    setting::{ConfigError, ConfigErrors},
};

/// What becomes of an image.
#[derive(Clone, Debug)]
pub enum Decision {
    /// It is served.
    Pass,
    /// It is served; what is wrong with it is counted.
    Audit(Arc<Breach>),
    /// It is served with a sentence.
    Warn(Arc<Breach>),
    /// It is refused with a sentence.
    Refuse(Arc<Breach>),
}

/// The rules of a policy that an image breaks.
#[derive(Debug)]
pub struct Breach {
    /// One sentence for the client.
    pub sentence: String,
    counts: Vec<Arc<Count>>,
}

/// A policy, ready to be asked. Cloning shares the counts.
#[derive(Clone, Debug)]
pub struct Policy {
    table: Table,
    rules: Rules,
    /// Answers that were warned of, refused, or given though a rule was broken, since the start or since the policy got its name.
    counts: Vec<(Rule, Arc<Count>)>,
}

/// All policies, in their order. None costs nothing.
#[derive(Clone, Debug, Default)]
pub struct Policies(Vec<Policy>);

impl Policies {
    /// The policies of these tables, whose keys and roots `read` reads: the bytes of a file.
    ///
    /// # Errors
    /// What is wrong with a key or root, by its key in the configuration.
    pub fn new(tables: &[Table], read: impl Fn(&str) -> Result<Vec<u8>, String>) -> Result<Policies, ConfigErrors> {
        let policy = |(number, table): (usize, &Table)| {
            let signers = Signers::read(&table.signed, &read).map_err(|(place, file, fix)| {
                let key = format!("policy[{number}].signed[{place}]");
                if file.is_empty() { ConfigError::without_value(key, fix) } else { ConfigError::new(key, file, fix) }
            })?;
            Ok(Policy::new(table.clone(), signers))
        };
        Ok(Policies(tables.iter().enumerate().map(policy).collect::<Result<_, ConfigError>>()?))
    }

    /// These, of which one that was among the `old` ones goes on counting.
    pub fn after(mut self, old: &Policies) -> Policies {
        for policy in &mut self.0 {
            if let Some(before) = old.0.iter().find(|before| before.is_like(&policy.table)) {
                policy.counts.clone_from(&before.counts);
            }
        }
        self
    }

    /// All of them.
    pub fn all(&self) -> &[Policy] {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The policy for an image by its full name, `docker.io/library/busybox:1.36`: the first that matches.
    pub fn find(&self, name: &str) -> Option<&Policy> {
        self.0.iter().find(|policy| policy.is_for(name))
    }

    /// What becomes of a manifest with these names, of which `judge` says what rules say: the most lenient decision.
    pub fn decide(&self, names: &[String], mut judge: impl FnMut(&Rules) -> Vec<Verdict>, now: SystemTime) -> Decision {
        let mut decide = |name: &String| self.find(name).map(|policy| policy.decide(name, &judge(policy.rules()), now));
        names.iter().filter_map(&mut decide).reduce(Decision::or).unwrap_or(Decision::Pass)
    }
}

impl Policy {
    fn new(table: Table, signers: Signers) -> Policy {
        let wanted = [
            (Rule::NonRoot, table.non_root),
            (Rule::NoSecrets, table.no_secrets),
            (Rule::MaxAge, table.max_age.is_some()),
            (Rule::MinAge, table.min_age.is_some()),
            (Rule::NoLowPorts, table.no_low_ports),
            (Rule::TrustedBase, !table.trusted_base.is_empty()),
            (Rule::FreshBase, table.fresh_base),
            (Rule::Minimal, table.minimal),
            (Rule::NoSetuid, table.no_setuid),
            (Rule::NoCritical, table.no_critical),
            (Rule::MaxSize, table.max_size.is_some()),
            (Rule::Signed, !table.signed.is_empty()),
            (Rule::Attested, !table.attested.is_empty()),
            (Rule::Lint, table.lint),
        ];
        let rules = Rules {
            rules: wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(rule, _)| rule).collect(),
            max_age: table.max_age.map_or(Duration::MAX, |span| span.0),
            min_age: table.min_age.map_or(Duration::ZERO, |span| span.0),
            max_size: table.max_size.map_or(u64::MAX, |size| size.0),
            trusted_base: table.trusted_base.clone(),
            signers,
            attested: table.attested.iter().map(kind).collect(),
        };
        let counts = Rule::ALL.map(|rule| (rule, Arc::default())).into();
        Policy { table, rules, counts }
    }

    /// Whether its counts are of the same: a warning is no refusal.
    fn is_like(&self, table: &Table) -> bool {
        self.table.name == table.name && self.table.mode == table.mode
    }

    /// As it is written.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Answers that were warned of, refused or found wanting, by each rule that was broken; of every rule that the policy names.
    pub fn counts(&self) -> impl Iterator<Item = (Rule, u64)> {
        let named = self.counts.iter().filter(|(rule, _)| self.rules.rules.contains(rule));
        named.map(|(rule, count)| (*rule, count.sum()))
    }

    fn is_for(&self, name: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
        any(&self.table.images) && !any(&self.table.except)
    }

    /// What it holds images to.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// What a report holds images to: every rule, those that this policy names with its thresholds.
    pub fn reported(&self) -> Rules {
        let (mut rules, named) = (Rules::default(), &self.rules);
        for rule in &named.rules {
            match rule {
                Rule::MaxAge => rules.max_age = named.max_age,
                Rule::MinAge => rules.min_age = named.min_age,
                Rule::MaxSize => rules.max_size = named.max_size,
                Rule::TrustedBase => rules.trusted_base.clone_from(&named.trusted_base),
                Rule::Signed => rules.signers.clone_from(&named.signers),
                Rule::Attested => rules.attested.clone_from(&named.attested),
                _ => {}
            }
        }
        rules
    }

    /// Whether it changes an answer. One that audits does not.
    pub fn acts(&self) -> bool {
        self.table.mode != Mode::Audit
    }

    /// How long a client may wait for the facts of an image; `None` when it does not wait.
    pub fn wait(&self) -> Option<Duration> {
        (self.acts() && self.table.unknown != Unknown::Allow).then_some(self.table.wait.0)
    }

    /// What becomes of the image of this name of which its rules said this.
    pub fn decide(&self, name: &str, verdicts: &[Verdict], now: SystemTime) -> Decision {
        let is_broken = |verdict: &&Verdict| match verdict.outcome {
            Outcome::Pass => false,
            Outcome::Fail => true,
            Outcome::Unknown => self.table.unknown == Unknown::Deny,
        };
        let broken: Vec<&Verdict> = verdicts.iter().filter(is_broken).collect();
        let is_exempt = || self.table.exempt.iter().any(|it| matches(&it.image, name) && now < it.expires);
        let Some(first) = broken.first().filter(|_| !is_exempt()) else { return Decision::Pass };
        let (policy, rule) = (&self.table.name, first.rule.as_str());
        let more = match broken.len() {
            1 => String::new(),
            2 => " and breaks another rule".to_owned(),
            all => format!(" and breaks {} other rules", all - 1),
        };
        let mut end =
            format!("the policy {policy} of this mirror: it {} ({rule}){more}; {}", first.finding, first.mend);
        if !self.table.contact.is_empty() {
            end += &format!("; ask {}", self.table.contact);
        }
        let is_of_broken = |(rule, _): &&(Rule, Arc<Count>)| broken.iter().any(|verdict| verdict.rule == *rule);
        let counts = self.counts.iter().filter(is_of_broken).map(|(_, count)| count.clone()).collect();
        let breach = |verb| {
            let sentence = format!("{name} {verb} {end}");
            Arc::new(Breach { sentence, counts })
        };
        match self.table.mode {
            Mode::Enforce => Decision::Refuse(breach("is refused by")),
            Mode::Warn => Decision::Warn(breach("breaks")),
            Mode::Audit => Decision::Audit(breach("breaks")),
        }
    }
}

fn kind(wanted: &Wanted) -> Attested {
    match wanted {
        Wanted::Sbom => Attested::Sbom,
        Wanted::Provenance => Attested::Provenance,
    }
}

impl Breach {
    /// Counts an answer for each rule.
    pub fn count(&self) {
        for count in &self.counts {
            count.add_one();
        }
    }
}

impl Decision {
    /// The more lenient of two.
    pub fn or(self, other: Decision) -> Decision {
        if self.severity() <= other.severity() { self } else { other }
    }

    fn severity(&self) -> u8 {
        match self {
            Decision::Pass => 0,
            Decision::Audit(_) => 1,
            Decision::Warn(_) => 2,
            Decision::Refuse(_) => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct File {
        policy: Vec<Table>,
    }

    fn policies(text: &str) -> Policies {
        let file: File = toml::from_str(text).unwrap();
        assert_eq!(Table::validate(&file.policy), []);
        made(&file.policy)
    }

    fn made(tables: &[Table]) -> Policies {
        Policies::new(tables, |_| Err("no file is read here".to_owned())).unwrap()
    }

    /// The sentence of a decision, and whether it refuses.
    fn said(decision: &Decision) -> Option<(&str, bool)> {
        match decision {
            Decision::Pass | Decision::Audit(_) => None,
            Decision::Warn(breach) => Some((&breach.sentence, false)),
            Decision::Refuse(breach) => Some((&breach.sentence, true)),
        }
    }

    fn verdict(rule: Rule, outcome: Outcome) -> Verdict {
        Verdict { rule, outcome, finding: "starts as root".to_owned(), mend: "mend it" }
    }

    const NAME: &str = "docker.io/acme/app:1";

    #[test]
    fn the_first_policy_that_is_for_an_image_decides_and_what_it_excepts_goes_to_the_next() {
        let policies = policies(
            r#"
            [[policy]]
            name = "strict"
            images = ["docker.io/acme/*"]
            except = ["*:dev*"]
            mode = "enforce"
            non_root = true
            [[policy]]
            name = "rest"
            images = ["*"]
            max_age = "30d"
            "#,
        );
        let name = |name: &str| policies.find(name).map(|policy| &*policy.table.name);
        assert_eq!(name(NAME), Some("strict"));
        assert_eq!(name("docker.io/acme/app:dev-1"), Some("rest"));
        assert_eq!(name("ghcr.io/acme/app:1"), Some("rest"));
        assert_eq!(policies.find(NAME).unwrap().rules().rules, [Rule::NonRoot]);
        assert_eq!(policies.find("a").unwrap().rules().rules, [Rule::MaxAge]);
        assert!(Policies::default().is_empty() && Policies::default().find(NAME).is_none());
    }

    #[test]
    fn a_report_holds_an_image_to_all_rules_with_the_thresholds_of_its_policy() {
        let text = r#"
            [[policy]]
            name = "p"
            images = ["*"]
            max_age = "30d"
            min_age = "1d"
            max_size = "1KiB"
            trusted_base = ["docker.io/library/*"]
            attested = ["sbom"]
            [[policy]]
            name = "q"
            images = ["*"]
            "#;
        let policies = policies(text);
        let reported = policies.all()[0].reported();
        assert_eq!(reported.rules, Rule::ALL);
        assert_eq!(
            (reported.max_age, reported.min_age),
            (Duration::from_secs(30 * 86_400), Duration::from_secs(86_400))
        );
        assert_eq!((reported.max_size, &*reported.trusted_base), (1024, &["docker.io/library/*".to_owned()][..]));
        assert_eq!(reported.attested, [Attested::Sbom]);
        let (other, default) = (policies.all()[1].reported(), Rules::default());
        assert_eq!(
            (other.max_age, other.max_size, other.attested),
            (default.max_age, default.max_size, default.attested)
        );
    }

    #[test]
    fn a_mode_and_what_is_unknown_and_an_exemption_decide() {
        let decide = |more: &str, outcome: Outcome, now: u64| {
            let text = format!("[[policy]]\nname = \"p\"\nimages = [\"*\"]\nnon_root = true\n{more}");
            let verdicts = [verdict(Rule::NonRoot, outcome), verdict(Rule::MaxAge, Outcome::Pass)];
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now);
            policies(&text).find(NAME).unwrap().decide(NAME, &verdicts, now)
        };
        let refused =
            "docker.io/acme/app:1 is refused by the policy p of this mirror: it starts as root (non_root); mend it";
        let enforce = decide("mode = \"enforce\"", Outcome::Fail, 0);
        assert_eq!(said(&enforce), Some((refused, true)));
        let contact = decide("mode = \"enforce\"\ncontact = \"the platform team\"", Outcome::Fail, 0);
        assert_eq!(said(&contact), Some((&*format!("{refused}; ask the platform team"), true)));
        let warn = decide("mode = \"warn\"", Outcome::Fail, 0);
        assert_eq!(said(&warn), Some((&*refused.replace("is refused by", "breaks"), false)));
        let passes = |more: &str, outcome, now| said(&decide(more, outcome, now)).is_none();
        assert!(passes("mode = \"audit\"", Outcome::Fail, 0));
        assert!(passes("mode = \"enforce\"", Outcome::Pass, 0));
        for (unknown, refuses) in [("allow", false), ("wait", false), ("deny", true)] {
            let more = format!("mode = \"enforce\"\nunknown = \"{unknown}\"");
            assert_eq!(passes(&more, Outcome::Unknown, 0), !refuses, "{unknown}");
        }
        let exempt = "mode = \"enforce\"\nexempt = [{ image = \"*/app:1\", reason = \"x\", expires = \"1970-01-01T00:01:40Z\" }]";
        assert!(passes(exempt, Outcome::Fail, 99));
        assert!(!passes(exempt, Outcome::Fail, 100), "it has expired");
    }

    #[test]
    fn what_could_not_be_judged_is_refused_where_nothing_unknown_may_pass() {
        let decide = |unknown: &str| {
            let text = format!(
                "[[policy]]\nname = \"p\"\nimages = [\"docker.io/*\"]\nnon_root = true\nmode = \"enforce\"\nunknown = \"{unknown}\""
            );
            let (policies, names) = (policies(&text), [NAME.to_owned()]);
            policies.decide(&names, |rules| rules.unknown("could not be judged"), SystemTime::UNIX_EPOCH)
        };
        let denied = decide("deny");
        assert!(
            said(&denied).is_some_and(|(text, refuses)| refuses && text.contains("it could not be judged (non_root)"))
        );
        for served in ["allow", "wait"] {
            assert!(said(&decide(served)).is_none(), "{served}");
        }
        let two = ["docker.io/a:1".to_owned(), "ghcr.io/a:1".to_owned()];
        let text = "[[policy]]\nname = \"p\"\nimages = [\"docker.io/*\"]\nnon_root = true\nmode = \"enforce\"";
        let fails = |_: &Rules| vec![verdict(Rule::NonRoot, Outcome::Fail)];
        assert!(said(&policies(text).decide(&two, fails, SystemTime::UNIX_EPOCH)).is_some());
    }

    #[test]
    fn what_a_rule_refused_is_counted_and_a_policy_that_stays_counts_on() {
        let tables = |mode| {
            let text =
                format!("[[policy]]\nname = \"p\"\nimages = [\"*\"]\nnon_root = true\nlint = true\nmode = \"{mode}\"");
            toml::from_str::<File>(&text).unwrap().policy
        };
        let policies = made(&tables("enforce"));
        let verdicts = [Rule::NonRoot, Rule::Lint].map(|rule| verdict(rule, Outcome::Fail));
        let Decision::Refuse(breach) = policies.all()[0].decide(NAME, &verdicts, SystemTime::UNIX_EPOCH) else {
            panic!("it is refused")
        };
        breach.count();
        let counts = |policies: &Policies| policies.all()[0].counts().collect::<Vec<_>>();
        assert_eq!(counts(&policies), [(Rule::NonRoot, 1), (Rule::Lint, 1)], "every rule that is broken");
        assert_eq!(counts(&made(&tables("enforce")).after(&policies))[0].1, 1);
        assert_eq!(counts(&made(&tables("warn")).after(&policies))[0].1, 0, "a warning is no refusal");
    }

    #[test]
    fn several_broken_rules_are_counted_and_the_more_lenient_of_two_decisions_wins() {
        let policies = policies("[[policy]]\nname = \"p\"\nimages = [\"*\"]\nmode = \"enforce\"");
        let verdicts = [Rule::NonRoot, Rule::MaxAge, Rule::MaxSize].map(|rule| verdict(rule, Outcome::Fail));
        let decision = policies.find(NAME).unwrap().decide(NAME, &verdicts, SystemTime::UNIX_EPOCH);
        let (text, _) = said(&decision).unwrap();
        assert!(text.contains("(non_root) and breaks 2 other rules;"), "{text}");
        let breach = || Arc::new(Breach { sentence: String::new(), counts: Vec::new() });
        let (warn, refuse) = (|| Decision::Warn(breach()), || Decision::Refuse(breach()));
        let refuses = |decision: Decision| said(&decision).map(|(_, refuses)| refuses);
        assert_eq!(refuses(refuse().or(warn())), Some(false));
        assert_eq!(refuses(warn().or(refuse())), Some(false));
        assert_eq!(refuses(refuse().or(Decision::Pass)), None);
    }
}
