//! The structure of the source, as rules that no compiler knows: who may name whom, no circles, where an `impl` block
//! stands, and what is kept to one place.
//!
//! * [`LAYERS`] says which modules a module may name.
//! * **A circle** is a set of files, or of a module's children with all that is below them, that name each other's items
//!   in a ring. A module and its children count alike: `mod child;` and `pub use child::Item;` are no use of the child,
//!   but a parent whose code uses the child's items, while the child uses the parent's, is a circle of two.
//! * **An `impl` block** stands in the file that defines its type, or in a submodule of that file. A `mod.rs` declares a
//!   whole directory, so for its types it is that file alone. A trait of this workspace may also be implemented where the
//!   trait is defined.
//! * [`RESERVED`] keeps system calls, clocks, tasks and libraries to their places.
//!
//! Test code is exempt. A rule that stands in the way of better code is changed here, with its reason, and not worked
//! around.

mod source;
mod tokens;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use source::Source;

/// What the modules of each row may name, besides themselves: words of `weir`, and `storage` for that crate. The first
/// row that fits counts.
const LAYERS: &[(&str, &str)] = &[
    ("main", "*"),
    ("weir::cli", "archive config setting oci identity random client limits policy admin http storage shared"),
    // The settings of a module are its own types; the configuration collects them.
    (
        "weir::config",
        "setting oci identity random client route telemetry limits hosted mirror policy upstream http admin storage shared",
    ),
    ("weir::http", "answer setting oci identity random client route telemetry limits hosted mirror policy"),
    ("weir::admin", "archive setting oci identity random client route telemetry limits hosted mirror policy upstream"),
    (
        "weir::mirror",
        "archive clock idle_thread answer setting oci client route telemetry limits policy upstream storage shared",
    ),
    ("weir::hosted", "answer setting oci client storage"),
    ("weir::identity", "idle_thread setting oci random client limits"),
    ("weir::limits", "setting oci client upstream"),
    ("weir::telemetry", "setting"),
    ("weir::policy", "setting oci"),
    ("weir::upstream", "clock setting oci random client telemetry"),
    ("weir::archive", "oci"),
    ("weir::route", "oci"),
    ("weir::answer", "oci storage"),
    ("weir::record_journal", "upstream storage"),
    ("weir::oci", "storage"),
    ("weir::setting", "storage"),
    ("weir", ""),
    ("weir_shared", "storage"),
    ("weir_storage", ""),
];

/// Modules that never name each other. Only their `service` names both.
const APART: (&str, &str, &str) = ("weir::http::wire", "weir::http::api", "weir::http::service");

/// What only some files may name.
struct Reserved {
    /// The files or directories that the rule is for.
    below: &'static [&'static str],
    /// Those of them that are free of it.
    but: &'static [&'static str],
    /// Beginnings of whole paths; `async` is any `async` or `.await`.
    paths: &'static [&'static str],
    why: &'static str,
    /// Code that breaks the rule, and the file where it does.
    breach: (&'static str, &'static str),
}

