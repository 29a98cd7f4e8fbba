//! `weir top`: drawn on a terminal until `q`, printed once elsewhere.

use std::{
    io::{Read as _, Write as _},
    process::{Command, Stdio},
};

use super::{Running, WEIR, ask, printed, weir};

#[test]
fn weir_top_draws_on_a_terminal_until_q_and_gives_it_back() {
    let running = Running::start(&[]);
    let admin = format!("http://{}", running.admin);
    let mut command = Command::new("script");
    command.args([
        "-qefc",
        &format!("stty rows 30 cols 100; {WEIR} top --every 1s --admin {admin}; stty -a"),
        "/dev/null",
    ]);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WEIR_")) {
        command.env_remove(name);
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = Vec::new();
    let mut until = |wanted: &dyn Fn(&str) -> bool| {
        let mut piece = [0; 4096];
        while !wanted(&String::from_utf8_lossy(&shown)) {
            let length = screen.read(&mut piece).unwrap();
            assert!(length > 0, "it ended: {}", String::from_utf8_lossy(&shown));
            shown.extend(&piece[..length]);
        }
        String::from_utf8_lossy(&shown).into_owned()
    };
    until(&|shown| shown.contains("is healthy, up "));
    assert_eq!(ask(running.registry, "GET", "/v2/", "").0, 200);
    // The second frame has a rate, of what was counted since the first.
    until(&|shown| {
        shown.matches("is healthy, up ").count() > 1 && !shown.rsplit("requests").next().unwrap().starts_with("  -")
    });
    keys.write_all(b"q").unwrap();
    let shown = until(&|shown| shown.contains("icanon"));
    assert!(shown.contains("\x1b[?1049h") && shown.contains("\x1b[?25h\x1b[?1049l"), "{shown:?}");
    assert!(!shown.contains("-icanon") && !shown.contains("-echo "), "the terminal is not as it was: {shown}");
    drop(keys);
    child.wait().unwrap();
}

#[test]
fn weir_top_prints_once_where_there_is_no_terminal_and_json_for_a_script() {
    let running = Running::start(&[]);
    let admin = format!("http://{}", running.admin);
    let output = weir(&["top", "--admin", &admin]).output().unwrap();
    assert!(output.status.success() && printed(&output).contains(" is healthy, up "), "{}", printed(&output));
    assert!(!printed(&output).contains('\x1b'), "{}", printed(&output));
    let output = weir(&["top", "--json", "--admin", &admin]).output().unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["status"]["health"], "healthy");
    assert!(answer["minutes"].is_array() && answer["clients"].is_array(), "{answer}");
}
