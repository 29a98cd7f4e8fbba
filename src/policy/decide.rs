//! What becomes of an image: the first policy that is for it, its rules, and the sentence for the client.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    judge::Rules,
    settings::{Mode, Table, Unknown},
    verdict::{Outcome, Rule, Verdict},
};
use crate::oci::matches;

/// What becomes of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is served.
    Pass,
    /// It is served with this sentence.
    Warn(Arc<str>),
    /// It is refused with this sentence.
    Refuse(Arc<str>),
}

/// A policy, ready to be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    table: Table,
    rules: Rules,
}

/// All policies, in their order. None costs nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policies(Vec<Policy>);

impl Policies {
    /// The policies of these tables.
    pub fn new(tables: &[Table]) -> Policies {
        Policies(tables.iter().cloned().map(Policy::new).collect())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The policy for an image by its full name, `docker.io/library/busybox:1.36`: the first that matches.
    pub fn find(&self, name: &str) -> Option<&Policy> {
        self.0.iter().find(|policy| policy.is_for(name))
    }
}

impl Policy {
    fn new(table: Table) -> Policy {
        let wanted = [
            (Rule::NonRoot, table.non_root),
            (Rule::NoSecrets, table.no_secrets),
            (Rule::MaxAge, table.max_age.is_some()),
            (Rule::NoLowPorts, table.no_low_ports),
            (Rule::TrustedBase, !table.trusted_base.is_empty()),
            (Rule::MaxSize, table.max_size.is_some()),
            (Rule::Lint, table.lint),
        ];
        let rules = Rules {
            rules: wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(rule, _)| rule).collect(),
            max_age: table.max_age.map_or(Duration::MAX, |span| span.0),
            max_size: table.max_size.map_or(u64::MAX, |size| size.0),
            trusted_base: table.trusted_base.clone(),
        };
        Policy { table, rules }
    }

    fn is_for(&self, name: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
        any(&self.table.images) && !any(&self.table.except)
    }

    /// What it holds images to.
    pub fn rules(&self) -> &Rules {
        &self.rules
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
        let mut broken = verdicts.iter().filter(is_broken);
        let is_exempt = || self.table.exempt.iter().any(|it| matches(&it.image, name) && now < it.expires);
        let Some(first) = broken.next().filter(|_| self.acts() && !is_exempt()) else { return Decision::Pass };
        let (policy, rule) = (&self.table.name, first.rule.as_str());
        let more = match broken.count() {
            0 => String::new(),
            1 => " and breaks another rule".to_owned(),
            more => format!(" and breaks {more} other rules"),
        };
        let mut end =
            format!("the policy {policy} of this mirror: it {} ({rule}){more}; {}", first.finding, first.mend);
        if !self.table.contact.is_empty() {
            end += &format!("; ask {}", self.table.contact);
        }
        match self.table.mode {
            Mode::Enforce => Decision::Refuse(format!("{name} is refused by {end}").into()),
            _ => Decision::Warn(format!("{name} breaks {end}").into()),
        }
    }
}

impl Decision {
    /// The more lenient of two.
    pub fn or(self, other: Decision) -> Decision {
        match (self, other) {
            (Decision::Pass, _) | (_, Decision::Pass) => Decision::Pass,
            (Decision::Refuse(_), other) => other,
            (decision, _) => decision,
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
        Policies::new(&file.policy)
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
        assert!(Policies::new(&[]).is_empty() && Policies::new(&[]).find(NAME).is_none());
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
        assert_eq!(decide("mode = \"enforce\"", Outcome::Fail, 0), Decision::Refuse(refused.into()));
        let asked = format!("{refused}; ask the platform team");
        let contact = "mode = \"enforce\"\ncontact = \"the platform team\"";
        assert_eq!(decide(contact, Outcome::Fail, 0), Decision::Refuse(asked.into()));
        assert!(matches!(decide("mode = \"warn\"", Outcome::Fail, 0), Decision::Warn(_)));
        assert_eq!(decide("mode = \"audit\"", Outcome::Fail, 0), Decision::Pass);
        assert_eq!(decide("mode = \"enforce\"", Outcome::Pass, 0), Decision::Pass);
        for (unknown, refuses) in [("allow", false), ("wait", false), ("deny", true)] {
            let more = format!("mode = \"enforce\"\nunknown = \"{unknown}\"");
            assert_eq!(decide(&more, Outcome::Unknown, 0) != Decision::Pass, refuses, "{unknown}");
        }
        let exempt = "mode = \"enforce\"\nexempt = [{ image = \"*/app:1\", reason = \"x\", expires = \"1970-01-01T00:01:40Z\" }]";
        assert_eq!(decide(exempt, Outcome::Fail, 99), Decision::Pass);
        assert_ne!(decide(exempt, Outcome::Fail, 100), Decision::Pass, "it has expired");
    }

    #[test]
    fn several_broken_rules_are_counted_and_the_more_lenient_of_two_decisions_wins() {
        let policies = policies("[[policy]]\nname = \"p\"\nimages = [\"*\"]\nmode = \"enforce\"");
        let verdicts = [Rule::NonRoot, Rule::MaxAge, Rule::MaxSize].map(|rule| verdict(rule, Outcome::Fail));
        let Decision::Refuse(text) = policies.find(NAME).unwrap().decide(NAME, &verdicts, SystemTime::UNIX_EPOCH)
        else {
            panic!("it is refused")
        };
        assert!(text.contains("(non_root) and breaks 2 other rules;"), "{text}");
        let [warn, refuse] = [Decision::Warn("".into()), Decision::Refuse("".into())];
        assert_eq!(refuse.clone().or(warn.clone()), warn);
        assert_eq!(warn.clone().or(refuse.clone()), warn);
        assert_eq!(refuse.or(Decision::Pass), Decision::Pass);
    }
}
