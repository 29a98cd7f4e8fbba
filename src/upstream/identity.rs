//! As whom an upstream is asked.

use std::sync::Arc;

/// As whom upstream is asked: anonymous, or one of the accounts. A budget belongs to an identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// The upstream's configured name.
    pub upstream: Arc<str>,
    /// `None` is anonymous.
    pub account: Option<Arc<str>>,
}

impl Identity {
    /// How one who has no account is called.
    pub const ANONYMOUS: &'static str = "anonymous";

    /// The account's user name, or [`Identity::ANONYMOUS`].
    pub fn name(&self) -> &str {
        self.account.as_deref().unwrap_or(Identity::ANONYMOUS)
    }

    /// Who else may spend from its budget, as the subject of a sentence.
    pub fn others(&self) -> &'static str {
        match self.account {
            None => "others behind the same address spend from this budget",
            Some(_) => "others who use the same account spend from this budget",
        }
    }
}

/// `docker.io as anonymous`: what pages show, and the key of a budget in the history.
impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} as {}", self.upstream, self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_those_who_share_the_address_or_the_account() {
        let others =
            |account: Option<&str>| Identity { upstream: "docker.io".into(), account: account.map(Arc::from) }.others();
        assert_eq!(others(None), "others behind the same address spend from this budget");
        assert_eq!(others(Some("ci")), "others who use the same account spend from this budget");
    }
}
