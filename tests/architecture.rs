//! The direction of dependencies, and the rules that no compiler knows, kept by searching the source for words.
//!
//! `main → {http, admin, cli} → {mirror, hosted, limits} → {upstream, storage}`. A rule is a line of [`RULES`]: below these paths,
//! these words do not occur. Comments may say anything, and tests may do anything; a rule that stands in the way of better
//! code is changed here, with its reason, and not worked around.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where, but not where, what may not be said, and why.
struct Rule {
    below: &'static [&'static str],
    but: &'static [&'static str],
    words: &'static [&'static str],
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        below: &["src/http"],
        but: &[],
        words: &[
            "crate::upstream",
            "upstream::",
            "weir_storage",
            "storage::",
            "crate::config",
            "crate::admin",
            "crate::cli::",
        ],
        why: "http knows the mirror, and neither what is behind it nor what is beside it",
    },
    Rule {
        below: &["src/upstream"],
        but: &[],
        words: &[
            "weir_storage",
            "storage::",
            "crate::mirror",
            "crate::http",
            "crate::admin",
            "crate::config",
            "crate::limits",
        ],
        why: "upstream is a client of registries and knows nobody here",
    },
    Rule {
        below: &["storage/src"],
        but: &[],
        words: &["actix", "reqwest", "governor", "hyper", "tokio::net", "std::net"],
        why: "storage knows no network",
    },
    Rule {
        below: &["src/mirror"],
        but: &[],
        words: &["crate::http", "crate::admin", "crate::config", "crate::cli::"],
        why: "the mirror decides, and does not know who asks it",
    },
    Rule {
        below: &["src/hosted"],
        but: &[],
        words: &["crate::http", "crate::admin", "crate::config", "crate::cli::", "crate::upstream"],
        why: "what lives here asks no upstream, and does not know who asks it",
    },
    Rule {
        below: &["src/limits"],
        but: &[],
        words: &["crate::http", "crate::mirror", "crate::admin", "crate::config", "weir_storage"],
        why: "limits are values in, decisions out",
    },
    Rule {
        below: &[
            "src/limits",
            "src/http/path.rs",
            "src/http/range.rs",
            "src/http/framing.rs",
            "src/http/scan.rs",
            "src/hosted/rights.rs",
            "src/hosted/manifest.rs",
            "src/mirror/freshness.rs",
            "src/route.rs",
            "src/client.rs",
            "storage/src/oci",
        ],
        but: &[],
        words: &[
            "async ",
            ".await",
            "tokio",
            "Instant::now",
            "SystemTime::now",
            "std::fs",
            "File::",
            "TcpStream",
            "env::",
        ],
        why: "this is pure: no async, no I/O, no clock; time is an argument",
    },
    Rule {
        below: &["src", "storage/src"],
        but: &["src/upstream"],
        words: &["reqwest"],
        why: "reqwest is upstream's alone",
    },
    Rule {
        below: &["src", "storage/src"],
        but: &["src/http", "src/admin"],
        words: &["actix_web", "actix_http::", "actix_rt", "actix_service", "actix_server::"],
        why: "actix is http's and admin's alone",
    },
    Rule {
        below: &["src", "storage/src"],
        but: &["storage/src/index.rs"],
        words: &["sled::"],
        why: "sled is the index, behind one file that guards its opening",
    },
    Rule {
        below: &["storage/src"],
        but: &["storage/src/disk.rs"],
        words: &FILE_CALLS,
        why: "every file system call is in disk.rs, where faults are injected",
    },
    Rule {
        below: &["src"],
        // A configuration is a file, certificates and passwords are files, /proc is files.
        but: &["src/config", "src/cli", "src/telemetry", "src/upstream/transport.rs"],
        words: &FILE_CALLS,
        why: "nothing outside of storage knows a path of its directory",
    },
    Rule {
        below: &["src", "storage/src"],
        but: &["src/config", "src/cli", "src/telemetry", "src/main.rs"],
        words: &["config::Config", "crate::config"],
        why: "a room takes its own Settings and never the whole configuration",
    },
    Rule {
        below: &["src", "storage/src", "storage/tests", "conformance/src", "tests", "examples"],
        but: &["tests/architecture.rs"],
        words: &["#[allow(", "#![allow(", "#[ignore", "dbg!(", "todo!(", "unimplemented!("],
        why: "what is not done is not there, and what is excepted says why with #[expect(…, reason = …)]",
    },
];

