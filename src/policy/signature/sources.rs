//! `signed` of `[[policy]]`: whose signatures count.

use serde::{Deserialize, Serialize};

/// One of those whose signatures count: a key, an identity of which trusted roots vouch, or certificates of Notation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedBy {
    /// A public key in PEM, or the file that holds one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The repository in the payload must be that of the image.
    #[serde(default)]
    pub same_repository: bool,
    /// The issuer of identities, as a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// A pattern of the identity: an address, or the URL of a workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The file with the trusted root of sigstore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roots: Option<String>,
    /// The file with the certificates that Notation trusts, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notation: Option<String>,
    /// The identities that are trusted of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<String>,
}

/// How a key in PEM begins.
const PEM: &str = "-----BEGIN";

impl SignedBy {
    /// What is wrong with its shape, as what to write instead.
    pub(in crate::policy) fn fix(&self) -> Option<&'static str> {
        let keyless = [&self.issuer, &self.subject, &self.roots].map(Option::is_some);
        let notation = self.notation.is_some() || !self.identities.is_empty();
        match (self.key.is_some(), keyless.contains(&true), notation) {
            (true, false, false) => None,
            _ if self.same_repository => Some("same_repository goes with key alone; leave it out here"),
            (false, true, false) if !keyless.contains(&false) => None,
            (false, true, false) => {
                Some("write issuer, subject and roots, all three; roots is a file with the trusted root of sigstore")
            }
            (false, false, true) if self.notation.is_some() && !self.identities.is_empty() => None,
            (false, false, true) => Some(
                r#"write notation, a file with certificates, and identities, such as ["x509.subject: C=US, O=Acme"] or ["*"]"#,
            ),
            (false, false, false) => Some("write a key; or issuer, subject and roots; or notation and identities"),
            _ => Some("write one of key, issuer and notation; another one is another entry of signed"),
        }
    }

    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let key = self.key.as_deref().filter(|key| !key.contains(PEM));
        [key, self.roots.as_deref(), self.notation.as_deref()].into_iter().flatten()
    }

    /// The key itself, when it stands in the configuration.
    pub(super) fn inline(&self) -> Option<&str> {
        self.key.as_deref().filter(|key| key.contains(PEM))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_of_one_kind_and_whole() {
        let fix = |text: &str| toml::from_str::<SignedBy>(text).unwrap().fix();
        for sound in [
            "key = \"a\"\nsame_repository = true",
            "issuer = \"a\"\nsubject = \"b\"\nroots = \"c\"",
            "notation = \"a\"\nidentities = [\"*\"]",
        ] {
            assert_eq!(fix(sound), None, "{sound}");
        }
        for (wrong, expected) in [
            ("", "write a key"),
            ("issuer = \"a\"\nroots = \"c\"", "all three"),
            ("subject = \"a\"", "all three"),
            ("notation = \"a\"", "and identities"),
            ("identities = [\"*\"]", "write notation"),
            ("key = \"a\"\nissuer = \"b\"", "another entry"),
            ("key = \"a\"\nnotation = \"b\"", "another entry"),
            ("same_repository = true\nnotation = \"b\"\nidentities = [\"*\"]", "key alone"),
        ] {
            assert!(fix(wrong).is_some_and(|fix| fix.contains(expected)), "{wrong}: {:?}", fix(wrong));
        }
    }
}
