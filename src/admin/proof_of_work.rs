//! The human test: [ALTCHA](https://altcha.org)'s proof of work, version 2. It shows that a browser worked for some seconds, not that a
//! human sits before it; login, reading and confirming are the rest.
//!
//! The crate makes and verifies challenges, and accepts a solution as often as it is sent. Here it counts once: a challenge names its ban in
//! what is signed, and its nonce is remembered for the session that it was issued to and forgotten when any solution arrives.
//!
//! Of ALTCHA's functions it is iterated SHA-256. The browser's own SHA-256 needs a secure context and a promise for each
//! hash; a page over plain HTTP has none, and 2 million promises take minutes. `pages/assets/proof_of_work.js` needs neither. ALTCHA's
//! widget refuses to run without a secure context, and that is why it is not used.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use altcha::{CreateChallengeOptions, Payload, VerifySolutionOptions, create_challenge, verify_solution};
use base64::{Engine as _, prelude::BASE64_STANDARD};

use moka::sync::Cache;
use sha2::{Digest as _, Sha256};

use crate::{identity::session::SessionId, random};

/// SHA-256 operations per try.
const COST: u32 = 1000;
/// How many tries it takes: between so many and twice as many. About two seconds of a laptop, ten of an old telephone.
const TRIES: u32 = 1500;
/// A challenge expires after so long: time to read, and to be called away.
const VALID: Duration = Duration::from_secs(15 * 60);
/// Challenges that are remembered, one for each session.
const CHALLENGES: u64 = 10_000;
/// The longest solution that is looked at, in bytes; one is about 700.
pub(super) const LONGEST: usize = 4096;

/// Why a solution does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SolutionError {
    /// No field, or not of the form.
    #[error("the human test was not solved; it needs JavaScript and a few seconds")]
    Missing,
    /// A nonce that this session was not set, or has handed in before.
    #[error("this solution of the human test was used before, or was not set to you; solve the new one")]
    Replayed,
    /// Set for another ban.
    #[error("this solution of the human test is for another ban")]
    Foreign,
    /// Too late.
    #[error("the human test has expired; solve the new one")]
    Expired,
    /// It does not solve it, or was not set here.
    #[error("this is not the solution of the human test")]
    Unsolved,
}

/// A challenge that was issued and not yet answered.
#[derive(Clone, Debug)]
struct Challenge {
    /// For lifting which ban.
    ban: String,
    nonce: String,
}

/// Issues challenges and verifies their solutions.
pub(super) struct ProofOfWork {
    signature: String,
    key_signature: String,
    issued: Cache<[u8; 32], Challenge>,
}

impl ProofOfWork {
    pub(super) fn new() -> ProofOfWork {
        let issued = Cache::builder().max_capacity(CHALLENGES).time_to_live(VALID).build();
        ProofOfWork { signature: random::token(), key_signature: random::token(), issued }
    }

    /// A challenge as JSON; an earlier one of this session is void. Costs a thousand hashes.
    pub(super) fn issue(&self, session: &SessionId, ban: &str, now: SystemTime) -> Option<String> {
        let expires = (now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() + VALID).as_secs();
        let challenge = create_challenge(CreateChallengeOptions {
            algorithm: "SHA-256".to_owned(),
            cost: COST,
            counter: Some(TRIES + (random::number() % u64::from(TRIES)) as u32),
            data: Some(BTreeMap::from([("ban".to_owned(), ban.into())])),
            expires_at: i64::try_from(expires).ok(),
            hmac_signature_secret: Some(self.signature.clone()),
            hmac_key_signature_secret: Some(self.key_signature.clone()),
            ..CreateChallengeOptions::default()
        })
        .ok()?;
        let json = serde_json::to_string(&challenge).ok()?;
        self.issued.insert(key(session), Challenge { ban: ban.to_owned(), nonce: challenge.parameters.nonce });
        Some(json)
    }

