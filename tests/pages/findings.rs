//! *Findings*: what rules say of all that is cached, as a page, as CSV and as SARIF.

use serde_json::Value;
use weir_conformance::hub::{Layer, Spec};

use super::harness::{Browser, Harness};
use crate::mirror::support::pull;

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_is_said_to_be_no_container_image() {
    let harness = Harness::start().await;
    let config = serde_json::json!({"config": {"mediaType": "application/vnd.oci.empty.v1+json"}, "layers": []});
    let artifact = Spec { manifest: config, ..Spec::new("library/artifact").single() };
    pull(&harness.bench.hub, &harness.bench.mirror, artifact).await;
    let page =
        Browser::logged_in(&harness, "ops").get("/image?repository=docker.io%2Flibrary%2Fartifact&reference=latest");
    assert!(page.body.contains("<h2>Findings</h2><p>It is no container image.</p>"), "{}", page.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_all_that_is_cached_is_found_by_rule_registry_and_age() {
    let harness = Harness::start().await;
    harness.bench.mirror.layers.start().unwrap();
    let armed = Layer::Files(vec![("usr/bin/su".to_owned(), 0o4755, "x".to_owned())]);
    let sound = serde_json::json!({"config": {"User": "65532"}});
    let (hub, mirror) = (&harness.bench.hub, &harness.bench.mirror);
    let armed = Spec { layers: vec![armed], ..Spec::new("library/armed").single() };
    pull(hub, mirror, armed.config(sound)).await;
    pull(hub, mirror, Spec::new("library/root").single().seed(7)).await;
    let mut ops = Browser::logged_in(&harness, "ops");
    let setuid = "Has files that are setuid or setgid: usr/bin/su.";
    let page = ops.get("/policy");
    for words in [setuid, "Starts as root.", "library/armed:latest", "library/root:latest", "href=\"/image?repository="]
    {
        assert!(page.status == 200 && page.body.contains(words), "{words}: {}", page.body);
    }
    for (query, armed, root) in [
        ("rule=no_setuid", true, false),
        ("rule=non_root", false, true),
        ("registry=docker.io&rule=no_setuid", true, false),
        ("registry=ghcr.io", false, false),
        ("pattern=armed", true, false),
        ("not_arrived_within=1h", false, false),
        ("outcome=pass&rule=non_root", true, false),
    ] {
        let body = ops.get(&format!("/policy?{query}")).body;
        let has = |name: &str| body.contains(&format!("library/{name}:latest"));
        assert_eq!((has("armed"), has("root")), (armed, root), "{query}: {body}");
    }
    for (query, wrong) in [("rule=none", "Rule is one of non_root"), ("not_arrived_within=soon", "is a duration")] {
        let page = ops.get(&format!("/policy?{query}"));
        assert!(page.status == 400 && page.body.contains(wrong), "{query}: {}", page.body);
    }
    let of_image = ops.get("/image?repository=docker.io%2Flibrary%2Farmed&reference=latest");
    assert!(of_image.body.contains("Findings of linux/amd64") && of_image.body.contains(setuid), "{}", of_image.body);

    let csv = ops.get("/policy/csv?rule=no_setuid");
    let rows: Vec<&str> = csv.body.lines().collect();
    assert!(csv.header("content-type").starts_with("text/csv") && rows.len() == 2, "{}", csv.body);
    assert!(rows[1].starts_with("\"docker.io/library/armed:latest\",\"linux/amd64\",\"sha256:"), "{}", csv.body);
    let mut operator = Browser::new(&harness);
    let mut ask = |path: &str| serde_json::from_str::<Value>(&operator.get(path).body).unwrap();
    let first = ask("/api/v1/findings?n=1");
    assert_eq!(
        (&first["findings"][0]["name"], &first["next"]),
        (&"docker.io/library/armed:latest".into(), &"docker.io/library/armed:latest".into())
    );
    let second = ask("/api/v1/findings?n=1&last=docker.io/library/armed:latest&rule=non_root");
    assert_eq!((&second["findings"][0]["finding"], &second["next"]), (&"starts as root".into(), &Value::Null));
    for path in ["/api/v1/findings?format=sarif&rule=no_setuid", "/api/v1/images/library%2Farmed?format=sarif"] {
        let sarif = ask(path);
        assert_eq!(sarif["version"], "2.1.0");
        let run = &sarif["runs"][0];
        let result = run["results"].as_array().unwrap().iter().find(|result| result["ruleId"] == "no_setuid").unwrap();
        let index = result["ruleIndex"].as_u64().unwrap() as usize;
        assert_eq!(run["tool"]["driver"]["rules"][index]["id"], "no_setuid");
        let place = &result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"];
        assert_eq!((&result["level"], place), (&"error".into(), &"docker.io/library/armed%3Alatest".into()));
    }
    for path in ["/policy", "/policy/csv"] {
        assert_eq!(Browser::logged_in(&harness, "ann").get(path).status, 403, "{path}");
    }
}
