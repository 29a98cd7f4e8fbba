//! How the suite logs in: Basic where the registry asks for that, else a token from the realm that the registry names.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use url::Url;

use crate::{
    check::Failure,
    client::{Authorities, Client, Request, Response},
};

/// What is known of how to log in, by scope.
pub(super) struct Tokens {
    basic: Option<String>,
    authorities: Authorities,
    known: Mutex<BTreeMap<String, String>>,
}

/// Nothing of a credential is printed.
impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    /// With these credentials, if any.
    pub(super) fn new(credentials: Option<(String, String)>, authorities: Authorities) -> Tokens {
        let basic =
            credentials.map(|(name, password)| format!("Basic {}", STANDARD.encode(format!("{name}:{password}"))));
        Tokens { basic, authorities, known: Mutex::default() }
    }

    /// What to send for a scope.
    pub(super) fn header(&self, scope: &str) -> Option<String> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(scope).cloned()
    }

    /// Whether this 401 led to something new to send. An error when the registry's realm did not answer as it should.
    pub(super) async fn answer(&self, challenge: &Response, scope: &str) -> Result<bool, Failure> {
        let Some(value) = challenge.head.header("www-authenticate") else { return Ok(false) };
        let new = match value.split_once(' ') {
            Some((kind, _)) if kind.eq_ignore_ascii_case("basic") => self.basic.clone(),
            Some((kind, words)) if kind.eq_ignore_ascii_case("bearer") => Some(self.token(words, scope).await?),
            _ => None,
        };
        let Some(new) = new else { return Ok(false) };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(known.insert(scope.to_owned(), new.clone()) != Some(new))
    }

    async fn token(&self, words: &str, scope: &str) -> Result<String, Failure> {
        let word = |name: &str| {
            let start = words.find(&format!("{name}=\""))? + name.len() + 2;
            Some(&words[start..start + words[start..].find('"')?])
        };
        let realm = word("realm").ok_or_else(|| format!("a challenge without a realm: {words}"))?;
        let mut url = Url::parse(realm).map_err(|e| format!("realm {realm}: {e}"))?;
        if let Some(service) = word("service") {
            url.query_pairs_mut().append_pair("service", service);
        }
        if !scope.is_empty() {
            url.query_pairs_mut().append_pair("scope", scope);
        }
        let client = Client::of(&url, &self.authorities).await?;
        let mut request = Request::get(format!("{}?{}", url.path(), url.query().unwrap_or_default()));
        if let Some(basic) = &self.basic {
            request = request.with("Authorization", basic);
        }
        let answer = client.send(&request).await?;
        let json = answer.json();
        let token = json.get("token").or(json.get("access_token")).and_then(|token| token.as_str());
        Ok(format!("Bearer {}", token.ok_or_else(|| format!("{realm}: no token: {}", answer.describe()))?))
    }
}
