//! The human test: [ALTCHA](https://altcha.org)'s proof of work, version 2. It shows that somebody waited, not that somebody is human;
//! login, reading and confirming are the rest.
//!
//! The crate makes and verifies challenges and accepts a solution as often as it is shown. Once is ours: a challenge names its ban in what is
//! signed, and its nonce is remembered in the session that asked and taken out when anything is handed in.
//!
//! Of ALTCHA's functions it is iterated SHA-256. The browser's own SHA-256 needs a secure context and a promise for each
//! hash, which plain HTTP in a LAN does not have and 2 million hashes do not want; ours is plain JavaScript (`assets/proof_of_work.js`) and does both. ALTCHA's
//! widget refuses to run without a secure context, and that is why it is not used.

use std::{collections::BTreeMap, time::SystemTime};

use altcha::{CreateChallengeOptions, Payload, VerifySolutionOptions, create_challenge, verify_solution};
use argon2::password_hash::rand_core::{OsRng, RngCore as _};
use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::session::{Challenge, random};

/// SHA-256 operations per try.
const COST: u32 = 1000;
/// How many tries it takes: between so many and twice as many. About two seconds of a laptop, ten of an old telephone.
const TRIES: u32 = 1500;
/// Seconds until it is void: time to read, and to be called away.
const VALID: u64 = 15 * 60;
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

/// Sets tests and marks them.
pub(super) struct ProofOfWork {
    signature: String,
    key_signature: String,
}

impl ProofOfWork {
    pub(super) fn new() -> ProofOfWork {
        ProofOfWork { signature: random(), key_signature: random() }
    }

    /// A challenge as JSON, and what to remember of it. Costs a thousand hashes.
    pub(super) fn issue(&self, ban: &str, now: SystemTime) -> Option<(String, Challenge)> {
        let expires = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() + VALID;
        let challenge = create_challenge(CreateChallengeOptions {
            algorithm: "SHA-256".to_owned(),
            cost: COST,
            counter: Some(TRIES + OsRng.next_u32() % TRIES),
            data: Some(BTreeMap::from([("ban".to_owned(), ban.into())])),
            expires_at: i64::try_from(expires).ok(),
            hmac_signature_secret: Some(self.signature.clone()),
            hmac_key_signature_secret: Some(self.key_signature.clone()),
            ..CreateChallengeOptions::default()
        })
        .ok()?;
        let test = Challenge { ban: ban.to_owned(), nonce: challenge.parameters.nonce.clone() };
        Some((serde_json::to_string(&challenge).ok()?, test))
    }

    /// Whether `offered`, what the form sent, solves the test that was set for lifting `ban`.
    ///
    /// # Errors
    /// [`SolutionError`], in words for whoever tried.
    pub(super) fn verify(&self, offered: &str, set: Option<Challenge>, ban: &str) -> Result<(), SolutionError> {
        let offered = Some(offered).filter(|offered| !offered.is_empty() && offered.len() <= LONGEST);
        let json = offered.and_then(|offered| BASE64_STANDARD.decode(offered).ok()).ok_or(SolutionError::Missing)?;
        let payload: Payload = serde_json::from_slice(&json).map_err(|_| SolutionError::Missing)?;
        let set = set.filter(|test| test.nonce == payload.challenge.parameters.nonce).ok_or(SolutionError::Replayed)?;
        let named = payload.challenge.parameters.data.as_ref().and_then(|data| data.get("ban"));
        if set.ban != ban || named.and_then(|named| named.as_str()) != Some(ban) {
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

#[cfg(test)]
mod tests {
    use altcha::{SolveChallengeOptions, solve_challenge};
    use std::time::Duration;

    use super::*;

    fn solve(challenge: &str) -> String {
        let challenge: altcha::Challenge = serde_json::from_str(challenge).unwrap();
        let solution = solve_challenge(SolveChallengeOptions::new(&challenge)).unwrap().unwrap();
        BASE64_STANDARD.encode(serde_json::to_vec(&Payload { challenge, solution }).unwrap())
    }

    #[test]
    fn a_solution_counts_for_its_ban_and_its_session() {
        let proof_of_work = ProofOfWork::new();
        let (challenge, test) = proof_of_work.issue("3f2a", SystemTime::now()).unwrap();
        let solution = solve(&challenge);
        assert_eq!(proof_of_work.verify(&solution, Some(test.clone()), "3f2a"), Ok(()));
        assert_eq!(proof_of_work.verify(&solution, None, "3f2a"), Err(SolutionError::Replayed), "it was taken out");
        assert_eq!(proof_of_work.verify(&solution, Some(test.clone()), "77"), Err(SolutionError::Foreign));
        let other = Challenge { nonce: "00".into(), ..test.clone() };
        assert_eq!(
            proof_of_work.verify(&solution, Some(other), "3f2a"),
            Err(SolutionError::Replayed),
            "set to another session"
        );
        assert_eq!(
            ProofOfWork::new().verify(&solution, Some(test.clone()), "3f2a"),
            Err(SolutionError::Unsolved),
            "another start's key"
        );
        for bad in ["", "!", "e30=", &"A".repeat(5000)] {
            assert_eq!(proof_of_work.verify(bad, Some(test.clone()), "3f2a"), Err(SolutionError::Missing), "{bad:.20}");
        }
    }

    #[test]
    fn a_challenge_cannot_be_made_easier_or_last_longer() {
        let proof_of_work = ProofOfWork::new();
        let (challenge, test) = proof_of_work.issue("3f2a", SystemTime::now()).unwrap();
        let mut easier: altcha::Challenge = serde_json::from_str(&challenge).unwrap();
        easier.parameters.key_prefix = String::new();
        let easier = solve(&serde_json::to_string(&easier).unwrap());
        assert_eq!(proof_of_work.verify(&easier, Some(test), "3f2a"), Err(SolutionError::Unsolved));

        let past = SystemTime::now() - Duration::from_secs(VALID + 2);
        let (challenge, test) = proof_of_work.issue("3f2a", past).unwrap();
        assert_eq!(proof_of_work.verify(&solve(&challenge), Some(test), "3f2a"), Err(SolutionError::Expired));
    }
}
