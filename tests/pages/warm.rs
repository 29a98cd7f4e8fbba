//! *Warm*: a job is looked at, confirmed and begun with a reason, shows what became of each image, and is cancelled with one.

use weir::{
    limits::audit::{AdminEvent, Event},
    mirror::warm::Table,
    route::Routes,
};
use weir_conformance::hub::Spec;

use super::harness::{Browser, Harness};

/// The newest change of the audit: by whom, and what.
fn last_change(harness: &Harness) -> (String, Event) {
    let entry = harness.limits.audit(1).remove(0);
    (entry.by, entry.event)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_is_confirmed_with_a_reason_and_shows_what_became_of_each_image() {
    let harness = Harness::start().await;
    harness.bench.hub.push(Spec::new("library/first")).unwrap();
    let mut ops = Browser::logged_in(&harness, "ops");
    let page = ops.get("/warm");
    assert!(page.status == 200 && page.body.contains("None was begun."), "{}", page.body);
    let token = page.token();
    let with = |ops: &mut Browser, changed: &[(&'static str, &'static str)]| {
        let mut fields = vec![
            ("csrf", &*token),
            ("images", "first, docker.io/library/absent:1\r\n"),
            ("platforms", "linux/amd64"),
            ("reason", "the release <b>"),
        ];
        for (name, value) in changed {
            fields.retain(|(kept, _)| kept != name);
            fields.push((*name, *value));
        }
        ops.post("/warm/start", &fields)
    };
    for (name, value, why) in [
        ("reason", " ", "Say why."),
        ("images", "ghcr.io/a/b", "no configured upstream"),
        ("images", "", "there is no image to warm"),
        ("platforms", "amd64", "is no platform"),
        ("within", "soon", "write a time of at most 366 days"),
    ] {
        let answer = with(&mut ops, &[(name, value), ("confirmed", "yes")]);
        let said = answer.body.to_lowercase().contains(&why.to_lowercase());
        assert!(answer.status == 400 && said, "{why}: {}", answer.body);
        let kept = if name == "reason" { "first, docker.io/library/absent:1" } else { "the release &lt;b&gt;" };
        assert!(answer.body.contains(kept), "what was typed is kept: {}", answer.body);
    }

    let confirm = with(&mut ops, &[]);
    for words in ["docker.io/library/first:latest", "docker.io/library/absent:1", "Warm 2 images", "linux/amd64"] {
        assert!(confirm.status == 200 && confirm.body.contains(words), "{words}: {}", confirm.body);
    }
    let again = with(&mut ops, &[("confirmed", "no")]);
    assert!(again.status == 200 && again.body.contains("value=\"the release &lt;b&gt;\""), "{}", again.body);
    assert!(harness.bench.mirror.warm.jobs().is_empty(), "nothing begins before it is confirmed");

    let begun = with(&mut ops, &[("confirmed", "yes")]);
    assert_eq!((begun.status, begun.header("location")), (303, "/warm/1"));
    let warmed = AdminEvent::Warmed { job: 1, images: 2, reason: "the release <b>".into() };
    assert_eq!(last_change(&harness), ("ops".to_owned(), Event::Admin(warmed)));
    let page = ops.until("/warm/1", "done, not complete");
    for words in ["1 fetched", "1 refused", "2 manifests and their layers", "the release &lt;b&gt;", "reference=latest"]
    {
        assert!(page.body.contains(words), "{words}: {}", page.body);
    }
    assert!(!page.body.contains("/warm/1/cancel"), "what has ended is not cancelled");
    let refused = ops.get("/warm/1?state=refused");
    assert!(refused.body.contains("library/absent:1") && !refused.body.contains("library/first:latest"));
    let list = ops.get("/warm");
    assert!(list.body.contains("1 of 2 here") && list.body.contains("href=\"/warm/1\""), "{}", list.body);
    assert_eq!(ops.get("/warm/2").status, 404);
    let answer = ops.post("/warm/1/cancel", &[("csrf", &token), ("reason", "late")]);
    assert!(answer.status == 409 && answer.body.contains("This warm has ended."), "{}", answer.body);

    let mut ann = Browser::logged_in(&harness, "ann");
    for path in ["/warm", "/warm/1"] {
        assert_eq!(ann.get(path).status, 403, "{path} is for operators");
    }
    let token = ann.get("/unblock").token();
    let answer =
        ann.post("/warm/start", &[("csrf", &token), ("images", "first"), ("reason", "x"), ("confirmed", "yes")]);
    assert_eq!((answer.status, harness.refusals()[0].1.as_str()), (403, "begin a warm"));
    assert_eq!(harness.bench.mirror.warm.jobs().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_that_waits_says_until_when_and_is_cancelled_with_a_reason() {
    let harness = Harness::start().await;
    // A quarter of the limit is spent, and what clients are expected to need leaves nothing to a warm.
    harness.spend().await;
    harness.bench.hub.push(Spec::new("library/later")).unwrap();
    let routes = Routes::new(Some("docker.io"), ["docker.io"]);
    let table: Table =
        toml::from_str("name = \"night\"\nimages = [\"later\"]\nplatforms = [\"linux/arm64\"]\nat = \"02:00\"")
            .unwrap();
    let schedule = table.schedule(0, &[], &routes).unwrap();
    harness.bench.mirror.warm.schedule(vec![schedule], routes);
    let mut ops = Browser::logged_in(&harness, "ops");
    let page = ops.get("/warm");
    for words in ["night", "linux/arm64", "02:00:00 UTC", "href=\"/warm?list=night\""] {
        assert!(page.body.contains(words), "{words}: {}", page.body);
    }
    let page = ops.get("/warm?list=night");
    assert!(page.body.contains(">docker.io/library/later:latest</textarea>"), "{}", page.body);
    assert!(page.body.contains("value=\"linux/arm64\""), "{}", page.body);
    let token = page.token();
    let fields = [("csrf", &*token), ("images", "later"), ("reason", "tonight"), ("confirmed", "yes")];
    assert_eq!(ops.post("/warm/start", &fields).status, 303);
    let page = ops.until("/warm/1?state=waiting", "tried again");
    assert!(page.body.contains("by forecast"), "{}", page.body);

    let answer = ops.post("/warm/1/cancel", &[("csrf", &token), ("reason", " ")]);
    assert!(answer.status == 400 && answer.body.contains("Say why."), "{}", answer.body);
    let mut cancel = |confirmed: &str| {
        ops.post("/warm/1/cancel", &[("csrf", &token), ("reason", "not tonight"), ("confirmed", confirmed)])
    };
    let answer = cancel("");
    assert!(answer.status == 200 && answer.body.contains("Cancel warm 1?"), "{}", answer.body);
    let answer = cancel("no");
    assert!(answer.body.contains("value=\"not tonight\"") && !answer.body.contains("cancelled"), "{}", answer.body);
    assert_eq!(cancel("yes").status, 303);
    let cancelled = AdminEvent::WarmCancelled { job: 1, reason: "not tonight".into() };
    assert_eq!(last_change(&harness), ("ops".to_owned(), Event::Admin(cancelled)));
    assert!(ops.get("/warm/1").body.contains("cancelled"));
}
