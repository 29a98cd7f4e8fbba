//! What operators do: reload, switch, the local socket, GitLab's headers on the admin API.

use rustix::process::Signal;

use super::{
    PROXY,
    support::{RawResponse, World},
    throttle,
};

const PULLS: &str = "throttle_unauthenticated_pulls";

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_in_force_whole_or_not_at_all() {
    let world = World::start(None, &format!("{PROXY}{}", throttle(PULLS, 100, "burst = 50"))).await;
    world.images("a", 1);
    let mut client = world.client("192.0.2.7");
    let left = |response: RawResponse| response.header("ratelimit").unwrap().to_owned();
    let first = left(client.pull("a0"));
    assert!(first.starts_with(&format!("\"{PULLS}\";r=49;")), "{first}");

    let said = world.weir.log().len();
    world.weir.configure(&format!("{PROXY}{}", throttle(PULLS, 200, "burst = 100")));
    world.weir.until_log(said, r#""message":"reloaded""#);
    // What was used stays used: one of a hundred and this one of two hundred.
    let left = left(client.pull("a0"));
    assert!(left.contains(";r=97;") || left.contains(";r=98;"), "{left}");

    let said = world.weir.log().len();
    world.weir.configure(&format!("{PROXY}{}[ban]\nmode = \"enforced\"\n", throttle(PULLS, 1, "")));
    world.weir.until_log(said, "the new configuration is not used");
    assert!(world.weir.log()[said..].contains("ban.mode"), "{}", &world.weir.log()[said..]);
    assert_eq!(client.pull("a0").status, 200, "nothing of it is in force");

    let said = world.weir.log().len();
    world.weir.signal(Signal::HUP);
    world.weir.until_log(said, "the new configuration is not used");
    let said = world.weir.log().len();
    world.weir.configure(&format!(
        "{PROXY}[[class]]\nname = \"bulk\"\ncidr = [\"192.0.2.0/24\"]\n{}",
        throttle(PULLS, 4, "burst = 1")
    ));
    world.weir.signal(Signal::HUP);
    world.weir.until_log(said, r#""message":"reloaded""#);
    let audit = world.admin("GET", "/api/v1/audit", "");
    assert_eq!(audit["audit"][0]["event"], "reloaded", "{audit}");
    assert_eq!(client.pull("a0").status, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_shut_out_of_the_admin_api_has_a_way_in() {
    let fixed = "algorithm = \"fixed_window\"";
    let world =
        World::start(None, &format!("{PROXY}{}", throttle("throttle_unauthenticated_admin_api", 3, fixed))).await;
    let mut last = None;
    for number in 1..=4 {
        let response = world.weir.admin("GET", "/api/v1/bans", "");
        assert_eq!(response.header("ratelimit-limit"), Some("1"), "three an hour is one a minute, rounded up");
        assert_eq!(response.header("ratelimit-name"), Some("throttle_unauthenticated_admin_api"));
        assert_eq!(response.header("ratelimit-observed"), Some(&*number.to_string()));
        assert_eq!(response.header("ratelimit-remaining"), Some(&*3_i32.saturating_sub(number).max(0).to_string()));
        assert!(response.header("ratelimit-reset").is_some());
        last = Some(response);
    }
    let denied = last.unwrap();
    assert_eq!(denied.status, 429);
    assert!(denied.header("ratelimit-resettime").is_some() && denied.header("retry-after").is_some(), "{denied:?}");
    assert_eq!(world.weir.admin("GET", "/healthz", "").status, 200);

    let (ok, printed) = world.weir.cli(&["throttle", "list"]);
    assert!(
        ok && printed.contains("throttle_unauthenticated_admin_api (enforce): 3 in 1 h\n  denied 1 requests"),
        "{printed}"
    );
    let (ok, printed) = world.weir.cli(&["throttle", "off", "throttle_unauthenticated"]);
    assert!(ok && printed.contains("(off, switched by hand)"), "{printed}");
    assert_eq!(world.weir.admin("GET", "/api/v1/bans", "").status, 200);
    let (ok, printed) = world.weir.cli(&["throttle", "off", "nonsense"]);
    assert!(!ok && printed.contains("no throttle is configured by that name"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bans_are_made_shown_lifted_and_taken_along_on_the_command_line() {
    let world = World::start(None, PROXY).await;
    let cli = |arguments: &[&str]| world.weir.cli(arguments);
    assert_eq!(cli(&["ban", "list"]), (true, "no client is banned\n".to_owned()));
    let (ok, printed) = cli(&["ban", "add", "192.0.2.7", "--duration", "2h", "--reason", "hammering"]);
    assert!(ok && printed.starts_with("192.0.2.7 is banned until 20"), "{printed}");
    let (ok, printed) = cli(&["ban", "add", "10.0.0.0/8"]);
    assert!(!ok && printed.contains("wider than a /24"), "{printed}");
    for mistyped in ["999.1.1.1", "10.1.2.300"] {
        let (ok, printed) = cli(&["ban", "add", mistyped, "--force"]);
        assert!(!ok && printed.contains(&format!("{mistyped} is not an address")), "{printed}");
    }
    let (ok, printed) = cli(&["ban", "add", "10.0.0.1/33"]);
    assert!(!ok && printed.trim_end().ends_with("or the name of an account"), "{printed}");
    let (ok, printed) = cli(&["ban", "add", "nonsense"]);
    assert!(!ok && printed.contains("there is no account nonsense"), "{printed}");
    let (ok, printed) = cli(&["ban", "add", "nonsense", "--force"]);
    assert!(ok, "{printed}");
    let (_, list) = cli(&["ban", "list"]);
    let columns: Vec<_> = list.lines().map(|line| line.find("admin").or_else(|| line.find("rule"))).collect();
    assert!(columns.len() == 3 && columns.iter().all(|column| *column == columns[0]), "{list}");
    let id = list.lines().find(|line| line.contains("nonsense")).unwrap().split_whitespace().next().unwrap();
    assert!(cli(&["ban", "lift", id, "--reason", "mistyped"]).0);
    let no_list = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(no_list.path(), "{}").unwrap();
    let (ok, printed) = cli(&["ban", "import", no_list.path().to_str().unwrap()]);
    assert!(!ok && printed.contains("write the list that `weir ban export` prints"), "{printed}");
    for (entry, said) in [
        (r#"{"reason": 5}"#, "ban 1 of it, reason: invalid type: integer `5`, expected a string"),
        (r#"{"lifted": {"by": []}}"#, "ban 1 of it, lifted.by: invalid type: sequence, expected a string"),
        (r#"{}"#, "ban 1 of it: missing field `id`"),
    ] {
        std::fs::write(no_list.path(), format!("[{entry}]")).unwrap();
        let (ok, printed) = cli(&["ban", "import", no_list.path().to_str().unwrap()]);
        assert!(!ok && printed.contains(said), "{said}: {printed}");
    }
    let (_, list) = cli(&["ban", "list"]);
    let id = list.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    assert!(list.contains("192.0.2.7") && list.contains("hammering"), "{list}");
    assert!(cli(&["ban", "show", &id]).1.contains("\"reason\": \"hammering\""));
    assert_eq!(world.client("192.0.2.7").pull("a0").status, 403);
    let (ok, printed) = cli(&["ban", "add", "192.0.2.7", "--duration", "3h", "--reason", "hammering"]);
    assert!(ok && printed.contains(&format!("it replaces ban {id}")), "{printed}");
    let (_, list) = cli(&["ban", "list"]);
    let id = list.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let (_, exported) = cli(&["ban", "export"]);
    assert!(!cli(&["ban", "lift", &id]).0, "a reason is required");
    assert!(cli(&["ban", "lift", &id, "--reason", "talked to them"]).0);
    assert_eq!(world.client("192.0.2.7").pull("a0").status, 404);

    let other = World::start(None, PROXY).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), exported).unwrap();
    assert_eq!(
        other.weir.cli(&["ban", "import", file.path().to_str().unwrap()]),
        (true, "2 bans taken over\n".to_owned())
    );
    assert_eq!(other.admin("GET", "/api/v1/bans?client=192.0.2.7", "")["bans"][0]["origin"], "imported");
    assert_eq!(other.client("192.0.2.7").pull("a0").status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_restart_is_said_until_there_was_one() {
    let world = World::start(None, &format!("{PROXY}[mirror]\nfills = 7\n")).await;
    let page = || world.weir.admin("GET", "/settings?part=fills", "").body;
    assert!(page().contains("<code>7</code>") && !page().contains("after a restart</span>"), "{}", page());
    assert!(page().contains("weir.toml:"), "{}", page());

    // The second change is reloaded, and what the first one changed waits all the same.
    for change in ["", "[limits]\nresponse_text = \"Soon\"\n"] {
        let said = world.weir.log().len();
        world.weir.configure(&format!("{PROXY}[mirror]\nfills = 9\n{change}"));
        world.weir.until_log(said, "waits for a restart");
        // The log says so before the page does.
        let begun = std::time::Instant::now();
        while !page().contains("after a restart</span> <code>9</code>") {
            assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{}", page());
        }
        assert!(page().contains("<code>7</code>"), "{}", page());
    }
    assert_eq!(world.admin("GET", "/api/v1/status", "")["reload"]["waits_for_restart"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_a_client_has_its_requests_refused_ones_too() {
    let world = World::start(None, &format!("{PROXY}{}", throttle(PULLS, 2, "burst = 2"))).await;
    world.images("a", 1);
    let mut client = world.client("192.0.2.7");
    let statuses: Vec<u16> = (0..3).map(|_| client.pull("a0").status).collect();
    assert_eq!(statuses, [200, 200, 429]);
    assert_eq!(client.get("/v2/library/a0/tags/list").status, 200);
    let begun = std::time::Instant::now();
    let page = loop {
        let page = world.weir.admin("GET", "/client?client=192.0.2.7", "").body;
        // A request ends after its client has the last byte.
        if page.contains("4 requests, 1 refused") {
            break page;
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{page}");
    };
    for words in ["GET /v2/library/a0/manifests/latest", "GET /v2/library/a0/tags/list", PULLS, "library/a0:latest"] {
        assert!(page.contains(words), "{words}: {page}");
    }
}
