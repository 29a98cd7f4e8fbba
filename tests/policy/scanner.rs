//! `weir image --scanner`: what a scanner says is kept by digest and decides; a scanner that fails, and a verdict of nothing that is
//! cached, change nothing.

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use serde_json::{Value, json};
use weir_conformance::hub::{self, Hub, Image, Spec};

use super::{Policed, outcome, policy, report, spec};
use crate::{
    cache::World,
    deploy::{Running, ask, weir},
};

const CRITICAL: &str =
    r#"{"SchemaVersion":2,"Results":[{"Vulnerabilities":[{"VulnerabilityID":"CVE-2026-1","Severity":"CRITICAL"}]}]}"#;
const NOTHING: &str = r#"{"matches":[]}"#;
/// It reads the archive that it is given, which no other user may, as a scanner would; and prints the file `output` beside it.
const SOUND: &str =
    "test \"$(stat -c %a \"$(dirname \"$2\")\")\" = 700 && tar -xOf \"$2\" index.json >/dev/null || exit 3
cat \"$(dirname \"$0\")/output\"";

/// A program that stands for a scanner, with a configuration that names it.
struct Scanner(tempfile::TempDir);

impl Scanner {
    fn new(script: &str) -> Scanner {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("scanner");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(directory.path().join("temporary")).unwrap();
        let scanner = Scanner(directory);
        scanner.configure(&program, "10m");
        scanner
    }

    fn configure(&self, program: &Path, timeout: &str) {
        let program = program.display().to_string();
        let command = format!("command = [{program:?}, \"--input\", \"{{archive}}\"]\ntimeout = \"{timeout}\"");
        std::fs::write(self.0.path().join("weir.toml"), format!("[scanner]\n{command}\n")).unwrap();
    }

