//! What the documents say exists: their links, settings, metrics, commands, configurations, and the sentences that clients print.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::deploy::{printed, weir};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files below a directory whose names end so.
fn below(directory: &str, ending: &str) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![Path::new(ROOT).join(directory)]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                _ if entry.path().to_string_lossy().ends_with(ending) => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// The documents that are for readers of this repository.
fn documents() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"]
        .map(|name| Path::new(ROOT).join(name))
        .into();
    all.extend(below("docs", ".md"));
    all
}

/// A piece of code in a document: its language, "" if it is indented or names none, and its lines.
struct Code {
    language: String,
    text: String,
}

/// A document's prose and its pieces of code.
fn parts(text: &str) -> (String, Vec<Code>) {
    let (mut prose, mut codes, mut fenced) = (String::new(), Vec::<Code>::new(), false);
    let (mut after_blank, mut indented) = (true, false);
    for line in text.lines() {
        if let Some(language) = line.strip_prefix("```") {
            fenced = !fenced;
            if fenced {
                codes.push(Code { language: language.to_owned(), text: String::new() });
            }
            continue;
        }
        let code = line.strip_prefix("    ").filter(|_| !fenced && (indented || after_blank));
        if let Some(code) = code.or(fenced.then_some(line)) {
            if !fenced && !indented {
                codes.push(Code { language: String::new(), text: String::new() });
            }
            indented = !fenced;
            codes.last_mut().unwrap().text.extend([code, "\n"]);
        } else {
            indented = false;
            prose.extend([line, "\n"]);
        }
        after_blank = line.is_empty();
    }
    assert!(!fenced, "a fence is not closed");
    (prose, codes)
}

/// As GitHub and mdBook make it of a heading.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter(kept)
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    parts(text).0.lines().filter(|line| line.starts_with('#')).map(anchor).collect()
}

#[test]
fn every_link_within_the_repository_leads_somewhere() {
    let mut checked = 0;
    for document in documents() {
        let text = read(&document);
        let prose = parts(&text).0.replace("]\n(", "](");
        for link in prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if link.contains("://") {
                continue;
            }
            let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { document.clone() } else { document.parent().unwrap().join(path) };
            assert!(target.exists(), "{}: {link} leads nowhere", document.display());
            if !fragment.is_empty() {
                assert!(
                    anchors(&read(&target)).contains(fragment),
                    "{}: {link} has no such heading",
                    document.display()
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 80, "{checked}");
}

#[test]
fn the_book_has_every_page_and_the_readme_is_short() {
    let summary = read(&Path::new(ROOT).join("docs/SUMMARY.md"));
    for page in below("docs", ".md") {
        let name = page.strip_prefix(Path::new(ROOT).join("docs")).unwrap().display().to_string();
        assert!(name == "SUMMARY.md" || summary.contains(&format!("({name})")), "{name} is not in SUMMARY.md");
    }
    let readme = read(&Path::new(ROOT).join("README.md"));
    assert!(readme.lines().count() < 120, "{}", readme.lines().count());
}

/// Names between single backticks.
fn names(text: &str) -> Vec<String> {
    parts(text).0.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_setting_that_is_named_is_in_deploy_toml() {
    let deploy = read(&Path::new(ROOT).join("deploy.toml"));
    let (mut known, mut table) = (BTreeSet::new(), String::new());
    for line in deploy.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if let Some(name) = line.strip_prefix('[') {
            table = name.trim_matches(['[', ']']).to_owned();
        } else if let Some((key, _)) = line.split_once(" = ") {
            known.insert(format!("{table}.{key}"));
        }
    }
    let tables: BTreeSet<&str> = known.iter().filter_map(|name| name.split('.').next()).collect();
    let mut checked = 0;
    for document in documents() {
        for name in names(&read(&document)) {
            let key = name.split([' ', '=']).next().unwrap_or_default();
            let is_setting = key.split_once('.').is_some_and(|(table, rest)| {
                tables.contains(table) && rest.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '.')
            });
            // A file, such as `server.rs`, is none.
            if is_setting && !key.ends_with(".rs") {
                assert!(known.contains(key), "{}: {key} is no setting", document.display());
                checked += 1;
            }
        }
    }
    assert!(checked > 50, "{checked}");
}

#[test]
fn every_command_that_is_shown_is_understood() {
    let mut checked = 0;
    for document in documents() {
        let text = read(&document);
        let codes = parts(&text).1;
        let codes = codes.iter().filter(|code| matches!(&*code.language, "" | "sh" | "console"));
        let lines = codes.flat_map(|code| code.text.lines()).map(|line| line.trim_start_matches("$ ").to_owned());
        let named = names(&text).into_iter().map(|name| name.replace('\n', " "));
        for command in lines.chain(named).filter(|command| command.starts_with("weir ")) {
            // What the shell does with the output is left out. Words in capitals stand for something.
            let ends = [" > ", " | ", " && ", " # ", " …"];
            let alone = ends.iter().fold(&*command, |rest, end| rest.split(end).next().unwrap_or_default());
            // An option that is named without its value.
            let alone = alone.replace("CLIENT", "docker") + if alone.ends_with("--url") { " URL" } else { "" };
            // Names, options and values before it are looked at, and nothing is done.
            let script = format!("weir() {{ {} \"$@\"; }}; {alone} --help", env!("CARGO_BIN_EXE_weir"));
            let output = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).output().unwrap();
            assert!(output.status.success(), "{}: {command}\n{}", document.display(), printed(&output));
            checked += 1;
        }
    }
    assert!(checked > 60, "{checked}");
}