    /// Whether `offered`, what the form sent, solves the challenge that this session was issued for lifting `ban`. A challenge is
    /// answered once, whatever comes of it.
    ///
    /// # Errors
    /// A sentence for the person who tried.
    pub(super) fn verify(&self, session: &SessionId, offered: &str, ban: &str) -> Result<(), SolutionError> {
        let issued = self.issued.remove(&key(session));
        let offered = Some(offered).filter(|offered| !offered.is_empty() && offered.len() <= LONGEST);
        let json = offered.and_then(|offered| BASE64_STANDARD.decode(offered).ok()).ok_or(SolutionError::Missing)?;
        let payload: Payload = serde_json::from_slice(&json).map_err(|_| SolutionError::Missing)?;
        let nonce = &payload.challenge.parameters.nonce;
        let issued = issued.filter(|issued| issued.nonce == *nonce).ok_or(SolutionError::Replayed)?;
        let named = payload.challenge.parameters.data.as_ref().and_then(|data| data.get("ban"));
        if issued.ban != ban || named.and_then(|named| named.as_str()) != Some(ban) {
            return Err(SolutionError::Foreign);
        }
        let result = verify_solution(VerifySolutionOptions {
            hmac_key_signature_secret: Some(self.key_signature.clone()),
            ..VerifySolutionOptions::new(&payload.challenge, &payload.solution, &self.signature)
        });
        match result {
            Ok(result) if result.verified => Ok(()),
            Ok(result) if result.expired => Err(SolutionError::Expired),
            _ => Err(SolutionError::Unsolved),
        }
    }
}

/// What a session is remembered by: not what its browser sends.
fn key(session: &SessionId) -> [u8; 32] {
    Sha256::digest(session.text()).into()
}

#[cfg(test)]
mod tests {
    use altcha::{SolveChallengeOptions, solve_challenge};

    use super::*;

    fn solve(challenge: &str) -> String {
        let challenge: altcha::Challenge = serde_json::from_str(challenge).unwrap();
        let solution = solve_challenge(SolveChallengeOptions::new(&challenge)).unwrap().unwrap();
        BASE64_STANDARD.encode(serde_json::to_vec(&Payload { challenge, solution }).unwrap())
    }

    #[test]
    fn a_solution_counts_once_for_its_ban_and_its_session() {
        let proof_of_work = ProofOfWork::new();
        let (own, other) = (SessionId::random(), SessionId::random());
        let issue = |proof_of_work: &ProofOfWork| proof_of_work.issue(&own, "3f2a", SystemTime::now()).unwrap();
        let replaced = solve(&issue(&proof_of_work));
        let solution = solve(&issue(&proof_of_work));
        assert_eq!(proof_of_work.verify(&other, &solution, "3f2a"), Err(SolutionError::Replayed), "not issued to it");
        assert_eq!(proof_of_work.verify(&own, &solution, "3f2a"), Ok(()));
        assert_eq!(proof_of_work.verify(&own, &solution, "3f2a"), Err(SolutionError::Replayed), "answered");
        issue(&proof_of_work);
        assert_eq!(proof_of_work.verify(&own, &replaced, "3f2a"), Err(SolutionError::Replayed), "void");
        let solution = solve(&issue(&proof_of_work));
        assert_eq!(proof_of_work.verify(&own, &solution, "77"), Err(SolutionError::Foreign));
        for bad in ["", "!", "e30=", &"A".repeat(5000)] {
            assert_eq!(proof_of_work.verify(&own, bad, "3f2a"), Err(SolutionError::Missing), "{bad:.20}");
        }
    }

    #[test]
    fn a_challenge_cannot_be_made_easier_or_last_longer() {
        let proof_of_work = ProofOfWork::new();
        let own = SessionId::random();
        let challenge = proof_of_work.issue(&own, "3f2a", SystemTime::now()).unwrap();
        let mut easier: altcha::Challenge = serde_json::from_str(&challenge).unwrap();
        easier.parameters.key_prefix = String::new();
        let easier = solve(&serde_json::to_string(&easier).unwrap());
        assert_eq!(proof_of_work.verify(&own, &easier, "3f2a"), Err(SolutionError::Unsolved));

        let past = SystemTime::now() - VALID - Duration::from_secs(2);
        let challenge = proof_of_work.issue(&own, "3f2a", past).unwrap();
        assert_eq!(proof_of_work.verify(&own, &solve(&challenge), "3f2a"), Err(SolutionError::Expired));
    }
}
