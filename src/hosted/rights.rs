//! Who may pull, push and delete. Pure.
//!
//! Every client may pull, but under `private` only accounts whose `pull` names the repository; for all others it does not
//! exist. Accounts whose `push` and `delete` name it may push and delete, and with `anonymous_push` every client may.

use super::{Error, Settings};
use crate::{
    client::{Client, ClientKey},
    oci::{Name, matches},
};

/// What a client wants to do to a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Read it.
    Pull,
    /// Add to it, and move its tags.
    Push,
    /// Remove from it.
    Delete,
}

pub(super) fn may(settings: &Settings, client: &Client, right: Right, name: &Name) -> Result<(), Error> {
    let among = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name.as_str()));
    let account = match &client.key {
        ClientKey::Principal(account) => Some(account),
        ClientKey::Address(_) => None,
    };
    let (allowed, verb) = match right {
        Right::Pull => {
            let allowed = !among(&settings.private) || account.is_some() && among(&client.pull);
            return if allowed { Ok(()) } else { Err(Error::NameUnknown) };
        }
        Right::Push => (settings.anonymous_push || among(&client.push), "push to"),
        Right::Delete => (settings.anonymous_push || among(&client.delete), "delete from"),
    };
    match account {
        _ if allowed => Ok(()),
        None => Err(Error::Login),
        Some(account) => Err(Error::Denied(format!("{account} may not {verb} {name}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn client(name: Option<&str>, patterns: [&str; 3]) -> Client {
        let [pull, push, delete] = patterns.map(|pattern| Arc::from([pattern.to_owned()]));
        let key = match name {
            Some(name) => ClientKey::Principal(name.into()),
            None => ClientKey::Address([192, 0, 2, 1].into()),
        };
        let address = [192, 0, 2, 1].into();
        Client { key, pull, push, delete, ..Client::anonymous(address, address) }
    }

    #[test]
    fn everybody_pulls_what_is_not_private_and_only_the_named_push_and_delete() {
        let settings = Settings { private: vec!["local/secret/*".into()], ..Settings::default() };
        let (anonymous, ann) = (client(None, [""; 3]), client(Some("ann"), ["local/secret/a", "local/*", "local/own"]));
        let answer = |client: &Client, right, name: &str| match may(&settings, client, right, &name.parse().unwrap()) {
            Ok(()) => "yes",
            Err(Error::Login) => "who?",
            Err(Error::Denied(_)) => "no",
            Err(Error::NameUnknown) => "absent",
            Err(_) => "?",
        };
        for (client, right, name, expected) in [
            (&anonymous, Right::Pull, "local/a", "yes"),
            (&anonymous, Right::Push, "local/a", "who?"),
            (&anonymous, Right::Delete, "local/a", "who?"),
            (&anonymous, Right::Pull, "local/secret/a", "absent"),
            (&ann, Right::Pull, "local/secret/a", "yes"),
            (&ann, Right::Pull, "local/secret/b", "absent"),
            (&ann, Right::Push, "local/secret/b", "yes"),
            (&ann, Right::Push, "other/a", "no"),
            (&ann, Right::Delete, "local/own", "yes"),
            (&ann, Right::Delete, "local/a", "no"),
        ] {
            assert_eq!(answer(client, right, name), expected, "{right:?} {name}");
        }
        let open = Settings { anonymous_push: true, ..settings };
        assert!(may(&open, &anonymous, Right::Push, &"local/a".parse().unwrap()).is_ok());
        assert!(may(&open, &anonymous, Right::Delete, &"local/a".parse().unwrap()).is_ok());
        assert!(may(&open, &anonymous, Right::Pull, &"local/secret/a".parse().unwrap()).is_err());
    }
}
