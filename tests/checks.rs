//! The table of promises (`checks.md`): every test and every phase of `.ci/run` that it names exists.

use std::{collections::BTreeSet, fs, path::Path};

const TABLE: &str = include_str!("checks.md");

fn rust(below: &Path, into: &mut String) {
    for entry in fs::read_dir(below).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_promise_names_tests_and_places_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = String::new();
    ["src", "storage", "shared", "tests"].iter().for_each(|below| rust(&root.join(below), &mut sources));
    let phases = fs::read_to_string(root.join(".ci/run")).unwrap();
    let mut seen = BTreeSet::new();
    for line in TABLE.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, claim, tests, place, open] = cells[..] else { panic!("{line}") };
        assert!(seen.insert(name) && !claim.is_empty(), "{name}");
        for test in tests.split('`').filter(|word| !word.trim().is_empty()) {
            let exists = sources.contains(&format!("fn {test}(")) || sources.contains(&format!("    {test} = \""));
            assert!(exists, "{name}: {test} is no test");
        }
        let is_place = match place {
            "cargo test" => !tests.is_empty(),
            "by hand" => !tests.is_empty() && !open.is_empty(),
            "nowhere" => tests.is_empty() && !open.is_empty(),
            phase => phases.contains(&format!("phase \"{phase}\"")),
        };
        assert!(is_place, "{name}: {place} is no place of {tests:?}");
    }
    assert!(seen.len() >= 40, "{}", seen.len());
}
