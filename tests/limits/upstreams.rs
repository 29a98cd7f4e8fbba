//! Upstreams and hosted namespaces that are added, changed and removed while Weir runs.

use weir_conformance::hub::{self, Hub, Kind, Match, Spec};

use super::support::World;

/// Reads the configuration again, and nothing waits for a restart.
fn reload(world: &World, text: &str) {
    let said = world.weir.log().len();
    world.weir.write(text);
    world.weir.until_log(said, "\"message\":\"reloaded\"");
    assert!(!world.weir.log()[said..].contains("waits for a restart"), "{}", &world.weir.log()[said..]);
}

fn upstream(name: &str, hub: &Hub, more: &str) -> String {
    format!("[[upstream]]\nname = \"{name}\"\nurl = \"{}\"\n{more}\n", hub.registry())
}

fn count(hub: &Hub, kind: Kind) -> usize {
    hub.log().iter().filter(|request| request.kind == kind).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_are_added_changed_and_removed_while_a_pull_goes_on() {
    let world = World::start(None, "").await;
    let other = Hub::start(hub::Settings::default()).await.unwrap();
    world.images("a", 1);
    other.push(Spec::new("library/b0").single().layers([100])).unwrap();
    let long = world.hub.push(Spec::new("library/long").single().layers([300_000])).unwrap();
    let (hub, layer) = (upstream("docker.io", &world.hub, "default = true"), &long.platforms[0].layers[0]);
    let mut client = world.client("127.0.0.1");
    assert_eq!((client.pull("long").status, client.pull("a0").status), (200, 200));

    let gate = world.hub.hold(Match::kind(Kind::CdnGet));
    let mut slow = world.client("127.0.0.2");
    let path = format!("/v2/library/long/blobs/{}", layer.digest);
    let pull = std::thread::spawn(move || slow.send("HEAD", "/v2/", "", "").status + slow.get(&path).status);
    assert!(gate.started().await, "the layer is asked upstream");

    let b0 = "/v2/library/b0/manifests/latest?ns=ghcr.io";
    assert_eq!(client.get(b0).status, 404, "ghcr.io is not configured");
    let tokens = count(&world.hub, Kind::Token);
    reload(&world, &format!("{hub}{}", upstream("ghcr.io", &other, "")));
    assert_eq!(client.get(b0).status, 200, "it was added");
    assert_eq!(client.get("/v2/library/a0/tags/list").status, 200);
    assert_eq!(count(&world.hub, Kind::Token), tokens, "an upstream that stays keeps its tokens");

    reload(&world, &upstream("docker.io", &other, "default = true"));
    assert_eq!(client.get(b0).status, 404, "it was removed");
    assert_eq!(client.pull("b0").status, 200, "docker.io is at another URL");
    assert_eq!(client.pull("a0").status, 200, "what is cached stays");

    gate.open();
    assert_eq!(pull.join().unwrap(), 400, "the pull that began before ends whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_hosted_and_mirrored_again_without_a_restart() {
    let world = World::start(None, "").await;
    let hub = upstream("docker.io", &world.hub, "default = true");
    let mut client = world.client("127.0.0.1");
    let mut push =
        |name: &str| client.send("POST", &format!("/v2/{name}/blobs/uploads/"), "Content-Length: 0\r\n", "").status;
    assert_eq!(push("local/app"), 405, "it is mirrored");
    let hosted = |more: &str| format!("[hosted]\nnamespaces = [\"local/*\"]\n{more}{hub}");
    reload(&world, &hosted("anonymous_push = true\n"));
    assert_eq!((push("local/app"), push("team/app")), (202, 405));
    reload(&world, &hosted(""));
    assert_eq!(push("local/app"), 401, "only accounts push now");
    reload(&world, &hub);
    assert_eq!(push("local/app"), 405, "it is mirrored again");
}
