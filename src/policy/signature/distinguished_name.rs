//! Who a certificate of Notation is of: the trusted identities of its trust policy, such as `x509.subject: C=US, O=Acme`.

use x509_cert::{
    der::{Tag, Tagged as _},
    name::RdnSequence,
};

/// An identity that is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// Whatever the roots issued.
    Any,
    /// A subject with these attributes, and perhaps others: dotted object identifiers and values.
    Subject(Vec<(&'static str, String)>),
}

/// The attributes that stand in the subjects of code signing certificates (RFC 4514 section 3).
const NAMES: [(&str, &str); 6] =
    [("CN", "2.5.4.3"), ("C", "2.5.4.6"), ("L", "2.5.4.7"), ("ST", "2.5.4.8"), ("O", "2.5.4.10"), ("OU", "2.5.4.11")];

impl Identity {
    /// Reads an identity as Notation's trust policy writes it.
    ///
    /// # Errors
    /// What is wrong with it, as a part of a sentence.
    pub(super) fn parse(text: &str) -> Result<Identity, String> {
        if text == "*" {
            return Ok(Identity::Any);
        }
        let wrong = || format!(r#"the identity {text:?} is none; write "x509.subject: C=US, O=Acme" or "*""#);
        let attributes = text.strip_prefix("x509.subject:").ok_or_else(wrong)?;
        let attribute = |text: String| {
            let (name, value) = text.split_once('=')?;
            let (_, identifier) = NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name.trim()))?;
            let value = value.trim();
            (!value.is_empty()).then(|| (*identifier, value.to_owned()))
        };
        let attributes = split(attributes).into_iter().map(attribute).collect::<Option<Vec<_>>>();
        attributes.filter(|attributes| !attributes.is_empty()).map(Identity::Subject).ok_or_else(wrong)
    }

    /// Whether it is that of this subject.
    pub(super) fn is_of(&self, subject: &RdnSequence) -> bool {
        let Identity::Subject(wanted) = self else { return true };
        let found: Vec<(String, String)> = subject
            .0
            .iter()
            .flat_map(|set| set.0.iter())
            .filter_map(|it| Some((it.oid.to_string(), text(it)?)))
            .collect();
        wanted.iter().all(|(name, value)| {
            let mut of_name = found.iter().filter(|(found, _)| found == name);
            of_name.any(|(_, found)| found == value)
        })
    }
}

fn text(attribute: &x509_cert::attr::AttributeTypeAndValue) -> Option<String> {
    let value = &attribute.value;
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String => {
            std::str::from_utf8(value.value()).ok().map(str::to_owned)
        }
        _ => None,
    }
}

/// The parts between commas that no backslash precedes, without the backslashes.
fn split(text: &str) -> Vec<String> {
    let (mut parts, mut letters) = (vec![String::new()], text.chars());
    while let Some(letter) = letters.next() {
        match (letter, parts.last_mut()) {
            (',', _) => parts.push(String::new()),
            ('\\', Some(part)) => part.extend(letters.next()),
            (_, Some(part)) => part.push(letter),
            (_, None) => {}
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;

    #[test]
    fn an_identity_is_of_each_subject_that_has_its_attributes() {
        let subject = RdnSequence::from_str("CN=signer,O=Acme\\, Inc.,ST=WA,C=US").unwrap();
        for (identity, expected) in [
            ("*", true),
            ("x509.subject: C=US", true),
            ("x509.subject: C=US, ST=WA, O=Acme\\, Inc.", true),
            ("x509.subject: cn=signer", true),
            ("x509.subject: C=US, O=Acme", false),
            ("x509.subject: OU=Acme\\, Inc.", false),
            ("x509.subject: C=us", false),
        ] {
            assert_eq!(Identity::parse(identity).unwrap().is_of(&subject), expected, "{identity}");
        }
        for wrong in ["", "C=US", "x509.subject:", "x509.subject: C", "x509.subject: C=", "x509.subject: X=1"] {
            assert!(Identity::parse(wrong).unwrap_err().contains("write"), "{wrong}");
        }
    }
}