const FILE_CALLS: [&str; 16] = [
    "fs::read",
    "fs::write",
    "fs::create_dir",
    "fs::remove",
    "fs::rename",
    "fs::metadata",
    "fs::copy",
    "fs::hard_link",
    "fs::symlink_metadata",
    "fs::set_permissions",
    "File::open",
    "File::create",
    "OpenOptions",
    "tokio::fs",
    "fs::canonicalize",
    "fs::exists",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a directory of the repository (or that file), by its path from the root.
fn files(below: &str) -> Vec<PathBuf> {
    let path = root().join(below);
    if path.is_file() {
        return vec![PathBuf::from(below)];
    }
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.unwrap();
        let path = format!("{below}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&path));
        } else if path.ends_with(".rs") {
            found.push(PathBuf::from(path));
        }
    }
    found.sort();
    found
}

fn everything() -> Vec<PathBuf> {
    ["src", "storage/src", "storage/tests", "conformance/src", "conformance/tests", "tests", "examples"]
        .iter()
        .flat_map(|below| files(below))
        .collect()
}

fn read(file: &Path) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The code of a file, line by line with its number: without comments, and without its tests, which come last.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| pair[0].trim() == "#[cfg(test)]" && pair[1].starts_with("mod "));
    let end = tests.unwrap_or(lines.len());
    (1..)
        .zip(lines.into_iter().take(end))
        .map(|(number, line)| (number, line.find("//").map_or(line, |at| &line[..at])))
}

fn is_test(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str() == "tests")
        || file.ends_with("tests.rs")
        || file.ends_with("golden.rs")
}

/// Every breach of a rule in one file's text.
fn breaches(rule: &Rule, file: &Path, text: &str) -> Vec<String> {
    if rule.but.iter().any(|but| file.starts_with(but)) {
        return Vec::new();
    }
    code(text)
        .flat_map(|(number, line)| {
            rule.words.iter().filter(move |word| line.contains(**word)).map(move |word| (number, word))
        })
        .map(|(number, word)| format!("{}:{number}: `{word}`: {}", file.display(), rule.why))
        .collect()
}

#[test]
fn dependencies_run_one_way() {
    let mut found = Vec::new();
    for rule in RULES {
        for file in rule.below.iter().flat_map(|below| files(below)) {
            // What nobody may write, tests may not either.
            if !is_test(&file) || rule.below.contains(&"tests") {
                found.extend(breaches(rule, &file, &read(&file)));
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn a_breach_is_seen() {
    let rule = &RULES[0];
    let file = Path::new("src/http/blobs.rs");
    for bad in [
        "use crate::upstream::Ledger;",
        "let x = 1;\nlet store: weir_storage::Store = y;",
        "self.ledger(upstream::Identity)",
    ] {
        assert!(!breaches(rule, file, bad).is_empty(), "{bad}");
    }
    for fine in [
        "// as upstream::Ledger does",
        "let upstream = 1;",
        "#[cfg(test)]\nmod tests {\n use crate::upstream::Ledger; }",
    ] {
        assert_eq!(breaches(rule, file, fine), Vec::<String>::new(), "{fine}");
    }
    for rule in RULES {
        assert!(!rule.words.is_empty() && !rule.below.is_empty() && !rule.why.is_empty());
    }
    assert!(files("src").len() > 20, "the search finds the source");
}

#[test]
fn every_file_opens_with_a_sentence_that_lets_a_stranger_skip_it() {
    let silent: Vec<_> = everything().into_iter().filter(|file| !read(file).trim_start().starts_with("//! ")).collect();
    assert!(silent.is_empty(), "{silent:?}");
}

#[test]
fn every_invariant_names_tests_that_exist() {
    let map = read(Path::new("src/lib.rs"));
    let invariants = map.split("# What always holds").nth(1).and_then(|rest| rest.split("//! # ").next()).unwrap();
    let sources: String = everything().iter().map(|file| read(file)).collect();
    let named: Vec<_> = invariants.split('`').skip(1).step_by(2).filter(|word| word.contains("::")).collect();
    assert!(named.len() >= 12, "{named:?}");
    for path in named.into_iter().filter(|path| *path != "suite::") {
        let test = path.rsplit("::").next().unwrap();
        assert!(sources.contains(&format!("fn {test}(")), "{path} is no test");
    }
    let numbered = (1..=12).all(|number| invariants.contains(&format!("//! {number}. ")));
    assert!(numbered, "DESIGN names twelve");
}

#[test]
fn no_file_needs_a_table_of_contents() {
    let long: Vec<_> = everything()
        .into_iter()
        .map(|file| (read(&file).lines().count(), file))
        .filter(|(lines, _)| *lines > 600)
        .collect();
    assert!(long.is_empty(), "longer than 600 lines, so two files: {long:?}");
}

#[test]
fn unsafe_code_is_forbidden_in_every_crate() {
    for manifest in ["Cargo.toml", "storage/Cargo.toml", "conformance/Cargo.toml"] {
        assert!(
            read(Path::new(manifest)).contains("[lints]\nworkspace = true"),
            "{manifest} takes the lints of the workspace"
        );
    }
    assert!(read(Path::new("Cargo.toml")).contains("unsafe_code = \"forbid\""));
}
