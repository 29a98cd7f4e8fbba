//! What an operator changes by *Throttles* and *Blocked*, and how it stands in *Audit*.

use weir::limits::{
    audit::{AdminEvent, Event},
    throttle::Mode,
};

use super::harness::{Browser, Harness};

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_enforces_lifts_allows_and_blocks() {
    let harness = Harness::start().await;
    let (first, second) = (harness.block("10.1.0.7", "shop/api"), harness.block("10.1.0.8", "library/nginx"));
    let mut operator = Browser::new(&harness);
    harness.pull("10.5.0.1", 15);
    harness.pull("10.5.0.2", 12);

    let page = operator.get("/throttles");
    assert!(page.body.contains("would have denied 7 requests of 2 clients"), "{}", page.body);
    let token = page.token();
    let name = "throttle_unauthenticated_pulls";
    let switch = |operator: &mut Browser, name: &str, mode: &str| {
        operator.post("/throttles/mode", &[("csrf", &token), ("name", name), ("mode", mode)]).status
    };
    assert_eq!(switch(&mut operator, name, "enforce"), 303);
    assert_eq!(harness.limits.throttles()[0].mode, Mode::Enforce);
    assert!(operator.get("/throttles").body.contains("switched by hand"));
    assert_eq!(switch(&mut operator, "*", "off"), 400, "only what the page shows");
    assert_eq!(switch(&mut operator, name, "gone"), 400);
    assert_eq!(harness.limits.throttles()[0].mode, Mode::Enforce);

    let filtered = operator.get("/blocked?namespace=shop/").body;
    assert!(filtered.contains(&first) && !filtered.contains(&second), "{filtered}");
    let post = |operator: &mut Browser, path: String, fields: &[(&str, &str)]| {
        let fields: Vec<_> = [("csrf", &*token)].into_iter().chain(fields.iter().copied()).collect();
        operator.post(&path, &fields)
    };
    let answer = post(&mut operator, format!("/blocked/{first}/lift"), &[("reason", " ")]);
    assert_eq!(answer.status, 400, "a lift says why: {}", answer.body);
    assert_eq!(post(&mut operator, format!("/blocked/{first}/lift"), &[("reason", "mended")]).status, 303);
    assert!(operator.get(&format!("/blocked/{first}")).body.contains("Lifted by"));
    let fields = [("comment", "the build farm"), ("days", "7")];
    assert_eq!(post(&mut operator, format!("/blocked/{second}/allow"), &fields).status, 303);
    assert!(operator.get("/throttles").body.contains("the build farm"));
    assert!(!harness.is_blocked("10.1.0.7") && !harness.is_blocked("10.1.0.8"));

    assert!(operator.get("/blocked?part=asked").body.contains("No client is blocked because of that."));
    let wide = [("client", "10.0.0.0/8"), ("duration", "1h"), ("reason", "all of it")];
    let answer = post(&mut operator, "/blocked/add".into(), &wide);
    assert!(answer.status == 400 && answer.body.contains("wider than a /24"), "{}", answer.body);
    for kept in ["value=\"10.0.0.0/8\"", "value=\"all of it\""] {
        assert!(answer.body.contains(kept), "what was typed is kept: {kept}: {}", answer.body);
    }
    let one = [("client", "10.9.0.1"), ("duration", "1h"), ("reason", "asked to")];
    assert_eq!(post(&mut operator, "/blocked/add".into(), &one).status, 303);
    assert!(harness.is_blocked("10.9.0.1"));
    let found = operator.get("/blocked?part=asked").body;
    assert!(found.contains("1 ban of that.") && found.contains("client=10.9.0.1"), "{found}");

    // The end of a ban is moved, and what it stopped is counted.
    let third = found.split_once("href=\"/blocked/").unwrap().1.split('"').next().unwrap().to_owned();
    for (duration, why, said) in [("soon", "x", "Write a duration"), ("2d", " ", "Say why.")] {
        let answer = post(&mut operator, format!("/blocked/{third}/end"), &[("duration", duration), ("why", why)]);
        assert!(answer.status == 400 && answer.body.contains(said), "{said}: {}", answer.body);
        assert!(answer.body.contains(&format!("value=\"{duration}\"")), "{}", answer.body);
    }
    harness.pull("10.9.0.1", 3);
    let fields = [("duration", "2d"), ("why", "still at it")];
    assert_eq!(post(&mut operator, format!("/blocked/{third}/end"), &fields).status, 303);
    let page = operator.get(&format!("/blocked/{third}")).body;
    assert!(page.contains("in 1 day 23h") && page.contains("3 requests met it since the start"), "{page}");

    let audit = operator.get("/audit").body;
    for words in
        ["still at it", "moved the end of", "switched", "lifted", "allowed", "asked to", "wider than a /24", "operator"]
    {
        assert!(audit.contains(words), "{words}: {audit}");
    }
    let switched = harness
        .limits
        .audit(100)
        .into_iter()
        .filter(|entry| matches!(&entry.event, Event::Admin(AdminEvent::Switched { .. })));
    assert_eq!(switched.count(), 1);
}