const RESERVED: &[Reserved] = &[
    Reserved {
        below: &["storage/src"],
        but: &[],
        paths: &["actix", "reqwest", "governor", "hyper", "tokio::net", "std::net"],
        why: "storage knows no network",
        breach: ("storage/src/store.rs", "use std::net; fn f(_: net::TcpStream) {}"),
    },
    Reserved {
        below: PURE,
        but: &[],
        paths: &[
            "async",
            "tokio",
            "std::time::Instant::now",
            "std::time::SystemTime::now",
            "std::fs",
            "std::net::TcpStream",
            "std::env",
        ],
        why: "this is pure: no async, no I/O, no clock; time is an argument",
        breach: ("src/limits/mod.rs", "use std::time::Instant; fn f() -> Instant { Instant::now() }"),
    },
    Reserved {
        below: &["src/mirror", "src/upstream/ledger", "src/upstream/ledger.rs"],
        but: &[],
        paths: &["std::time::SystemTime::now"],
        why: "`clock` alone reads the time of day here, so that a simulation can set it",
        breach: ("src/mirror/mod.rs", "fn f() -> std::time::SystemTime { std::time::SystemTime::now() }"),
    },
    Reserved {
        below: &["src", "storage/src"],
        but: &["src/upstream"],
        paths: &["reqwest"],
        why: "only upstream uses reqwest",
        breach: ("src/mirror/mod.rs", "fn f() { g!(reqwest::get(1)) }"),
    },
    Reserved {
        below: &["src", "storage/src", "shared/src"],
        but: &["shared/src/client.rs", "shared/src/credentials.rs", "shared/src/error.rs"],
        paths: &["object_store"],
        why: "requests to the bucket are made in one file",
        breach: ("src/mirror/mod.rs", "fn f(_: object_store::Error) {}"),
    },
    Reserved {
        below: &["src", "storage/src", "shared/src"],
        but: &["shared/src/redis_client.rs"],
        paths: &["redis"],
        why: "commands to Redis are sent in one file",
        breach: ("src/mirror/mod.rs", "fn f(_: redis::Client) {}"),
    },
    Reserved {
        below: &["src", "storage/src"],
        but: &["src/http", "src/admin"],
        paths: &["actix_web", "actix_http", "actix_rt", "actix_service", "actix_server"],
        why: "only http and admin use actix",
        breach: ("src/mirror/mod.rs", "use actix_web::{web as w, App}; fn f() { w::get() }"),
    },
    Reserved {
        below: &["src", "storage/src"],
        but: &["storage/src/index.rs"],
        paths: &["sled"],
        why: "sled is the index, behind one file that guards its opening",
        breach: ("storage/src/store.rs", "fn f(_: sled::Db) {}"),
    },
    Reserved {
        below: &["storage/src"],
        but: &["storage/src/files/disk.rs"],
        paths: FILE_CALLS,
        why: "every file system call of storage is in files/disk.rs, where faults are injected",
        breach: ("storage/src/store.rs", "use std::fs; fn f() { fs::remove_file(1) }"),
    },
    Reserved {
        below: &["src"],
        // A configuration is a file, certificates and passwords are files, /proc is files.
        but: &["src/config", "src/cli", "src/telemetry", "src/upstream/transport.rs", "src/upstream/settings.rs"],
        paths: FILE_CALLS,
        why: "nothing outside of storage knows a path of its directory",
        breach: ("src/mirror/mod.rs", "use std::fs::File as F; fn f() { F::open(1) }"),
    },
];

const PURE: &[&str] = &[
    "src/archive",
    "src/limits",
    "src/http/api/path.rs",
    "src/http/api/range.rs",
    "src/http/wire/body_length.rs",
    "src/http/wire/head_end.rs",
    "src/http/api/path.rs",
    "src/http/api/range.rs",
    "src/http/wire/head_end.rs",
    "src/http/wire/body_length.rs",
    "src/hosted/rights.rs",
    "src/hosted/manifest.rs",
    "src/mirror/freshness.rs",
    "src/policy",
    "src/route.rs",
    "src/client.rs",
    "storage/src/oci",
    "storage/src/setting",
];

const FILE_CALLS: &[&str] = &[
    "std::fs::canonicalize",
    "std::fs::copy",
    "std::fs::create_dir",
    "std::fs::exists",
    "std::fs::hard_link",
    "std::fs::metadata",
    "std::fs::read",
    "std::fs::remove",
    "std::fs::rename",
    "std::fs::set_permissions",
    "std::fs::symlink_metadata",
    "std::fs::write",
    "std::fs::File::create",
    "std::fs::File::open",
    "std::fs::File::options",
    "std::fs::OpenOptions",
    "tokio::fs",
];

/// Words that stand nowhere, not in tests either.
const NOWHERE: [&str; 6] = ["#[allow(", "#![allow(", "#[ignore", "dbg!(", "todo!(", "unimplemented!("];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a directory of the repository, by its path from the root.
fn files(below: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root().join(below)) else { return Vec::new() };
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
    [
        "src",
        "storage/src",
        "storage/tests",
        "shared/src",
        "shared/tests",
        "conformance/src",
        "conformance/tests",
        "tests",
        "benches",
        "examples",
    ]
    .iter()
    .flat_map(|below| files(below))
    .collect()
}

fn read(file: &Path) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// A rule that is broken, and where it is.
type Breaches = BTreeMap<String, String>;

fn breaches(source: &Source) -> Breaches {
    let mut found = layers(source);
    found.extend(apart(source));
    found.extend(reserved(source));
    found.extend(circles(source));
    found.extend(impls(source));
    found
}

fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// `weir::http::api` → `http`; another crate of ours → its name without `weir_`.
fn layer(path: &str) -> Option<&str> {
    let mut words = path.split("::");
    match words.next()? {
        "weir" => words.next(),
        name => name.strip_prefix("weir_"),
    }
}

