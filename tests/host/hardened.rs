//! Weir as a container runs it: another user, a root file system that is read-only, no capabilities, no new privileges, no core dump.

use weir_conformance::client::Request;

use super::support::World;

const CONFINED: &str = r#"
mkdir -p "$DATA" && chmod 755 "$HERE" "$(dirname "$DATA")" && chmod 644 "$3" && chown 65532:65532 "$DATA" && touch "$HERE/program"
export WEIR DATA HERE
exec unshare --mount sh -c '
    mount --bind "$WEIR" "$HERE/program" && mount --bind "$DATA" "$DATA" && mount -o remount,bind,ro / &&
    exec setpriv --reuid 65532 --regid 65532 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$HERE/program" "$@"' sh "$@"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_without_privileges_and_writes_nothing_but_its_data() {
    let world = World::start(CONFINED, "").await;
    world.pull("library/busybox").await;
    assert_eq!(world.push(b"pushed").await, 201);
    let manifest = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let put = Request::new("PUT", world.client.manifest("team/a", "1"))
        .with("Content-Type", "application/vnd.oci.image.index.v1+json")
        .body(manifest.as_bytes());
    assert_eq!(world.client.send(&put).await.unwrap().status(), 201);
    let ready = world.admin.send(&Request::get("/readyz?verbose")).await.unwrap().json();
    assert!(ready["checks"].as_array().unwrap().iter().all(|check| check["ok"] == true), "{ready}");

    let status = std::fs::read_to_string(format!("/proc/{}/status", world.weir.pid().unwrap())).unwrap();
    for line in
        ["Uid:\t65532\t65532\t65532\t65532", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"]
    {
        assert!(status.contains(line), "{line}: {status}");
    }
}

/// What is in memory has passwords in it.
#[tokio::test(flavor = "multi_thread")]
async fn it_leaves_no_core_dump() {
    let world = World::start("ulimit -c unlimited\nexec \"$WEIR\" \"$@\"", "").await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", world.weir.pid().unwrap())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(line.split_whitespace().nth(4), Some("0"), "{line}");
}
