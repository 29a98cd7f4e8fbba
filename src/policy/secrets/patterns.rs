//! Credentials that are known by what their issuer makes them look like. After gitleaks' rules (MIT), those alone that begin with
//! letters of the issuer's own.
//!
//! Matching is linear in the text whatever it holds. A pattern is compiled when the first text has its beginning, and as bytes without
//! Unicode, which takes a fiftieth of the memory.

use std::sync::LazyLock;

use regex::bytes::{Regex, RegexBuilder};

struct Pattern {
    kind: &'static str,
    /// Every match holds one of these.
    begins: &'static [&'static str],
    regex: LazyLock<Option<Regex>>,
}

macro_rules! patterns {
    ($($kind:literal, [$($begin:literal),+], $regex:literal;)+) => {
        static PATTERNS: LazyLock<Vec<Pattern>> = LazyLock::new(|| vec![$(Pattern {
            kind: $kind,
            begins: &[$($begin),+],
            regex: LazyLock::new(|| compile($regex)),
        }),+]);
    };
}

/// A test holds that each compiles.
fn compile(regex: &str) -> Option<Regex> {
    RegexBuilder::new(regex).unicode(false).build().ok()
}

patterns! {
    "a private key", ["PRIVATE KEY"], r"-----BEGIN[ A-Z0-9_-]{0,100}PRIVATE KEY(?: BLOCK)?-----";
    "an AWS access key", ["AKIA", "ASIA", "ABIA", "ACCA"], r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b";
    "a GitHub token", ["ghp_", "gho_", "ghu_", "ghs_", "ghr_"], r"\bgh[pousr]_[0-9A-Za-z]{36}";
    "a GitHub token", ["github_pat_"], r"\bgithub_pat_\w{82}";
    "a GitLab token", ["glpat-", "gldt-", "glrt-", "glptt-", "glcbt-"], r"\bgl(?:pat|dt|rt|ptt|cbt)-[0-9A-Za-z_-]{20}";
    "a Docker Hub token", ["dckr_pat_", "dckr_oat_"], r"\bdckr_[po]at_[A-Za-z0-9_-]{27}";
    "a login of a Docker registry", ["\"auth\""], r#""auth"\s*:\s*"[A-Za-z0-9+/]{12,}={0,2}""#;
    "an npm token", ["npm_"], r"\bnpm_[a-zA-Z0-9]{36}\b";
    "an npm login", ["_authToken="], r"_authToken=[A-Za-z0-9_-][^\s$]{15,}";
    "a PyPI token", ["pypi-AgE"], r"\bpypi-AgEIcHlwaS5vcmc[\w-]{50,}";
    "a RubyGems key", ["rubygems_"], r"\brubygems_[a-f0-9]{48}\b";
    "a Slack token", ["xox"], r"\bxox[abeoprs]-(?:[0-9]{8,13}-)+[a-zA-Z0-9-]{8,}";
    "a Slack webhook", ["hooks.slack.com"], r"hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9+/]{43,56}";
    "a Stripe key", ["sk_live_", "rk_live_", "sk_prod_", "rk_prod_"], r"\b[sr]k_(?:live|prod)_[a-zA-Z0-9]{10,99}\b";
    "a Google API key", ["AIza"], r"\bAIza[\w-]{35}\b";
    "a Google OAuth secret", ["GOCSPX-"], r"\bGOCSPX-[\w-]{28}\b";
    "an Azure storage key", ["AccountKey="], r"AccountKey=[A-Za-z0-9+/]{86}==";
    "a DigitalOcean token", ["_v1_"], r"\bdo[opr]_v1_[a-f0-9]{64}\b";
    "a Hugging Face token", ["hf_"], r"\bhf_[a-zA-Z]{34}\b";
    "an OpenAI key", ["T3BlbkFJ"], r"\bsk-[A-Za-z0-9_-]{20,}T3BlbkFJ[A-Za-z0-9_-]{20,}";
    "an Anthropic key", ["sk-ant-"], r"\bsk-ant-[a-z]{3,5}\d\d-[\w-]{93}AA\b";
    "a SendGrid token", ["SG."], r"\bSG\.[\w-]{22}\.[\w-]{43}\b";
    "a Shopify token", ["shpat_", "shpca_", "shppa_", "shpss_"], r"\bshp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}\b";
    "a Vault token", ["hvs.", "hvb."], r"\bhv[sb]\.[\w-]{90,300}";
    "a Terraform Cloud token", [".atlasv1."], r"\b[A-Za-z0-9]{14}\.atlasv1\.[\w=-]{60,70}";
    "a Grafana token", ["glsa_"], r"\bglsa_[A-Za-z0-9]{32}_[A-Fa-f0-9]{8}\b";
    "a Databricks token", ["dapi"], r"\bdapi[a-f0-9]{32}\b";
    "a Dynatrace token", ["dt0c01."], r"\bdt0c01\.[A-Za-z0-9]{24}\.[A-Za-z0-9]{64}\b";
    "a Pulumi token", ["pul-"], r"\bpul-[a-f0-9]{40}\b";
    "an Artifactory key", ["AKCp"], r"\bAKCp[A-Za-z0-9]{69}\b";
    "an age key", ["AGE-SECRET-KEY-1"], r"AGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}";
    "a JSON Web Token", [".ey"], r"\bey[a-zA-Z0-9_-]{17,}\.ey[a-zA-Z0-9_-]{17,}\.[a-zA-Z0-9_-]{10,}";
    "a password in a URL", ["://"], r"[a-zA-Z][a-zA-Z0-9+.-]{1,20}://[^\s/:@${}<]{1,100}:[^\s/:@${}<*]{3,200}@";
}

