//! Passwords and their hashes: Argon2 in PHC form, as `weir hash-password` makes them, or bcrypt out of an htpasswd file.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use argon2::{
    Algorithm, Argon2, Block, Params, PasswordHasher as _, Version,
    password_hash::{self, Output, PasswordHash, Salt, SaltString},
};
use tokio::sync::{Mutex, oneshot};

use crate::{
    idle_thread::{be_nice, core_time, give_way},
    random,
};

/// Argon2id with the parameters that OWASP recommends (19 MiB, 2 passes), which are the crate's defaults.
pub(crate) fn hash(password: &str) -> Result<String, password_hash::Error> {
    let salt = SaltString::encode_b64(&random::bytes::<16>())?;
    Ok(Argon2::default().hash_password(password.as_bytes(), &salt)?.to_string())
}

/// A check that takes longer than this may be kept from a core by threads that serve.
const SLOW: Duration = Duration::from_millis(500);

/// Compares passwords with hashes, one at a time, for each takes tens of milliseconds of a core and the memory that its hash names, 19 MiB by
/// default. The thread is new for each check, since a thread without privileges never regains its priority.
#[derive(Default)]
pub(super) struct PasswordVerifier(Arc<Mutex<Check>>);

/// What a check leaves to the next.
#[derive(Default)]
struct Check {
    /// Kept and used again: freed and taken anew on whichever thread, it would stay with the allocator once for each of the allocator's
    /// arenas.
    memory: Vec<Block>,
    /// Whether threads that serve kept it from a core.
    starved: bool,
}

impl PasswordVerifier {
    /// Whether `hash` was made of this password. Waits until those before it are compared; when the caller leaves, the work goes on.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(super) async fn matches(&self, password: String, hash: Arc<str>) -> io::Result<bool> {
        let mut check = self.0.clone().lock_owned().await;
        let (send, answer) = oneshot::channel();
        let compare = move || {
            // On busy cores a nice one still ends within a second.
            if check.starved {
                be_nice()
            } else {
                give_way()
            }
            let begun = Instant::now();
            let is_match = matches(&password, &hash, &mut check.memory);
            check.starved = starved(check.starved, begun.elapsed(), core_time());
            drop(check);
            // The caller may have left.
            let _ = send.send(is_match);
        };
        thread::Builder::new().name("password".into()).spawn(compare)?;
        Ok(answer.await.unwrap_or(false))
    }
}

/// Whether a check of this length had a core for less than a quarter of it. A short one is no sign, but does not end what a long one began.
fn starved(before: bool, length: Duration, core: Duration) -> bool {
    (before || length > SLOW) && length > 4 * core
}

fn matches(password: &str, hash: &str, memory: &mut Vec<Block>) -> bool {
    if hash.starts_with("$2") {
        return bcrypt::verify(password, hash).unwrap_or(false);
    }
    PasswordHash::new(hash).is_ok_and(|hash| argon2_matches(password, &hash, memory).is_ok_and(|is_match| is_match))
}

fn argon2_matches(password: &str, hash: &PasswordHash<'_>, memory: &mut Vec<Block>) -> password_hash::Result<bool> {
    let (Some(salt), Some(expected)) = (hash.salt, hash.hash) else { return Ok(false) };
    let version = hash.version.map_or(Ok(Version::default()), Version::try_from)?;
    let argon2 = Argon2::new(Algorithm::try_from(hash.algorithm)?, version, Params::try_from(hash)?);
    let mut salt_bytes = [0; Salt::MAX_LENGTH];
    let salt = salt.decode_b64(&mut salt_bytes)?;
    let blocks = argon2.params().block_count();
    if memory.len() < blocks {
        // As long as it must be and no longer: a vector that grows doubles.
        memory.reserve_exact(blocks - memory.len());
        memory.resize(blocks, Block::default());
    }
    let computed = Output::init_with(expected.len(), |output| {
        Ok(argon2.hash_password_into_with_memory(password.as_bytes(), salt, output, &mut memory[..blocks])?)
    })?;
    // Takes as long for any two outputs of one length.
    Ok(computed == expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_of_its_hash_and_of_no_other() {
        let mut memory = Vec::new();
        for hash in [bcrypt::hash("hunter2", 4).unwrap(), hash("hunter2").unwrap()] {
            assert!(matches("hunter2", &hash, &mut memory), "{hash}");
            assert!(!matches("hunter3", &hash, &mut memory), "{hash}");
        }
        for broken in ["", "$2y$", "$argon2id$", "hunter2", "$argon2id$v=19$m=16,t=2,p=1$c29tZXNhbHQ"] {
            assert!(!matches("hunter2", broken, &mut memory), "{broken}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_passwords_at_once_take_the_memory_of_one() {
        let verifier = Arc::new(PasswordVerifier::default());
        let hash: Arc<str> = hash("hunter2").unwrap().into();
        let checks = (0..40).map(|_| {
            let (verifier, hash) = (verifier.clone(), hash.clone());
            tokio::spawn(async move { verifier.matches("hunter3".to_owned(), hash).await })
        });
        for check in checks.collect::<Vec<_>>() {
            assert!(!check.await.unwrap().unwrap());
        }
        assert_eq!(verifier.0.lock().await.memory.capacity(), Params::DEFAULT_M_COST as usize);
    }

    /// The policies of the threads that compare passwords: field 41 of proc_pid_stat(5).
    fn policies() -> Vec<u32> {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
        let of = |stat: String| stat.split_once("(password) ")?.1.split(' ').nth(38)?.parse().ok();
        stats.filter_map(of).collect()
    }

    /// `SCHED_IDLE`
    const IDLE: u32 = 5;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_check_gives_way_to_what_serves() {
        let verifier = Arc::new(PasswordVerifier::default());
        let hash: Arc<str> = hash("hunter2").unwrap().into();
        // A check may be over before it is looked at.
        for _ in 0..100 {
            let (verifier, hash) = (verifier.clone(), hash.clone());
            let check = tokio::spawn(async move { verifier.matches("hunter2".to_owned(), hash).await });
            while !check.is_finished() {
                if policies().contains(&IDLE) {
                    return;
                }
            }
            assert!(check.await.unwrap().unwrap());
        }
        panic!("no check was seen to run on idle cores alone");
    }

    #[test]
    fn a_check_that_is_kept_from_a_core_lets_the_next_compete_until_cores_are_free() {
        let [core, busy, long] = [30, 130, 3000].map(Duration::from_millis);
        assert!(!starved(false, core, core) && !starved(false, busy, core));
        assert!(starved(false, long, core));
        assert!(starved(true, busy, core));
        assert!(!starved(true, 2 * core, core));
        // A hash may be meant to take long.
        assert!(!starved(false, long, long / 2));
    }
}
