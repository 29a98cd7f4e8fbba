//! *Audit*: filtered and paged on the server; and the reason for which a throttle was switched off.

use std::time::SystemTime;

use weir::limits::{
    audit::{Actor, AdminEvent, Event},
    throttle::Mode,
};

use super::harness::{Browser, Harness};

fn pin(harness: &Harness, by: &str, pattern: &str) {
    let event = AdminEvent::Pinned { pattern: pattern.to_owned(), reason: format!("for {by}") };
    harness.limits.record_event(&Actor::new(by, None), Event::Admin(event), SystemTime::now());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_is_filtered_by_event_by_whom_and_text_and_the_form_keeps_what_was_typed() {
    let harness = Harness::start().await;
    let ban = harness.block("10.1.0.7", "shop/api");
    pin(&harness, "ann", "docker.io/library/first");
    pin(&harness, "bob", "docker.io/library/second");
    let mut operator = Browser::new(&harness);
    let mut rows = |query: &str| {
        let page = operator.get(&format!("/audit?{query}")).body;
        let row = ["library/first", "library/second", "10.1.0.7</b>"];
        (row.map(|words| page.contains(words)), page)
    };
    assert_eq!(rows("").0, [true, true, true]);
    assert_eq!(rows("event=pinned").0, [true, true, false]);
    assert_eq!(rows("event=banned").0, [false, false, true]);
    let (found, page) = rows("by=ann&text=lib%3C");
    assert_eq!(found, [false, false, false]);
    assert!(page.contains("No entry fits."), "{page}");
    assert!(page.contains("value=\"ann\"") && page.contains("value=\"lib&lt;\""), "{page}");
    let (found, page) = rows("by=ann&event=pinned");
    assert_eq!(found, [true, false, false]);
    assert!(page.contains("<option value=\"pinned\" selected>"), "{page}");
    for (text, expected) in
        [("for+bob", [false, true, false]), ("10.1.0", [false, false, true]), (&*ban, [false, false, true])]
    {
        assert_eq!(rows(&format!("text={text}")).0, expected, "{text}");
    }
    let mut api = |query: &str| operator.get(&format!("/api/v1/audit?{query}"));
    let one: serde_json::Value = serde_json::from_str(&api("event=pinned&text=second").body).unwrap();
    assert_eq!((one["audit"].as_array().unwrap().len(), &one["audit"][0]["by"]), (1, &"bob".into()), "{one}");
    for (query, said) in [("event=gone", "event is one of allowed, banned, "), ("before=x", "before is the number")] {
        let answer = api(query);
        assert!(answer.status == 400 && answer.body.contains(said), "{}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_the_audit_have_each_entry_once_though_others_are_added_meanwhile() {
    let harness = Harness::start().await;
    for number in 0..250 {
        pin(&harness, if number % 2 == 0 { "even" } else { "odd" }, &format!("image-{number}-"));
    }
    let mut operator = Browser::new(&harness);
    let (mut path, mut seen, mut pages) = ("/audit?by=even".to_owned(), Vec::new(), 0);
    loop {
        let page = operator.get(&path);
        let numbers = page.body.split("image-").skip(1).filter_map(|rest| rest.split('-').next()?.parse::<u32>().ok());
        seen.extend(numbers);
        pages += 1;
        pin(&harness, "even", "late");
        if !page.body.contains("rel=\"next\"") {
            break;
        }
        path = page.attribute("rel=\"next\"", "href");
        assert!(path.contains("by=even"), "{path}");
    }
    assert_eq!((pages, seen), (2, (0..250).rev().filter(|number| number % 2 == 0).collect()));
    let (mut query, mut count) = (String::new(), 0);
    loop {
        let answer = operator.get(&format!("/api/v1/audit?by=odd&n=50{query}")).body;
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        count += answer["audit"].as_array().unwrap().len();
        let Some(next) = answer["next"].as_u64() else { break };
        query = format!("&before={next}");
    }
    assert_eq!(count, 125);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttle_is_switched_off_after_a_confirmation_with_a_reason_that_the_audit_has() {
    let harness = Harness::start().await;
    let mut operator = Browser::new(&harness);
    let name = "throttle_unauthenticated_pulls";
    let page = operator.get("/throttles");
    assert!(page.body.contains("action=\"/throttles/off\"") && !page.body.contains("value=\"off\""), "{}", page.body);
    let token = page.token();
    let mode = || harness.limits.throttles()[0].mode;
    let mut off = |reason: &str| {
        operator.post("/throttles/mode", &[("csrf", &token), ("name", name), ("mode", "off"), ("reason", reason)])
    };
    let answer = off(" ");
    assert!(answer.status == 400 && answer.body.contains("Say why."), "{}", answer.body);
    assert!(answer.body.contains(&format!("Switch {name} off")), "{}", answer.body);
    assert_eq!(mode(), Mode::DryRun);
    assert_eq!(off("the build farm <b>").status, 303);
    assert_eq!(mode(), Mode::Off);
    let confirm = operator.get(&format!("/throttles/off?name={name}"));
    assert!(confirm.status == 200 && confirm.body.contains("name=\"reason\" required"), "{}", confirm.body);
    assert_eq!(operator.get("/throttles/off?name=*").status, 400);
    assert!(operator.get("/audit?event=switched").body.contains("the build farm &lt;b&gt;"));
    let body = format!(r#"{{"name":"{name}","mode":"enforce","reason":"by the API"}}"#);
    let answer = operator.send("POST", "/api/v1/throttles", &[("Content-Type", "application/json")], &body);
    assert_eq!((answer.status, mode()), (200, Mode::Enforce), "{}", answer.body);
    let entry = harness.limits.audit(1).remove(0);
    let is_kept = matches!(&entry.event, Event::Admin(AdminEvent::Switched { reason, .. }) if reason == "by the API");
    assert!(is_kept, "{entry:?}");
}
