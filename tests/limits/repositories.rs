//! `allow` and `deny` of an upstream: what is not mirrored is refused with a sentence, without a request upstream.

use serde_json::{Value, json};

use super::support::World;

fn rules(world: &World) -> Value {
    world.admin("GET", "/api/v1/cache/rules", "")["rules"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_mirrored_is_refused_without_a_request_upstream_and_counted() {
    let world = World::start(None, "").await;
    world.images("a", 2);
    world.images("b", 1);
    let mut client = world.client("127.0.0.1");
    assert_eq!(client.pull("a0").status, 200);
    assert_eq!(rules(&world), json!([]));

    let said = world.weir.log().len();
    world.weir.configure_upstream("deny = [\"library/a*\"]\n");
    world.weir.until_log(said, r#""message":"reloaded""#);
    assert!(!world.weir.log()[said..].contains("waits for a restart"), "{}", &world.weir.log()[said..]);
    let asked = world.hub.log().len();
    for (method, path) in [
        ("GET", "/v2/library/a0/manifests/latest"),
        ("GET", "/v2/a1/manifests/latest?ns=docker.io"),
        ("GET", "/v2/docker.io/library/a1/tags/list"),
        ("GET", "/v2/a1/blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ] {
        let response = client.send(method, path, "", "");
        let sentence = response.message("DENIED");
        assert_eq!(response.status, 403, "{path}: {response:?}");
        assert_eq!(response.reason, "Repository not mirrored here");
        assert!(sentence.ends_with(" is not mirrored here: its operator denies library/a* of docker.io"), "{sentence}");
    }
    assert_eq!(client.send("HEAD", "/v2/library/a0/manifests/latest", "", "").status, 403);
    assert_eq!(world.hub.log().len(), asked, "upstream was asked");
    world.weir.until_log(said, r#""method":"HEAD""#);
    let log = world.weir.log();
    let refused = log[said..].lines().filter(|line| line.contains(r#""rule":"not_mirrored""#));
    let refused: Vec<Value> = refused.map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(refused.len() == 5 && refused.iter().all(|line| line["upstream"] == "docker.io"), "{refused:?}");
    let catalog = client.send("GET", "/v2/_catalog", "", "").json();
    assert_eq!(catalog["repositories"], json!([]), "what cannot be pulled is not listed");
    let rule = json!({"upstream": "docker.io", "rule": "deny", "patterns": ["library/a*"], "refused": 5});
    assert_eq!(rules(&world), json!([rule]));
    // What is still here is told apart from what is answered.
    let listed = world.admin("GET", "/api/v1/cache", "");
    assert_eq!(
        (listed["images"][0]["name"].as_str(), &listed["images"][0]["denied"]),
        (Some("docker.io/library/a0:latest"), &json!(true))
    );
    let (done, text) = world.weir.cli(&["cache", "list"]);
    let row = text.lines().find(|row| row.starts_with("docker.io/library/a0:latest")).unwrap();
    assert!(done && row.contains(" denied") && !row.contains("fresh"), "{text}");
    let (done, text) = world.weir.cli(&["cache", "show", "a0"]);
    assert!(
        done && text.contains("  denied: allow or deny of its upstream refuses it") && !text.contains("fresh"),
        "{text}"
    );
    let page = world.weir.admin("GET", "/images", "").body;
    let row = page.split("<tr").find(|row| row.contains("library/a0")).unwrap();
    assert!(row.contains(">denied</span>") && !row.contains("until "), "{row}");
    let (done, text) = world.weir.cli(&["cache", "rules"]);
    assert!(done && text.contains("library/a*") && text.contains("5 refused"), "{text}");
    let metrics = world.weir.admin("GET", "/metrics", "").body;
    let line = r#"weir_repository_refused_total{upstream="docker.io",rule="deny",patterns="library/a*"} 5"#;
    assert!(metrics.contains(line), "{metrics}");
    assert_eq!(client.pull("b0").status, 200);

    let said = world.weir.log().len();
    world.weir.configure_upstream("deny = [\"library/a*\"]\nallow = [\"acme/*\"]\n");
    world.weir.until_log(said, r#""message":"reloaded""#);
    let sentence = client.pull("b0").message("DENIED");
    assert!(sentence.ends_with("its operator allows only other repositories of docker.io"), "{sentence}");
    let refused: Vec<u64> =
        rules(&world).as_array().unwrap().iter().map(|rule| rule["refused"].as_u64().unwrap()).collect();
    assert_eq!(refused, [1, 5], "a rule that stays counts on");

    let said = world.weir.log().len();
    world.weir.configure_upstream("deny = [\"docker.io/library/a*\"]\n");
    world.weir.until_log(said, "the new configuration is not used");
    assert!(world.weir.log()[said..].contains("leave out the registry"), "{}", &world.weir.log()[said..]);
    let said = world.weir.log().len();
    world.weir.configure_upstream("");
    world.weir.until_log(said, r#""message":"reloaded""#);
    assert_eq!(client.pull("a0").status, 200);
}
