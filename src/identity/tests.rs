//! Verifies, forgets and refuses through the one function that all listeners call.

use argon2::{Argon2, Params, PasswordHasher as _, password_hash::SaltString};

use super::*;
use crate::limits::{LimitsConfig, Role, audit::Event, bans::BanEvent};

/// A hash that costs nothing.
fn cheap(password: &str) -> Arc<str> {
    let argon2 = Argon2::new(Default::default(), Default::default(), Params::new(8, 1, 1, None).unwrap());
    let salt = SaltString::encode_b64(&random::bytes::<16>()).unwrap();
    argon2.hash_password(password.as_bytes(), &salt).unwrap().to_string().into()
}

fn account(name: &str, password_hash: &Arc<str>) -> Account {
    Account {
        name: name.into(),
        password_hash: password_hash.clone(),
        role: Role::User,
        budget_override: false,
        networks: Vec::new(),
        namespaces: Vec::new(),
        pull: Arc::from([]),
        push: Arc::from([]),
        delete: Arc::from([]),
    }
}

fn with(accounts: &[Account]) -> (Authenticator, Limits) {
    let limits = Limits::in_memory(LimitsConfig { accounts: accounts.into(), ..LimitsConfig::default() });
    (Authenticator::new(limits.clone()), limits)
}

fn reload(limits: &Limits, accounts: &[Account]) {
    let config = LimitsConfig { accounts: accounts.into(), ..LimitsConfig::default() };
    limits.reload(config, &Actor::auto(), SystemTime::UNIX_EPOCH);
}

const OWNER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const ATTACKER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

async fn name(authenticator: &Authenticator, name: &str, password: &str) -> Option<Arc<str>> {
    let principal = authenticator.verify(&Credentials::new(name, password), OWNER).await.unwrap();
    principal.map(|principal| principal.name)
}

#[tokio::test]
async fn an_account_is_known_by_its_password_and_only_by_that() {
    let (authenticator, _) = with(&[account("ann", &cheap("a")), account("bob", &cheap("b"))]);
    for _ in 0..2 {
        assert_eq!(name(&authenticator, "ann", "a").await.as_deref(), Some("ann"));
        assert_eq!(name(&authenticator, "bob", "b").await.as_deref(), Some("bob"));
        assert_eq!(name(&authenticator, "ann", "b").await, None);
        assert_eq!(name(&authenticator, "nobody", "a").await, None);
    }
    let (empty, _) = with(&[]);
    assert_eq!(name(&empty, "ann", "a").await, None);
}

#[tokio::test]
async fn a_reload_forgets_the_old_password_and_takes_the_new_one_at_once() {
    let (authenticator, limits) = with(&[account("ann", &cheap("old"))]);
    let old = authenticator.verify(&Credentials::new("ann", "old"), OWNER).await.unwrap().unwrap();
    assert_eq!(name(&authenticator, "ann", "new").await, None);
    reload(&limits, &[account("ann", &cheap("new"))]);
    assert_eq!(name(&authenticator, "ann", "old").await, None, "what verified before the reload is forgotten");
    assert_eq!(name(&authenticator, "ann", "new").await.as_deref(), Some("ann"), "and what did not");
    assert!(authenticator.account(&old).is_none());
    reload(&limits, &[]);
    assert_eq!(name(&authenticator, "ann", "new").await, None);
}

#[tokio::test]
async fn wrong_passwords_of_one_address_do_not_lock_out_the_owner_at_another() {
    let (authenticator, limits) = with(&[account("ann", &cheap("a"))]);
    let guess =
        async |number: u32| authenticator.verify(&Credentials::new("ann", &format!("guess {number}")), ATTACKER).await;
    let mut refused = None;
    for number in 0..300 {
        if let Err(error) = guess(number).await {
            refused.get_or_insert((number, error));
        }
    }
    let (tried, error) = refused.unwrap();
    assert_eq!(tried, 10, "{error:?}");
    assert!(
        matches!(error, AuthError::TooManyFailures(wait) if wait > Duration::ZERO && wait < Duration::from_secs(60))
    );
    let right = Credentials::new("ann", "a");
    assert!(
        authenticator.verify(&right, ATTACKER).await.is_err(),
        "the right one is not distinguished from a wrong one"
    );
    assert!(authenticator.verify(&right, OWNER).await.unwrap().is_some());
    assert!(
        authenticator.verify(&right, ATTACKER).await.is_err(),
        "what the owner has verified tells the attacker nothing"
    );

    let audit = limits.audit(1000);
    let noted = audit.iter().filter(|entry| entry.from == Some(ATTACKER)).count();
    assert_eq!(noted, 10);
    assert!(audit.iter().all(|entry| match &entry.event {
        Event::Ban(event) => matches!(&**event, BanEvent::Refused { attempt, .. } if attempt == "log in as ann"),
        Event::Admin(_) => false,
    }));
}

#[tokio::test]
async fn what_has_verified_goes_on_behind_an_address_that_must_wait_unless_it_guesses() {
    let (authenticator, _) = with(&[account("ann", &cheap("a"))]);
    let verify = async |password: &str| authenticator.verify(&Credentials::new("ann", password), OWNER).await;
    assert!(verify("a").await.unwrap().is_some());
    // A robot with an old password behind the same address, which sends it again and again.
    for number in 0..12 {
        let _ = verify(&format!("old {number}")).await;
    }
    for _ in 0..1000 {
        assert!(verify("old").await.is_err());
    }
    assert!(verify("a").await.unwrap().is_some());
    // A guesser there would know the right password by its answer.
    for number in 0..50 {
        assert!(verify(&format!("guess {number}")).await.is_err());
    }
    assert!(verify("a").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn right_passwords_are_verified_while_another_address_floods_the_queue() {
    let hash: Arc<str> = password::hash("a").unwrap().into();
    let accounts: Vec<_> = (0..30).map(|number| account(&format!("robot-{number}"), &hash)).collect();
    let (authenticator, _) = with(&accounts);
    let verify = |name: String, password: String, from| {
        let authenticator = authenticator.clone();
        tokio::spawn(async move { authenticator.verify(&Credentials::new(&name, &password), from).await })
    };
    let flood: Vec<_> = (0..75).map(|number| verify("robot-0".into(), format!("guess {number}"), ATTACKER)).collect();
    // Thirty robots behind one address log in for the first time: none is turned away.
    let robots: Vec<_> = (0..30).map(|number| verify(format!("robot-{number}"), "a".into(), OWNER)).collect();
    for robot in robots {
        assert!(robot.await.unwrap().unwrap().is_some());
    }
    let mut turned_away = 0;
    for guess in flood {
        turned_away += usize::from(guess.await.unwrap().is_err());
    }
    assert!(turned_away >= 60, "{turned_away} of 75");
}
