//! Wrong passwords: what they cost, whom they keep out, and where they are noted.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{
    PROXY,
    support::{Client, World},
};

/// `weir`, with the parameters that `weir hash-password` uses.
const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$kxGijz/3o2vdXUodgFgFqg$xNIKwwOml04OOn6HB04DQtBkecO0nUsH9nxtip4ROiU";

fn account(name: &str, role: &str) -> String {
    format!("[[account]]\nname = \"{name}\"\nrole = \"{role}\"\npassword_hash = \"{HASH}\"\n")
}

fn headers(from: &str, name: &str, password: &str) -> String {
    let pair = BASE64_STANDARD.encode(format!("{name}:{password}"));
    format!("X-Forwarded-For: {from}\r\nAuthorization: Basic {pair}\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_passwords_take_no_memory_that_stays() {
    let world = World::start(None, &format!("{PROXY}{}", account("ci", "user"))).await;
    let registry = world.weir.registry;
    // From forty addresses at once, so that as many passwords are verified as the program lets be.
    let ask = |headers: &(dyn Fn(u8, u8) -> String + Sync)| {
        std::thread::scope(|scope| {
            for address in 0..40 {
                scope.spawn(move || {
                    let mut client = Client::new(registry, "");
                    for guess in 0..6 {
                        assert_eq!(client.send("GET", "/v2/", &headers(address, guess), "").status, 200);
                    }
                });
            }
        });
        world.weir.anonymous_memory()
    };
    let before = ask(&|address, _| format!("X-Forwarded-For: 192.0.2.{address}\r\n"));
    let after = ask(&|address, guess| headers(&format!("192.0.2.{address}"), "ci", &format!("guess {guess}")));
    let again = ask(&|address, guess| headers(&format!("198.51.100.{address}"), "ci", &format!("guess {guess}")));
    // One buffer of 19 MiB. Freed and taken anew for each password, they came to 450 MiB here, for ever.
    assert!(
        after < before + (24 << 10) && after < 60 << 10,
        "{before} kB before, {after} kB after 240 wrong passwords"
    );
    assert!(again < after + (4 << 10), "{after} kB after 240 wrong passwords, {again} kB after 480");
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slow_on_every_way_in_and_keeps_no_other_client_out() {
    let world = World::start(None, &format!("{PROXY}{}", account("ops", "admin"))).await;
    let audit = |from: &str, password: &str| {
        world.weir.admin_as("GET", "/api/v1/audit?n=10000", &headers(from, "ops", password), "")
    };
    let statuses: Vec<u16> = (0..30).map(|guess| audit("192.0.2.7", &format!("guess {guess}")).status).collect();
    assert_eq!((&statuses[..10], &statuses[10..]), (&[401; 10][..], &[429; 20][..]));
    let refused = audit("192.0.2.7", "weir");
    assert_eq!(refused.status, 429, "the right password waits, too, or it would be distinguished from the wrong ones");
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    // The address waits wherever it asks, and no other does.
    let registry = |from: &str| Client::new(world.weir.registry, &headers(from, "ops", "weir")).get("/v2/").status;
    assert_eq!((registry("192.0.2.7"), registry("192.0.2.8")), (429, 200));
    let owner = audit("192.0.2.9", "weir");
    assert_eq!(owner.status, 200);
    let noted = owner.json()["audit"].as_array().unwrap().clone();
    let noted = noted.iter().filter(|entry| entry["attempt"] == "log in as ops" && entry["from"] == "192.0.2.7");
    assert_eq!(noted.count(), 10);
}
