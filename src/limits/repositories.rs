//! Which repositories of an upstream are mirrored: the `allow` and `deny` patterns of `[[upstream]]`, and what each refused.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::oci::{Name, matches};

/// The rules of all upstreams. Cloning shares the counts.
#[derive(Clone, Debug, Default)]
pub struct RepositoryRules(Vec<RepositoryRule>);

/// One pattern of `deny`, or all of `allow`.
#[derive(Clone, Debug)]
pub struct RepositoryRule {
    /// The upstream's configured name.
    pub upstream: Arc<str>,
    /// Whether the patterns refuse what they name, or everything else.
    pub verdict: Verdict,
    /// Patterns of repositories, as upstream names them.
    pub patterns: Vec<String>,
    refused: Arc<AtomicU64>,
}

/// What the patterns of a rule are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What they name is not mirrored.
    Deny,
    /// Nothing else is mirrored.
    Allow,
}

impl Verdict {
    /// The key of `[[upstream]]`, as metrics and JSON name it.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Deny => "deny",
            Verdict::Allow => "allow",
        }
    }
}

impl RepositoryRule {
    fn new(upstream: &Arc<str>, verdict: Verdict, patterns: Vec<String>) -> RepositoryRule {
        RepositoryRule { upstream: upstream.clone(), verdict, patterns, refused: Arc::default() }
    }

    /// Requests that it refused since the start, or since its patterns changed.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn refuses(&self, upstream: &str, repository: &Name) -> bool {
        let is_named = || self.patterns.iter().any(|pattern| matches(pattern, repository.as_str()));
        *self.upstream == *upstream && is_named() == (self.verdict == Verdict::Deny)
    }

    fn is_like(&self, other: &RepositoryRule) -> bool {
        self.upstream == other.upstream && self.verdict == other.verdict && self.patterns == other.patterns
    }
}

impl RepositoryRules {
    /// Of each upstream: its name, `allow` and `deny`.
    pub fn new<'a>(upstreams: impl IntoIterator<Item = (&'a Arc<str>, &'a [String], &'a [String])>) -> RepositoryRules {
        let mut rules = Vec::new();
        for (upstream, allow, deny) in upstreams {
            // What allows everything costs a request nothing.
            if !allow.iter().any(|pattern| pattern == "*") {
                rules.push(RepositoryRule::new(upstream, Verdict::Allow, allow.to_vec()));
            }
            let denied = |pattern: &String| RepositoryRule::new(upstream, Verdict::Deny, vec![pattern.clone()]);
            rules.extend(deny.iter().map(denied));
        }
        RepositoryRules(rules)
    }

    /// The same, with the counts of the rules that stood here before.
    pub(super) fn counting_on(mut self, old: &RepositoryRules) -> RepositoryRules {
        for rule in &mut self.0 {
            if let Some(before) = old.0.iter().find(|before| before.is_like(rule)) {
                rule.refused = before.refused.clone();
            }
        }
        self
    }

    /// All of them.
    pub fn all(&self) -> &[RepositoryRule] {
        &self.0
    }

    /// Whether a repository is not mirrored. Counts nothing.
    pub fn refuses(&self, upstream: &str, repository: &Name) -> bool {
        self.0.iter().any(|rule| rule.refuses(upstream, repository))
    }

    /// The sentence for a client that asks for a repository that is not mirrored; counts it.
    pub fn refuse(&self, upstream: &str, repository: &Name) -> Option<String> {
        let rule = self.0.iter().find(|rule| rule.refuses(upstream, repository))?;
        rule.refused.fetch_add(1, Ordering::Relaxed);
        let why = match rule.verdict {
            Verdict::Deny => format!("its operator denies {} of {upstream}", rule.patterns.join(", ")),
            Verdict::Allow => format!("its operator allows only other repositories of {upstream}"),
        };
        Some(format!("{upstream}/{repository} is not mirrored here: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: &[&str], deny: &[&str]) -> RepositoryRules {
        let texts = |patterns: &[&str]| patterns.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<_>>();
        RepositoryRules::new([(&Arc::from("docker.io"), &*texts(allow), &*texts(deny))])
    }

    fn sentence(rules: &RepositoryRules, repository: &str) -> Option<String> {
        rules.refuse("docker.io", &repository.parse().unwrap())
    }

    #[test]
    fn what_is_denied_or_not_allowed_is_refused_at_its_own_upstream_alone() {
        let rules = rules(&["library/*", "acme/*"], &["library/nginx", "*/secret"]);
        assert_eq!(sentence(&rules, "library/busybox"), None);
        assert_eq!(sentence(&rules, "acme/app"), None);
        let denied = "docker.io/library/nginx is not mirrored here: its operator denies library/nginx of docker.io";
        assert_eq!(sentence(&rules, "library/nginx").unwrap(), denied);
        assert_eq!(sentence(&rules, "acme/secret").unwrap().split("denies ").nth(1), Some("*/secret of docker.io"));
        let others = "docker.io/other/x is not mirrored here: its operator allows only other repositories of docker.io";
        assert_eq!(sentence(&rules, "other/x").unwrap(), others);
        assert_eq!(rules.refuse("ghcr.io", &"other/x".parse().unwrap()), None);
        let counts: Vec<_> = rules.all().iter().map(|rule| (rule.verdict, rule.refused())).collect();
        assert_eq!(counts, [(Verdict::Allow, 1), (Verdict::Deny, 1), (Verdict::Deny, 1)]);
    }

    #[test]
    fn a_rule_that_stays_counts_on_and_a_new_one_begins() {
        let old = rules(&["*"], &["a/*", "b/*"]);
        assert!(sentence(&old, "a/x").is_some() && sentence(&old, "b/x").is_some());
        let new = rules(&["*"], &["b/*", "c/*"]).counting_on(&old);
        assert!(sentence(&new, "b/y").is_some() && sentence(&new, "a/x").is_none());
        assert_eq!(new.all().iter().map(RepositoryRule::refused).collect::<Vec<_>>(), [2, 0]);
    }
}
