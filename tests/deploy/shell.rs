//! `weir completions` and `weir manual`: every command is in them, and a shell completes by them.

use std::process::Command;

use super::{printed, weir};

/// The names of the commands, as the help has them.
fn commands() -> Vec<String> {
    let help = printed(&weir(&["--help"]).output().unwrap());
    let (_, rest) = help.split_once("Commands:\n").unwrap();
    let names = rest.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn the_completions_of_each_shell_have_every_command_whatever_the_configuration_is() {
    for shell in ["bash", "zsh", "fish"] {
        let output = weir(&["completions", shell]).env("WEIR_CONFIG", "/nonexistent").output().unwrap();
        assert!(output.status.success(), "{}", printed(&output));
        let script = printed(&output);
        let missing: Vec<_> = commands().into_iter().filter(|name| !script.contains(name.as_str())).collect();
        assert!(missing.is_empty() && commands().len() > 10, "{shell}: {missing:?}");
    }
}

#[test]
fn bash_completes_a_command_and_an_option() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("weir");
    std::fs::write(&script, weir(&["completions", "bash"]).output().unwrap().stdout).unwrap();
    for (words, completed) in [("weir bud", "budget"), ("weir budget --js", "--json")] {
        let last = words.split(' ').count() - 1;
        let text = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD={last}; _weir weir \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; echo \"${{COMPREPLY[@]}}\"",
            script.display()
        );
        let output = Command::new("bash").args(["-c", &text]).output().unwrap();
        assert_eq!(printed(&output).trim(), completed, "{words}");
    }
}

#[test]
fn each_command_has_a_manual_page() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man1");
    let output = weir(&["manual", pages.to_str().unwrap()]).env("WEIR_CONFIG", "/nonexistent").output().unwrap();
    assert!(output.status.success(), "{}", printed(&output));
    for page in commands().into_iter().map(|name| format!("weir-{name}.1")).chain(["weir.1".to_owned()]) {
        let text = std::fs::read_to_string(pages.join(&page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
    let output = weir(&["manual", "/proc/weir"]).output().unwrap();
    assert!(!output.status.success() && printed(&output).contains("name a directory that this user may write in"));
}
