//! Weir on file systems of its own that are full, without inodes, or read-only. Needs root, for a mount namespace.

use std::{path::Path, process::Command, time::Duration};

use weir_conformance::client::{Request, Response};

use super::support::{WEIR, World, digest};

/// A small file system as the data directory.
async fn on_tmpfs(options: &str) -> World {
    let mount = format!("mkdir -p \"$DATA\" && mount -t tmpfs -o {options} weir \"$DATA\" && exec \"$WEIR\" \"$@\"");
    World::start(&format!("export WEIR DATA\nexec unshare --mount sh -c '{mount}' sh \"$@\""), "").await
}

async fn ban(world: &World, client: &str) -> Response {
    let body = format!("{{\"client\":\"{client}\",\"duration\":\"1h\",\"reason\":\"test\"}}");
    let request = Request::new("POST", "/api/v1/bans").with("Content-Type", "application/json").body(body.as_bytes());
    world.admin.send(&request).await.unwrap()
}

/// What `/readyz?verbose` says is wrong with the disk, once it does.
async fn disk_problem(world: &World) -> String {
    loop {
        let json = world.admin.send(&Request::get("/readyz?verbose")).await.unwrap().json();
        let disk = json["checks"].as_array().unwrap().iter().find(|check| check["name"] == "disk").unwrap();
        if let Some(problem) = disk["problem"].as_str() {
            return problem.to_owned();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Takes all the bytes that are left.
fn fill(directory: &Path) {
    use std::io::Write as _;
    let mut filler = std::fs::File::create(directory.join("filler")).unwrap();
    while filler.write_all(&[0; 4096]).is_ok() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capacity_above_the_disk_is_the_disks_and_the_log_says_so() {
    let world = on_tmpfs("size=16m").await;
    let status = world.admin.send(&Request::get("/api/v1/status")).await.unwrap().json();
    assert_eq!(status["storage"]["capacity_bytes"], 16 << 20, "{status}");
    assert!(world.weir.log_tail().contains("storage.capacity is more than the disk has"), "{}", world.weir.log_tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_nothing_is_acknowledged_that_is_not_kept_and_pulls_go_on() {
    let world = on_tmpfs("size=16m").await;
    let kept = ban(&world, "192.0.2.7").await;
    assert_eq!(kept.status(), 201, "{}", kept.describe());
    assert_eq!(world.push(b"kept").await, 201);
    fill(&world.data());
    // What fits into the last block of the journal is on the disk; sooner or later one does not.
    let mut acknowledged = Vec::new();
    let refused = loop {
        let client = format!("198.51.100.{}", acknowledged.len() + 1);
        let answer = ban(&world, &client).await;
        if answer.status() != 201 {
            break answer;
        }
        acknowledged.push(client);
        assert!(acknowledged.len() < 200, "every ban is acknowledged on a full disk");
    };
    assert_eq!(refused.status(), 507, "{}", refused.describe());
    assert!(refused.text().contains("a restart forgets it"), "{}", refused.text());
    assert_eq!(world.push(&[7; 100_000]).await, 507);
    world.pull("library/passed").await;
    let problem = disk_problem(&world).await;
    assert!(problem.contains("no space left"), "{problem}");

    std::fs::remove_file(world.data().join("filler")).unwrap();
    assert_eq!(ban(&world, "203.0.113.1").await.status(), 201);
    assert_eq!(world.push(&[7; 100_000]).await, 201);
    let journal = String::from_utf8_lossy(&std::fs::read(world.data().join("journals/audit")).unwrap()).into_owned();
    acknowledged.extend(["192.0.2.7".to_owned(), "203.0.113.1".to_owned()]);
    assert!(acknowledged.iter().all(|client| journal.contains(client)), "{acknowledged:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_inodes_pushes_are_507_and_pulls_go_on() {
    let world = on_tmpfs("size=64m,nr_inodes=600").await;
    assert_eq!(world.push(b"kept").await, 201);
    let mut number = 0;
    while std::fs::write(world.data().join(format!("filler{number}")), "").is_ok() {
        number += 1;
    }
    let problem = disk_problem(&world).await;
    assert!(problem.contains("no inodes left"), "{problem}");
    // Eviction may free a few; what is hosted is never evicted.
    let mut statuses = Vec::new();
    for seed in 0..40_u8 {
        statuses.push(world.push(&[seed; 1000]).await);
    }
    assert!(statuses.iter().all(|status| matches!(status, 201 | 507)) && statuses.contains(&507), "{statuses:?}");
    // Whichever of the files and directories of a push is the one for which none is left.
    for free in 1..8_u8 {
        let taken = std::fs::read_dir(world.data())
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("filler"));
        taken.take(free.into()).for_each(|entry| std::fs::remove_file(entry.path()).unwrap());
        let bytes = [100 + free; 1000];
        let target = format!("/v2/team/new{free}/blobs/uploads/?digest={}", digest(&bytes));
        let pushed = world.client.send(&Request::new("POST", target).body(&bytes[..])).await.unwrap();
        assert!(matches!(pushed.status(), 201 | 507), "{free}: {}", pushed.describe());
        while std::fs::write(world.data().join(format!("filler{number}")), "").is_ok() {
            number += 1;
        }
    }
    world.pull("library/passed").await;
    let kept = world.client.send(&Request::get(world.client.blob("team/a", &digest(b"kept")))).await.unwrap();
    assert_eq!(kept.text(), "kept");
}

/// Served from a disk that takes no records, pulls would be spent that are not on record.
#[test]
fn a_read_only_data_directory_is_refused_at_start_with_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let script = format!("mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec {WEIR} serve");
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .arg(&data)
        .current_dir(directory.path())
        .env("WEIR_STORAGE__ROOT", &data)
        .env("WEIR_SERVER__LISTEN", "127.0.0.1:0")
        .env("WEIR_ADMIN__LISTEN", "127.0.0.1:0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let sentence = format!("weir: {} is on a read-only file system: check it, and mount it writable", data.display());
    assert!(said.contains(&sentence), "{said}");
}