#[test]
fn every_configuration_that_is_shown_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    let tls = Path::new(ROOT).join("src/http/wire/server");
    fs::copy(tls.join("localhost.pem"), place("tls.crt")).unwrap();
    // Certificate and key stand in one file.
    fs::copy(tls.join("localhost.pem"), place("tls.key")).unwrap();
    fs::write(place("docker.io.password"), "a password").unwrap();
    let signatures = Path::new(ROOT).join("tests/signatures");
    let trusted = [("release.pub", "cosign.pub"), ("trusted-root.json", "trusted_root.json")];
    for (from, to) in trusted.into_iter().chain([("notation-root.pem", "notation.pem")]) {
        fs::copy(signatures.join(from), place(to)).unwrap();
    }
    let hash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$1hDPFpFtKWtvzCYWjxAeyDpHpXwYpFkAB2XV0nqqqqM";
    let mut checked = 0;
    for document in documents() {
        for code in parts(&read(&document)).1.iter().filter(|code| code.language == "toml") {
            let text = code.text.replace("/etc/weir/", &format!("{}/", directory.path().display()));
            let file = place("weir.toml");
            fs::write(&file, text.replace("\"…\"", &format!("\"{hash}\""))).unwrap();
            let output = weir(&["check", "--config"]).arg(&file).output().unwrap();
            assert!(output.status.success(), "{}:\n{text}\n{}", document.display(), printed(&output));
            checked += 1;
        }
    }
    assert!(checked > 5, "{checked}");
}

/// Whether all pieces between `…` are in the text, in this order, in one line.
fn is_in(sentence: &str, text: &str) -> bool {
    text.lines().any(|line| {
        let mut rest = line;
        sentence.split('…').map(str::trim).filter(|piece| !piece.is_empty()).all(|piece| match rest.split_once(piece) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
    })
}

#[test]
fn the_sentences_of_the_troubleshooting_are_those_that_clients_print() {
    let mut said: String = below("tests/clients/golden", ".txt").iter().map(|path| read(path)).collect();
    // What none of the recorded clients met.
    for source in ["src/http/api/error.rs", "src/hosted/error.rs", "src/limits/repositories.rs"] {
        said += &read(&Path::new(ROOT).join(source));
    }
    let page = read(&Path::new(ROOT).join("docs/operating/troubleshooting.md"));
    let sentences: Vec<_> = parts(&page).1.into_iter().filter(|code| code.language.is_empty()).collect();
    for sentence in sentences.iter().flat_map(|code| code.text.lines()).filter(|line| !line.is_empty()) {
        assert!(is_in(sentence, &said), "no source has: {sentence}");
    }
    assert!(sentences.len() > 12, "{}", sentences.len());
}
