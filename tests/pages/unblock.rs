//! *Unblock*: an owner lifts a ban of theirs after a test that takes work; whatever else is sent there is refused, and in the audit.

use altcha::{Challenge, Payload, SolveChallengeOptions, solve_challenge};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use weir::limits::{audit::Event, bans::BanEvent};

use super::harness::{Answer, Browser, Harness, password};

fn solve(page: &Answer) -> String {
    let challenge: Challenge = serde_json::from_str(&page.attribute("id=\"human\"", "data-challenge")).unwrap();
    let solution = solve_challenge(SolveChallengeOptions::new(&challenge)).unwrap().unwrap();
    BASE64_STANDARD.encode(serde_json::to_vec(&Payload { challenge, solution }).unwrap())
}

/// Sees the page of a ban, solves its test, and sends the form.
fn lift(visitor: &mut Browser, ban: &str) -> Answer {
    let page = visitor.get(&format!("/unblock/{ban}"));
    assert_eq!(page.status, 200, "{}", page.body);
    let (token, solution) = (page.token(), solve(&page));
    visitor.post(&format!("/unblock/{ban}/lift"), &[("csrf", &token), ("altcha", &solution), ("mended", "1")])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_reads_why_solves_the_test_and_lifts_the_ban() {
    let harness = Harness::start().await;
    let ban = harness.block("10.1.0.7", "shop/api");
    let mut ann = Browser::new(&harness);
    ann.host = "weir.example.com".to_owned();

    let answer = ann.get(&format!("/unblock/{ban}"));
    assert_eq!((answer.status, answer.header("location")), (303, &*format!("/login?next=/unblock/{ban}")));
    let answer = ann.log_in("ann", &password("ann"), &format!("/unblock/{ban}"));
    assert_eq!((answer.status, answer.header("location")), (303, &*format!("/unblock/{ban}")));

    let page = ann.get(&format!("/unblock/{ban}"));
    for words in ["10.1.0.7", "different things that do not exist", "a wrong tag", "shop/api", "404"] {
        assert!(page.body.contains(words), "{words}: {}", page.body);
    }
    let answer = lift(&mut ann, &ban);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.body.contains("half its quota") && answer.body.contains("2 more bans"), "{}", answer.body);
    assert!(!harness.is_blocked("10.1.0.7"));
    let entry = harness.limits.audit(1).remove(0);
    assert_eq!(entry.by, "ann");
    assert!(
        matches!(entry.event, Event::Ban(event) if matches!(&*event, BanEvent::Lifted { record } if record.id == ban))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_lift_of_one_s_own_is_refused_and_in_the_audit() {
    let harness = Harness::start().await;
    let (own, foreign) = (harness.block("10.1.0.7", "shop/api"), harness.block("10.2.0.7", "other/app"));
    let mut ann = Browser::logged_in(&harness, "ann");
    let (path, attempt) = (format!("/unblock/{own}/lift"), format!("lift {own}"));
    let page = ann.get(&format!("/unblock/{own}"));
    let (token, solution) = (page.token(), solve(&page));
    let good = [("csrf", &*token), ("altcha", &*solution), ("mended", "1")];
    let last = |status: u16, answer: Answer, attempt: &str, why: &str| {
        assert_eq!(answer.status, status, "{why}: {}", answer.body);
        let (by, what, reason) = harness.refusals().remove(0);
        assert_eq!((&*by, &*what), ("ann", attempt), "{reason}");
        assert!(reason.contains(why), "{why}: {reason}");
        assert!(harness.is_blocked("10.1.0.7") && harness.is_blocked("10.2.0.7"), "{why}");
    };

    last(403, ann.post(&path, &good[1..]), &attempt, "token");
    last(403, ann.post(&path, &[("csrf", "AAAA"), good[1], good[2]]), &attempt, "token");
    last(403, ann.post_from(&[], &path, &good), &attempt, "no page of ours");
    let own_origin = format!("http://{}", harness.admin);
    last(405, ann.send("GET", &path, &[], ""), &attempt, "by POST");
    last(405, ann.send("PUT", &path, &[("Origin", &own_origin)], ""), &attempt, "by POST");
    last(405, ann.get(&format!("{path}?csrf={token}&altcha={solution}&mended=1")), &attempt, "by POST");

    // Another's: as if there were none, with a test that was solved for it, too.
    let path_of_other = format!("/unblock/{foreign}/lift");
    last(404, ann.post(&path_of_other, &good), &format!("lift {foreign}"), "no such ban");
    assert_eq!(ann.get(&format!("/unblock/{foreign}")).status, 404);
    assert_eq!(ann.get(&format!("/blocked/{own}")).status, 403);
    last(403, ann.post(&format!("/blocked/{own}/lift"), &[good[0], ("reason", "mine")]), &attempt, "not allowed");

    // A solution of another session, of another ban, and none.
    let mut again = Browser::logged_in(&harness, "ann");
    let other = solve(&again.get(&format!("/unblock/{own}")));
    last(403, ann.post(&path, &[good[0], ("altcha", &other), good[2]]), &attempt, "not set to you");
    // What was handed in was taken out: the right one is too late now.
    last(403, ann.post(&path, &good), &attempt, "used before");
    last(403, ann.post(&path, &good[..1]), &attempt, "not solved");

    // From a page elsewhere the cookie does not come along, and would not help.
    for headers in [
        vec![("Origin", "http://evil.example")],
        vec![("Origin", "null")],
        vec![("Origin", &*own_origin), ("Sec-Fetch-Site", "cross-site")],
    ] {
        let answer = ann.post_from(&headers, &path, &good);
        assert_eq!(answer.status, 403);
        assert_eq!(harness.refusals()[0].1, attempt);
    }
    assert!(harness.is_blocked("10.1.0.7"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_solution_is_good_for_one_lift_and_a_day_for_three() {
    let harness = Harness::start().await;
    let clients = ["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"];
    let bans = clients.map(|client| harness.block(client, "shop/api"));
    let mut ann = Browser::logged_in(&harness, "ann");

    let page = ann.get(&format!("/unblock/{}", bans[0]));
    let (token, solution) = (page.token(), solve(&page));
    let fields = [("csrf", &*token), ("altcha", &*solution), ("mended", "1")];
    let path = format!("/unblock/{}/lift", bans[0]);
    assert_eq!(ann.post(&path, &fields).status, 200);
    let again = harness.block(clients[0], "shop/api");
    for (ban, why) in [(&bans[0], "no such ban"), (&bans[1], "used before"), (&again, "used before")] {
        let answer = ann.post(&format!("/unblock/{ban}/lift"), &fields);
        assert!(matches!(answer.status, 403 | 404), "{}", answer.body);
        assert!(harness.refusals()[0].2.contains(why), "{:?}", harness.refusals()[0]);
    }

    assert_eq!(lift(&mut ann, &bans[1]).status, 200);
    let third = lift(&mut ann, &bans[2]);
    assert!(third.status == 200 && third.body.contains("0 more bans"), "{}", third.body);
    let fourth = lift(&mut ann, &bans[3]);
    assert_eq!(fourth.status, 403, "{}", fourth.body);
    assert_eq!(harness.refusals()[0].0, "ann");
    assert!(harness.refusals()[0].2.contains("three bans a day"), "{:?}", harness.refusals()[0]);
    assert!(harness.is_blocked(clients[3]));
}
