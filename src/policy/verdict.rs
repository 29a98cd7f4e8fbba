//! What a rule says of an image.

/// A rule, by the name that `[[policy]]`, metrics and reports use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// It does not start as root.
    NonRoot,
    /// Its config and history hold no credentials.
    NoSecrets,
    /// It is not too old.
    MaxAge,
    /// It exposes no port that takes root to listen on, as root.
    NoLowPorts,
    /// Its base is known, and may be used.
    TrustedBase,
    /// It is not too large.
    MaxSize,
    /// A signature is known.
    Signed,
    /// An SBOM and provenance are known.
    Attested,
    /// The history breaks no rule that hadolint calls an error.
    Lint,
}

impl Rule {
    /// All of them, in the order in which they are reported.
    pub const ALL: [Rule; 9] = [
        Rule::NonRoot,
        Rule::NoSecrets,
        Rule::MaxAge,
        Rule::NoLowPorts,
        Rule::TrustedBase,
        Rule::MaxSize,
        Rule::Signed,
        Rule::Attested,
        Rule::Lint,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Rule::NonRoot => "non_root",
            Rule::NoSecrets => "no_secrets",
            Rule::MaxAge => "max_age",
            Rule::NoLowPorts => "no_low_ports",
            Rule::TrustedBase => "trusted_base",
            Rule::MaxSize => "max_size",
            Rule::Signed => "signed",
            Rule::Attested => "attested",
            Rule::Lint => "lint",
        }
    }
}

/// Whether an image keeps a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It does.
    Pass,
    /// It does not.
    Fail,
    /// What is known does not say.
    Unknown,
}

impl Outcome {
    /// Its name in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Pass => "pass",
            Outcome::Fail => "fail",
            Outcome::Unknown => "unknown",
        }
    }
}

/// What a rule says of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The rule.
    pub rule: Rule,
    /// Whether it is kept.
    pub outcome: Outcome,
    /// What was found, as a part of a sentence about the image. Never the value of a secret.
    pub finding: String,
    /// How to mend it; empty for what is kept.
    pub mend: &'static str,
}