    /// The exit status of `weir image --scanner`, and all that it prints. It leaves no file.
    fn scan(&self, world: &World, image: &Image, output: &str) -> (Option<i32>, String) {
        std::fs::write(self.0.path().join("output"), output).unwrap();
        let (admin, config) = (format!("http://{}", world.running.admin), self.0.path().join("weir.toml"));
        let mut command = weir(&["image", &image.repository, "--scanner", "--admin", &admin]);
        let temporary = self.0.path().join("temporary");
        let output = command.arg("--config").arg(config).env("TMPDIR", &temporary).output().unwrap();
        assert_eq!(std::fs::read_dir(temporary).unwrap().count(), 0, "a file is left");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), printed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_configured_scanner_says_is_kept_and_decides() {
    let policed = Policed::start(&policy("enforce", "no_critical = true")).await;
    let world = &policed.world;
    let image = world.hub.push(spec("sound")).unwrap();
    world.pull(&image, 0);
    let scanner = Scanner::new(SOUND);
    let (status, printed) = scanner.scan(world, &image, CRITICAL);
    let finding = "has 1 critical vulnerability, such as CVE-2026-1, by trivy";
    assert!(status == Some(1) && printed.contains(finding), "{status:?} {printed}");
    let (status, _, body) = policed.manifest("GET", &image, "latest");
    assert!(status == 403 && body.contains(&format!("it {finding} (no_critical)")), "{body}");
    let (status, printed) = scanner.scan(world, &image, NOTHING);
    let finding = "has no critical vulnerability and 0 high ones, by grype";
    assert!(status == Some(0) && printed.contains(finding), "{status:?} {printed}");
    assert_eq!(policed.manifest("GET", &image, "latest").0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_scanner_said_is_of_one_digest_and_is_known_after_a_restart() {
    let hub = Hub::start(hub::Settings::default()).await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let url = format!("http://{}", hub.registry_address());
    let start =
        || Running::start(&[("WEIR_UPSTREAM__0__URL", &url), ("WEIR_STORAGE__ROOT", data.path().to_str().unwrap())]);
    let world = World { hub, running: start() };
    let [mended, bad, unknown] = ["scanned/mended", "scanned/bad", "scanned/unknown"]
        .map(|repository| world.hub.push(Spec::new(repository).single().seed(repository.len() as u64)).unwrap());
    [&mended, &bad, &unknown].iter().for_each(|image| world.pull(image, 0));
    let scanner = Scanner::new(SOUND);
    for (image, output) in [(&mended, CRITICAL), (&mended, NOTHING), (&bad, CRITICAL)] {
        let (status, printed) = scanner.scan(&world, image, output);
        assert!(status.is_some_and(|status| status < 2), "{status:?} {printed}");
    }
    let said = |world: &World| {
        [&mended, &bad, &unknown].map(|image| {
            let report = report(world, image);
            let (outcome, finding) = outcome(&report, 0, "no_critical");
            (outcome.to_owned(), finding.to_owned())
        })
    };
    let expected = [
        ("pass", "has no critical vulnerability and 0 high ones, by grype"),
        ("fail", "has 1 critical vulnerability, such as CVE-2026-1, by trivy"),
        ("unknown", "was not scanned for vulnerabilities"),
    ]
    .map(|(outcome, finding)| (outcome.to_owned(), finding.to_owned()));
    assert_eq!(said(&world), expected);
    let World { hub, running } = world;
    // The directory has one owner at a time.
    drop(running);
    let world = World { hub, running: start() };
    world.counted();
    assert_eq!(said(&world), expected, "after a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scanner_that_fails_is_late_or_says_what_is_not_read_is_an_error_and_changes_nothing() {
    let world = World::start().await;
    let image = world.hub.push(spec("sound")).unwrap();
    world.pull(&image, 0);
    assert_eq!(Scanner::new(SOUND).scan(&world, &image, CRITICAL).0, Some(1));
    let before = report(&world, &image);
    for (script, timeout, expected) in [
        ("cat \"$(dirname \"$0\")/output\"; exit 3", "10m", "scanner: it failed, exit status: 3"),
        ("kill -9 $$", "10m", "scanner: it failed, signal: 9"),
        ("exec tail -f /dev/null", "100ms", "scanner: it took longer than scanner.timeout"),
        ("echo no such image", "10m", "scanner said what is not read: "),
        ("echo '{\"matches\":7}'", "10m", "scanner said what is not read: "),
        ("true", "10m", "scanner said what is not read: "),
    ] {
        let scanner = Scanner::new(script);
        scanner.configure(&scanner.0.path().join("scanner"), timeout);
        let (status, printed) = scanner.scan(&world, &image, NOTHING);
        assert!(status == Some(2) && printed.contains(expected), "{script}: {status:?} {printed}");
    }
    let scanner = Scanner::new(SOUND);
    let absent = scanner.0.path().join("absent");
    scanner.configure(&absent, "10m");
    let (status, printed) = scanner.scan(&world, &image, NOTHING);
    let sentence = format!("{}: No such file or directory", absent.display());
    assert!(status == Some(2) && printed.contains(&sentence), "{status:?} {printed}");
    std::fs::write(scanner.0.path().join("weir.toml"), "").unwrap();
    let (status, printed) = scanner.scan(&world, &image, NOTHING);
    assert!(status == Some(2) && printed.contains("no scanner is configured: write scanner.command"), "{printed}");
    assert_eq!(report(&world, &image), before);
    // Nothing of a platform that was not pulled is there to be scanned.
    let away = world.hub.push(Spec::new("library/away")).unwrap();
    assert_eq!(ask(world.running.registry, "GET", "/v2/library/away/manifests/latest", "Accept: */*\r\n").0, 200);
    let (status, printed) = Scanner::new(SOUND).scan(&world, &away, NOTHING);
    assert!(status == Some(2) && printed.contains("is in the cache; pull it first"), "{status:?} {printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_of_nothing_that_is_cached_or_with_names_that_are_none_is_refused() {
    let world = World::start().await;
    let [image, other] = ["scanned/image", "scanned/another"]
        .map(|it| world.hub.push(Spec::new(it).single().seed(it.len() as u64)).unwrap());
    [&image, &other].iter().for_each(|image| world.pull(image, 0));
    let found = |named: Value| json!({"scanner": "trivy", "critical": 1, "high": 0, "named": named});
    let send = |name: &str, digest: &str, found: Value| {
        let body = json!({"image": name, "digest": digest, "found": found}).to_string();
        let head = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        let (status, _, answer) = ask(world.running.admin, "POST", "/api/v1/cache/scans", &format!("{head}\r\n{body}"));
        (status, answer)
    };
    let (name, digest) = (&*image.repository, image.digest());
    let one = || found(json!(["CVE-2026-1"]));
    let of_another = || json!({"scanner": "another", "critical": 0, "high": 0, "named": []});
    for (name, digest, found, status, sentence) in [
        (name, digest, found(json!(["CVE-2026-1 \u{1b}[2J"])), 400, "named has at most five names"),
        (name, digest, found(json!(vec!["a"; 6])), 400, "named has at most five names"),
        (name, digest, of_another(), 400, "unknown variant `another`, expected `trivy` or `grype`"),
        (name, "sha256:1", one(), 400, "digest"),
        ("A//B", digest, one(), 400, "NAME_INVALID"),
        ("scanned/absent", digest, one(), 404, "no image of this name is cached"),
        (name, other.digest(), one(), 404, "no platform of this image has this digest"),
    ] {
        let (found, answer) = send(name, digest, found);
        assert!(found == status && answer.contains(sentence), "{sentence}: {found} {answer}");
    }
    for image in [&image, &other] {
        assert_eq!(outcome(&report(&world, image), 0, "no_critical").0, "unknown", "nothing is kept");
    }
    assert_eq!(send(name, digest, one()), (200, json!({"digest": digest}).to_string()));
    assert_eq!(outcome(&report(&world, &image), 0, "no_critical").0, "fail");
}