fn layers(source: &Source) -> Breaches {
    let mut found = Breaches::new();
    for reference in &source.references {
        let Some(named) = layer(&reference.named) else { continue };
        let Some((_, may)) = LAYERS.iter().find(|(row, _)| is_below(&reference.module, row)) else { continue };
        let itself = layer(&reference.module) == Some(named) || reference.module == "weir";
        if !itself && *may != "*" && !may.split(' ').any(|word| word == named) {
            let file = reference.file.display();
            let place = format!(" line {}: {}", reference.line, reference.named);
            found.entry(format!("{file} names {named}")).or_insert(place);
        }
    }
    found
}

fn apart(source: &Source) -> Breaches {
    let (one, other, both) = APART;
    let mut found = Breaches::new();
    let mut names: BTreeMap<&Path, [bool; 2]> = BTreeMap::new();
    for reference in &source.references {
        let defined = reference.defined_in.as_deref().unwrap_or("");
        let [is_one, is_other] = [one, other].map(|name| is_below(&reference.named, name) || is_below(defined, name));
        let file = &reference.file;
        let place = || format!(" line {}: {}", reference.line, reference.named);
        if is_below(&reference.module, one) && is_other || is_below(&reference.module, other) && is_one {
            found.entry(format!("{} names the other side of http", file.display())).or_insert_with(place);
        }
        let seen = names.entry(file).or_default();
        seen[0] |= is_one && reference.defined_in.is_some();
        seen[1] |= is_other && reference.defined_in.is_some();
        let may = [one, other, both].iter().any(|name| is_below(&reference.module, name));
        if *seen == [true, true] && !may && is_below(&reference.module, "weir") {
            found.entry(format!("{} names both sides of http", file.display())).or_insert_with(place);
        }
    }
    found
}

fn reserved(source: &Source) -> Breaches {
    let mut found = Breaches::new();
    for rule in RESERVED {
        for reference in &source.references {
            let within = |paths: &[&str]| paths.iter().any(|path| reference.file.starts_with(path));
            let path = rule.paths.iter().find(|path| reference.named.starts_with(**path));
            if let Some(path) = path.filter(|_| within(rule.below) && !within(rule.but)) {
                let place = format!(" line {}: {}: {}", reference.line, reference.named, rule.why);
                found.entry(format!("{} uses {path}", reference.file.display())).or_insert(place);
            }
        }
    }
    found
}

/// The circles among the children of every module, and the module itself among them.
fn circles(source: &Source) -> Breaches {
    type Edges<'a> = BTreeMap<(&'a str, &'a str), String>;
    // By parent: which child, with all below it, names which. The parent itself is the empty word.
    let mut parents: BTreeMap<String, Edges> = BTreeMap::new();
    for reference in &source.references {
        let (from, Some(to)) = (&reference.module, &reference.defined_in) else { continue };
        if source.file(from) == source.file(to) {
            continue;
        }
        let (from_words, to_words): (Vec<_>, Vec<_>) = (from.split("::").collect(), to.split("::").collect());
        let shared = from_words.iter().zip(&to_words).take_while(|(one, other)| one == other).count();
        if shared > 0 {
            let edge = (from_words.get(shared).copied().unwrap_or(""), to_words.get(shared).copied().unwrap_or(""));
            let place = format!("{}:{} {}", reference.file.display(), reference.line, reference.named);
            parents.entry(from_words[..shared].join("::")).or_default().entry(edge).or_insert(place);
        }
    }
    let mut found = Breaches::new();
    for (parent, edges) in parents {
        let reaches = |from: &str, to: &str| {
            let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
            while let Some(at) = next.pop() {
                let onward = edges.keys().filter(|(start, _)| *start == at).map(|(_, end)| *end);
                next.extend(onward.filter(|end| seen.insert(*end)));
            }
            seen.contains(to)
        };
        for ((from, to), place) in &edges {
            if reaches(to, from) {
                let file = source.child_file(&parent, from).display();
                let all = found.entry(format!("{file} is in a circle of {parent}")).or_default();
                all.push_str(&format!("\n    -> {}: {place}", if to.is_empty() { "the parent" } else { to }));
            }
        }
    }
    found
}

fn impls(source: &Source) -> Breaches {
    let mut found = Breaches::new();
    for block in &source.impls {
        // The file of `module`, or a submodule that only this file declares.
        let belongs = |module: &str| {
            let file = source.file(module);
            *file == block.file || !source::is_directory_file(file) && is_below(&block.module, module)
        };
        let Some((module, name)) = &block.of else { continue };
        let by_trait = block.has_trait && block.trait_in.as_deref().is_some_and(belongs);
        if !belongs(module) && !by_trait {
            let place = format!(" line {}; the type is defined in {}", block.line, source.file(module).display());
            found.entry(format!("{} has an impl of {module}::{name}", block.file.display())).or_insert(place);
        }
    }
    found
}