/// What AWS and others write in their manuals.
const OF_MANUALS: &[u8] = b"EXAMPLE";

/// The kinds of credential that a text holds.
pub(super) fn kinds(text: &str) -> impl Iterator<Item = &'static str> {
    let may_hold = |pattern: &&Pattern| pattern.begins.iter().any(|begin| text.contains(begin));
    PATTERNS.iter().filter(may_hold).filter(|pattern| pattern.is_in(text.as_bytes())).map(|pattern| pattern.kind)
}

/// All beginnings at once, so that a file that has none of them is read once.
static BEGINNINGS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let begins: Vec<String> =
        PATTERNS.iter().flat_map(|pattern| pattern.begins).map(|begin| regex::escape(begin)).collect();
    compile(&begins.join("|"))
});

/// As [`kinds`], of a file.
pub(super) fn kinds_in(content: &[u8]) -> impl Iterator<Item = &'static str> {
    let has_any = BEGINNINGS.as_ref().is_none_or(|begins| begins.is_match(content));
    let found = move |pattern: &&Pattern| has_any && pattern.is_in(content);
    PATTERNS.iter().filter(found).map(|pattern| pattern.kind)
}

impl Pattern {
    fn is_in(&self, bytes: &[u8]) -> bool {
        let is_real = |found: &[u8]| !found.ends_with(OF_MANUALS);
        self.regex.as_ref().is_some_and(|regex| regex.find_iter(bytes).any(|found| is_real(found.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles_and_finds_what_its_issuer_makes() {
        // In parts, so that no scanner takes this file for a leak.
        let (lower, upper, hex) = ("abcdefghijklm".repeat(8), "ABCDEFGHIJKLM".repeat(8), "0123456789abcdef".repeat(8));
        let tokens = [
            ("a private key", format!("-----BEGIN {} KEY-----", "OPENSSH PRIVATE")),
            ("an AWS access key", format!("AKIA{}", &upper[..16])),
            ("a GitHub token", format!("ghp_{}", &lower[..36])),
            ("a GitHub token", format!("github_pat_{}", &lower[..82])),
            ("a GitLab token", format!("glpat-{}", &lower[..20])),
            ("a Docker Hub token", format!("dckr_pat_{}", &lower[..27])),
            ("a login of a Docker registry", format!(r#"{{"auth": "{}"}}"#, &lower[..20])),
            ("an npm token", format!("npm_{}", &lower[..36])),
            ("an npm login", format!("//registry.npmjs.org/:_authToken={}", &lower[..30])),
            ("a PyPI token", format!("pypi-AgEIcHlwaS5vcmc{}", &lower[..60])),
            ("a RubyGems key", format!("rubygems_{}", &hex[..48])),
            ("a Slack token", format!("xoxb-123456789012-123456789012-{}", &lower[..24])),
            ("a Slack webhook", format!("https://hooks.slack.com/services/{}", &upper[..44])),
            ("a Stripe key", format!("sk_live_{}", &lower[..24])),
            ("a Google API key", format!("AIza{}", &lower[..35])),
            ("a Google OAuth secret", format!("GOCSPX-{}", &lower[..28])),
            ("an Azure storage key", format!("AccountKey={}==", &lower[..86])),
            ("a DigitalOcean token", format!("dop_v1_{}", &hex[..64])),
            ("a Hugging Face token", format!("hf_{}", &lower[..34])),
            ("an OpenAI key", format!("sk-{}T3BlbkFJ{}", &lower[..20], &lower[..20])),
            ("an Anthropic key", format!("sk-ant-api03-{}AA", &lower[..93])),
            ("a SendGrid token", format!("SG.{}.{}", &lower[..22], &lower[..43])),
            ("a Shopify token", format!("shpat_{}", &hex[..32])),
            ("a Vault token", format!("hvs.{}", &lower[..95])),
            ("a Terraform Cloud token", format!("{}.atlasv1.{}", &lower[..14], &lower[..64])),
            ("a Grafana token", format!("glsa_{}_{}", &lower[..32], &hex[..8])),
            ("a Databricks token", format!("dapi{}", &hex[..32])),
            ("a Dynatrace token", format!("dt0c01.{}.{}", &upper[..24], &upper[..64])),
            ("a Pulumi token", format!("pul-{}", &hex[..40])),
            ("an Artifactory key", format!("AKCp{}", &lower[..69])),
            ("an age key", format!("AGE-SECRET-KEY-1{}", "QPZRY9X8GF".repeat(6).get(..58).unwrap())),
            ("a JSON Web Token", format!("ey{}.ey{}.{}", &lower[..20], &lower[..20], &lower[..20])),
            ("a password in a URL", "https://user:correct-horse@proxy.example:3128".to_owned()),
        ];
        let mut wanted: Vec<&str> = PATTERNS.iter().map(|pattern| pattern.kind).collect();
        for (kind, token) in &tokens {
            let found: Vec<&str> = kinds(&format!("A={token} b")).collect();
            assert_eq!(found, [*kind], "{kind}");
            let at = wanted.iter().position(|wanted| wanted == kind).unwrap();
            wanted.remove(at);
        }
        assert_eq!(wanted, Vec::<&str>::new(), "each has an example");
    }

    #[test]
    fn what_manuals_and_templates_write_is_no_secret() {
        for text in [
            "AKIAIOSFODNN7EXAMPLE",
            "https://${USER}:${PASSWORD}@host/",
            "https://user:<password>@host/",
            "http://host:8080/a@b",
            "git@github.com:a/b.git",
            "//registry.npmjs.org/:_authToken=${NPM_TOKEN}",
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ] {
            assert_eq!(kinds(text).collect::<Vec<_>>(), Vec::<&str>::new(), "{text}");
        }
    }
}
