//! The access log: what a line says, where it goes, and which lines are left out.

use std::os::unix::net::UnixDatagram;

use rustix::process::Signal;
use serde_json::Value;
use weir_conformance::hub::{self, Hub, Spec};

use crate::deploy::{PATIENCE, Running, ask, printed, weir};

/// `weir`, with the parameters that `weir hash-password` uses.
const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$kxGijz/3o2vdXUodgFgFqg$xNIKwwOml04OOn6HB04DQtBkecO0nUsH9nxtip4ROiU";
/// `ci:weir`
const AUTHORIZATION: &str = "Authorization: Basic Y2k6d2Vpcg==\r\n";

/// The lines of `text` about requests, once there are so many.
fn lines(text: impl Fn() -> String, count: usize) -> Vec<Value> {
    let begun = std::time::Instant::now();
    loop {
        let text = text();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let lines: Vec<Value> = lines.filter(|line| line["target"] == "weir::access").collect();
        if lines.len() >= count {
            return lines;
        }
        assert!(begun.elapsed() < PATIENCE, "{} lines of {count}:\n{text}", lines.len());
        std::thread::yield_now();
    }
}

fn configured(config: &str, environment: &[(&str, &str)]) -> (tempfile::TempDir, Running) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("weir.toml");
    std::fs::write(&file, config).unwrap();
    let environment = [environment, &[("WEIR_CONFIG", file.to_str().unwrap())]].concat();
    let running = Running::start(&environment);
    (directory, running)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_says_who_asked_for_what_where_it_came_from_and_how_long_it_took() {
    let hub = Hub::start(hub::Settings::default()).await.unwrap();
    let image = hub.push(Spec::new("library/app").tags(["1.0"]).single()).unwrap();
    let config = format!(
        "[[upstream]]\nname = \"docker.io\"\ndefault = true\nurl = \"http://{}\"\n\
         [[account]]\nname = \"ci\"\npassword_hash = \"{HASH}\"\n",
        hub.registry_address()
    );
    let (_directory, running) = configured(&config, &[]);
    let extra = format!("User-Agent: containerd/2.1 \"x\"\r\nAccept: */*\r\nX-Request-Id: an-id\r\n{AUTHORIZATION}");
    for _ in ["cold", "warm"] {
        assert_eq!(ask(running.registry, "GET", "/v2/library/app/manifests/1.0", &extra).0, 200);
    }
    let layer = image.platforms[0].layers[0].digest.to_string();
    let path = format!("/v2/library/app/blobs/{layer}");
    assert_eq!(ask(running.registry, "GET", &path, "Accept: */*\r\n").0, 200);
    assert_eq!(ask(running.registry, "GET", "/v2/library/none/manifests/1.0", "Accept: */*\r\n").0, 404);
    let lines = lines(|| running.log(), 4);
    let digest = image.digest().to_owned();
    for (line, cache) in lines.iter().zip(["miss", "hit"]) {
        for (field, value) in [
            ("method", "GET"),
            ("path", "/v2/library/app/manifests/1.0"),
            ("client", "ci"),
            ("account", "ci"),
            ("address", "127.0.0.1"),
            ("user_agent", r#"containerd/2.1 \"x\""#),
            ("upstream", "docker.io"),
            ("repository", "library/app"),
            ("reference", "1.0"),
            ("digest", &digest),
            ("cache", cache),
            ("request_id", "an-id"),
        ] {
            assert_eq!(line[field], value, "{field}: {line}");
        }
        assert!(line["bytes"].as_u64().unwrap() > 0 && line["first_byte_ms"].is_u64() && line["ms"].is_u64(), "{line}");
        assert_eq!((&line["wait_ms"], &line["code"]), (&Value::Null, &Value::Null), "it waited for no pull");
    }
    let (blob, missing) = (&lines[2], &lines[3]);
    assert_eq!(
        (&blob["digest"], &blob["account"], &blob["client"]),
        (&layer.into(), &Value::Null, &"127.0.0.1".into())
    );
    assert_eq!((&missing["status"], &missing["code"]), (&404.into(), &"NAME_UNKNOWN".into()), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_goes_to_its_file_which_is_opened_anew_on_sighup() {
    let directory = tempfile::tempdir().unwrap();
    let [path, moved] = ["access.log", "access.log.1"].map(|name| directory.path().join(name));
    let running = Running::start(&[("WEIR_LOG__ACCESS_FILE", path.to_str().unwrap())]);
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(ask(running.registry, "GET", "/v2/", "").0, 200);
    assert_eq!(lines(|| read(&path), 1)[0]["path"], "/v2/");
    std::fs::rename(&path, &moved).unwrap();
    running.signal(Signal::HUP);
    // It is there again before anything is logged.
    while !path.exists() {
        std::thread::yield_now();
    }
    assert_eq!(ask(running.registry, "GET", "/v2/", "").0, 200);
    lines(|| read(&path), 1);
    assert_eq!(read(&moved).lines().count(), 1);
    let events = running.log();
    assert!(events.contains("\"serving\"") && !events.contains("weir::access"), "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_goes_to_syslog_which_no_request_waits_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let syslog = UnixDatagram::bind(&path).unwrap();
    let running = Running::start(&[("WEIR_LOG__ACCESS_SYSLOG", path.to_str().unwrap())]);
    // Many more than its socket holds.
    let requests = 200;
    for _ in 0..requests {
        assert_eq!(ask(running.registry, "GET", "/v2/", "").0, 200);
    }
    let mut buffer = [0; 8192];
    for _ in 0..requests {
        let length = syslog.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        let (head, line) = text.split_once("]: ").unwrap();
        assert!(head.starts_with("<134>weir["), "{text}");
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["status"], 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_refusals_of_one_client_few_are_written_and_the_rest_is_counted() {
    let throttle = "[[throttle]]\nname = \"throttle_unauthenticated_registry_api\"\nrequests_per_period = 1\n\
                    period_in_seconds = 3600\nburst = 1\n";
    for (setting, written) in [("5", 5), ("0", 40)] {
        let (_directory, running) = configured(throttle, &[("WEIR_LOG__REFUSAL_LINES", setting)]);
        let path = "/v2/library/none/tags/list";
        while ask(running.registry, "GET", path, "").0 != 429 {}
        for _ in 1..40 {
            assert_eq!(ask(running.registry, "GET", path, "").0, 429);
        }
        // A line that is not about a refusal comes after all others.
        assert_eq!(ask(running.registry, "GET", "/v2/", "").0, 200);
        let refused = |lines: &[Value]| lines.iter().filter(|line| line["status"] == 429).count();
        let ended = |lines: &[Value]| lines.iter().any(|line| line["path"] == "/v2/");
        let mut found = Vec::new();
        while !ended(&found) {
            found = lines(|| running.log(), found.len() + 1);
        }
        assert_eq!(refused(&found), written, "{found:?}");
        let log = running.log();
        assert_eq!(log.matches("weir::throttle").count(), written, "{log}");
        let metrics = ask(running.admin, "GET", "/metrics", "").2;
        let counted = format!("weir_log_left_out_lines_total {}", 40 - written);
        assert!(metrics.lines().any(|line| line == counted), "{counted}: {metrics}");
    }
}

#[test]
fn an_access_log_that_cannot_be_written_is_refused_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let start = |environment: &[(&str, &str)]| {
        let mut command = weir(&["serve"]);
        command.current_dir(directory.path()).env("WEIR_SERVER__LISTEN", "127.0.0.1:0");
        let output =
            command.env("WEIR_ADMIN__LISTEN", "127.0.0.1:0").envs(environment.iter().copied()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        printed(&output)
    };
    let text = start(&[("WEIR_LOG__ACCESS_FILE", "/nonexistent/access.log")]);
    assert!(text.contains("log.access_file = \"/nonexistent/access.log\": No such file"), "{text}");
    let text = start(&[("WEIR_LOG__ACCESS_SYSLOG", "/nonexistent/log")]);
    assert!(text.contains("log.access_syslog = \"/nonexistent/log\": No such file"), "{text}");
    let text = start(&[("WEIR_LOG__ACCESS_FILE", "a"), ("WEIR_LOG__ACCESS_SYSLOG", "b")]);
    assert!(text.contains("log.access_file = \"a\"") && text.contains("leave one empty"), "{text}");
}