fn repository() -> BTreeMap<PathBuf, String> {
    let members = ["src", "storage/src", "shared/src", "conformance/src", "crates"];
    members.iter().flat_map(|below| files(below)).map(|file| (file.clone(), read(&file))).collect()
}

#[test]
fn the_source_keeps_its_structure() {
    let found = breaches(&Source::new(&repository()));
    let report: String = found.iter().map(|(breach, place)| format!("{breach},{place}\n")).collect();
    assert!(report.is_empty(), "\n{report}");
}

/// What the rules say of a few files.
fn judged(files: &[(&str, &str)]) -> Vec<String> {
    let files = files.iter().map(|(file, code)| (PathBuf::from(file), (*code).to_owned())).collect();
    breaches(&Source::new(&files)).into_keys().collect()
}

const LIB: &str = "mod http; mod upstream; mod mirror; mod limits; mod oci;";

#[test]
fn a_layer_that_names_another_is_seen() {
    for (code, breach) in [
        ("use crate::{mirror, upstream::Ledger};", "src/http/mod.rs names upstream"),
        ("fn f() { select!(x = crate::upstream::f() => {}) }", "src/http/mod.rs names upstream"),
        ("use weir_storage::Store;", "src/http/mod.rs names storage"),
        ("mod inside { use super::super::upstream::*; }", "src/http/mod.rs names upstream"),
    ] {
        assert_eq!(judged(&[("src/lib.rs", LIB), ("src/http/mod.rs", code), ("src/upstream/mod.rs", "")]), [breach]);
    }
    for fine in [
        "// as upstream::Ledger does\nuse crate::mirror::Mirror;",
        "fn f(upstream: u8) -> u8 { upstream }",
        "#[cfg(test)] mod tests { use crate::upstream::Ledger; }",
    ] {
        assert_eq!(judged(&[("src/lib.rs", LIB), ("src/http/mod.rs", fine)]), [""; 0], "{fine}");
    }
}

#[test]
fn the_two_sides_of_http_are_kept_apart() {
    let http =
        ("src/http/mod.rs", "mod wire; mod api; mod service; mod other; pub use wire::Socket; pub use api::Path;");
    let service = "use super::{wire::Socket, api::Path};";
    let with = |wire, api, other| {
        judged(&[
            ("src/lib.rs", LIB),
            http,
            ("src/http/service.rs", service),
            ("src/http/wire.rs", wire),
            ("src/http/api.rs", api),
            ("src/http/other.rs", other),
        ])
    };
    let (wire, api) = ("pub struct Socket;", "pub struct Path;");
    assert_eq!(with(wire, api, ""), [""; 0]);
    let breach = "src/http/wire.rs names the other side of http";
    assert_eq!(with("pub struct Socket(super::Path);", api, ""), [breach]);
    let breach = "src/http/api.rs names the other side of http";
    assert_eq!(with(wire, "pub struct Path; use super::wire::*; fn f(_: Socket) {}", ""), [breach]);
    assert_eq!(with(wire, api, service), ["src/http/other.rs names both sides of http"]);
}

#[test]
fn a_circle_is_seen_through_re_exports_and_directories() {
    let with = |parent, one, other, deep| {
        judged(&[
            ("src/lib.rs", LIB),
            ("src/mirror/mod.rs", parent),
            ("src/mirror/one.rs", one),
            ("src/mirror/other.rs", other),
            ("src/mirror/other/deep.rs", deep),
        ])
    };
    let parent = "mod one; mod other; pub use self::{one::One, other::*}; pub struct Parent;";
    let (one, other) =
        ("src/mirror/one.rs is in a circle of weir::mirror", "src/mirror/other.rs is in a circle of weir::mirror");
    let fine = "pub struct One(super::Other, super::Parent);";
    assert_eq!(with(parent, fine, "mod deep; pub struct Other;", ""), [""; 0]);
    assert_eq!(with(parent, fine, "pub struct Other(super::One);", ""), [one, other]);
    assert_eq!(with(parent, fine, "mod deep; pub struct Other;", "use crate::mirror::one::One;"), [one, other]);
    let whole = format!("{parent} struct Whole {{ one: One }}");
    assert_eq!(with(&whole, fine, "pub struct Other;", ""), ["src/mirror/mod.rs is in a circle of weir::mirror", one]);
}

