//! `--json`: every command that asks a running weir, or judges something, has it, and prints JSON and nothing else.

use super::{Running, printed, weir};

/// Commands whose output is a file or a hash, or is JSON always.
const WITHOUT: [&str; 8] =
    ["serve", "client-config", "healthcheck", "hash-password", "completions", "manual", "ban show", "ban export"];

/// The names below a command, and the help of it.
fn below(command: &str) -> (Vec<String>, String) {
    let arguments: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
    let help = printed(&weir(&arguments).output().unwrap());
    let names = help.split_once("Commands:\n").map_or("", |(_, rest)| rest).lines().take_while(|line| !line.is_empty());
    let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    (names.map(|name| format!("{command} {name}").trim().to_owned()).collect(), help)
}

#[test]
fn every_command_that_answers_can_answer_in_json() {
    let (mut open, mut checked) = (below("").0, 0);
    while let Some(command) = open.pop() {
        let (names, help) = below(&command);
        if names.is_empty() && !WITHOUT.contains(&&*command) {
            assert!(help.contains("--json"), "weir {command} has no --json");
            checked += 1;
        }
        open.extend(names);
    }
    assert!(checked > 15, "{checked}");
}

#[test]
fn what_changes_something_says_in_json_what_it_did() {
    let running = Running::start(&[]);
    let admin = format!("http://{}", running.admin);
    let json = |arguments: &[&str]| {
        let output = weir(&[arguments, &["--json", "--admin", &admin]].concat()).output().unwrap();
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap_or_else(|_| panic!("{}", printed(&output)))
    };
    let ban = json(&["ban", "add", "192.0.2.7"]);
    assert_eq!(ban["client"], "192.0.2.7");
    let lifted = json(&["ban", "lift", ban["id"].as_str().unwrap(), "--reason", "a test"]);
    assert!(lifted["lifted"].is_object(), "{lifted}");
    assert!(json(&["throttle", "dry-run", "*"])["throttles"][0]["name"].is_string());
    assert_eq!(json(&["purge", "busybox"])["removed"], 0);
}
