//! What a rule says of an image.

/// A rule, by the name that `[[policy]]`, metrics and reports use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// It does not start as root.
    NonRoot,
    /// Its config, history and layers hold no credentials.
    NoSecrets,
    /// It is not too old.
    MaxAge,
    /// It has been in the cache for long enough.
    MinAge,
    /// It exposes no port that takes root to listen on, as root.
    NoLowPorts,
    /// Its base is known, and may be used.
    TrustedBase,
    /// Its base has not moved on since.
    FreshBase,
    /// It has nothing with which to build or to break in.
    Minimal,
    /// It has no program that runs as another user, and no file that every user may write.
    NoSetuid,
    /// A scanner found no critical vulnerability lately.
    NoCritical,
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
    pub const ALL: [Rule; 14] = [
        Rule::NonRoot,
        Rule::NoSecrets,
        Rule::MaxAge,
        Rule::MinAge,
        Rule::NoLowPorts,
        Rule::TrustedBase,
        Rule::FreshBase,
        Rule::Minimal,
        Rule::NoSetuid,
        Rule::NoCritical,
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
            Rule::MinAge => "min_age",
            Rule::NoLowPorts => "no_low_ports",
            Rule::TrustedBase => "trusted_base",
            Rule::FreshBase => "fresh_base",
            Rule::Minimal => "minimal",
            Rule::NoSetuid => "no_setuid",
            Rule::NoCritical => "no_critical",
            Rule::MaxSize => "max_size",
            Rule::Signed => "signed",
            Rule::Attested => "attested",
            Rule::Lint => "lint",
        }
    }
}

impl Rule {
    /// What it wants, as a sentence.
    pub fn wanted(self) -> &'static str {
        match self {
            Rule::NonRoot => "An image does not start as root.",
            Rule::NoSecrets => "An image holds no credentials.",
            Rule::MaxAge => "An image is not too old.",
            Rule::MinAge => "An image is not too new.",
            Rule::NoLowPorts => "An image exposes no low port as root.",
            Rule::TrustedBase => "An image is built on a trusted base.",
            Rule::FreshBase => "An image is built on its base as it is now.",
            Rule::Minimal => "An image has nothing with which to build or to break in.",
            Rule::NoSetuid => "An image has no setuid file, and none that every user may write.",
            Rule::NoCritical => "A scanner finds no critical vulnerability in an image.",
            Rule::MaxSize => "An image is not too large.",
            Rule::Signed => "An image is signed.",
            Rule::Attested => "An image has an SBOM and provenance.",
            Rule::Lint => "The history of an image breaks no rule that hadolint calls an error.",
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