#[test]
fn an_impl_block_far_from_its_type_is_seen() {
    let with = |parent, one, below, other| {
        judged(&[
            ("src/lib.rs", LIB),
            ("src/mirror/mod.rs", parent),
            ("src/mirror/one.rs", one),
            ("src/mirror/one/below.rs", below),
            ("src/mirror/other.rs", other),
        ])
    };
    let (parent, one) = ("mod one; mod other; pub struct Parent;", "mod below; pub struct One; pub trait Trait {}");
    let inside = "use super::One; impl One {}";
    assert_eq!(
        with(parent, one, inside, "struct Own; impl super::one::Trait for Own {} impl Clone for u8 {}"),
        [""; 0]
    );
    let breach = "src/mirror/other.rs has an impl of weir::mirror::one::One";
    assert_eq!(with(parent, one, "", "use super::one; impl one::One {}"), [breach]);
    assert_eq!(with(parent, one, "", "use super::one::One as O; impl Clone for O {}"), [breach]);
    let breach = "src/mirror/other.rs has an impl of weir::mirror::Parent";
    assert_eq!(with(parent, one, "", "impl super::Parent {}"), [breach]);
}

#[test]
fn what_is_reserved_is_seen_elsewhere() {
    let lib = ("src/lib.rs", LIB);
    for rule in RESERVED {
        let storage = ("storage/src/lib.rs", "mod store;");
        let found = judged(&[lib, storage, rule.breach]);
        assert!(found.len() == 1 && found[0].starts_with(rule.breach.0) && found[0].contains("uses"), "{found:?}");
    }
    let asynchronous = judged(&[lib, ("src/limits/mod.rs", "async fn f() { g().await }")]);
    assert_eq!(asynchronous, ["src/limits/mod.rs uses async"]);
    assert_eq!(judged(&[lib, ("src/mirror/mod.rs", "async fn f(file: std::fs::File) { g().await }")]), [""; 0]);
}

#[test]
fn what_is_not_done_is_not_there() {
    let mut found = Vec::new();
    for file in everything().into_iter().filter(|file| !file.ends_with("tests/architecture.rs")) {
        for (number, line) in (1..).zip(read(&file).lines()) {
            let code = line.split("//").next().unwrap_or("");
            found.extend(
                NOWHERE
                    .iter()
                    .filter(|word| code.contains(**word))
                    .map(|word| format!("{}:{number}: {word}", file.display())),
            );
        }
    }
    assert!(found.is_empty(), "an exception says why with #[expect(…, reason = …)]: {found:?}");
}

#[test]
fn every_file_begins_with_a_sentence_that_says_what_it_is() {
    let silent: Vec<_> = everything().into_iter().filter(|file| !read(file).trim_start().starts_with("//! ")).collect();
    assert!(silent.is_empty(), "{silent:?}");
}

#[test]
fn every_invariant_names_tests_that_exist() {
    let map = read(Path::new("ARCHITECTURE.md"));
    let invariants = map.split("## Invariants").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    let sources: String = everything().iter().map(|file| read(file)).collect();
    let named: Vec<_> = invariants.split('`').skip(1).step_by(2).filter(|word| word.contains("::")).collect();
    assert!(named.len() >= 12, "{named:?}");
    for path in named.into_iter().filter(|path| *path != "suite::") {
        let test = path.rsplit("::").next().unwrap();
        assert!(sources.contains(&format!("fn {test}(")), "{path} is no test");
    }
    let numbered = (1..=12).all(|number| invariants.contains(&format!("\n{number}. ")));
    assert!(numbered, "there are twelve invariants");
}

#[test]
fn the_map_names_files_and_functions_that_exist() {
    let map = read(Path::new("ARCHITECTURE.md"));
    let mut links = 0;
    for part in map.split("](").skip(1) {
        let (path, rest) = part.split_once(')').unwrap();
        assert!(root().join(path).exists(), "{path} does not exist");
        // The functions stand in the brackets behind the link.
        let named = rest.trim_start().strip_prefix('(').and_then(|rest| rest.split(')').next()).unwrap_or("");
        for function in named.split('`').filter(|word| word.starts_with("fn ")) {
            assert!(read(Path::new(path)).contains(&format!("{function}(")), "{path} has no `{function}`");
            links += 1;
        }
    }
    assert!(links >= 9, "three steps to each of three places, and {links} were found");
    for path in map.split('`').filter(|word| word.starts_with("src/") || word.starts_with("storage/")) {
        assert!(root().join(path).exists(), "{path} does not exist");
    }
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
    for manifest in ["Cargo.toml", "storage/Cargo.toml", "shared/Cargo.toml", "conformance/Cargo.toml"] {
        assert!(
            read(Path::new(manifest)).contains("[lints]\nworkspace = true"),
            "{manifest} takes the lints of the workspace"
        );
    }
    assert!(read(Path::new("Cargo.toml")).contains("unsafe_code = \"forbid\""));
}
