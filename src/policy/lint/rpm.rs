//! What commands of yum, dnf and zypper lack.

use super::words::{has, is_short, leaves, packages};

/// Programs with the same options.
pub(super) const YUM: &[&str] = &["yum"];
pub(super) const DNF: &[&str] = &["dnf", "microdnf"];

/// Whether an install waits for a yes (DL3030, DL3038).
pub(super) fn asks(commands: &[Vec<&str>], programs: &[&str]) -> bool {
    let installs = |words: &[&str]| has(words, &["install", "groupinstall", "localinstall"]);
    let is_yes = |word: &&str| *word == "--assumeyes" || is_short(word, 'y');
    commands.iter().any(|words| programs.contains(&words[0]) && installs(words) && !words.iter().any(is_yes))
}

/// Whether what yum downloaded stays (DL3032). As for hadolint, `rm -rf` of anything cleans.
pub(super) fn leaves_yum(commands: &[Vec<&str>]) -> bool {
    let cleans = |words: &[&str]| is_clean(words, "yum", "/var/cache/yum");
    leaves(commands, |words| words[0] == "yum" && has(words, &["install"]), cleans)
}

/// Whether what dnf or microdnf downloaded stays (DL3040).
pub(super) fn leaves_dnf(commands: &[Vec<&str>]) -> bool {
    const INSTALL: [&str; 8] = ["install", "in", "upgrade", "up", "upgrade-minimal", "up-min", "reinstall", "rei"];
    DNF.iter().any(|program| {
        let cleans = |words: &[&str]| is_clean(words, program, "/var/cache/libdnf5");
        leaves(commands, |words| words[0] == *program && has(words, &INSTALL), cleans)
    })
}

fn is_clean(words: &[&str], program: &str, cache: &str) -> bool {
    let is_removed = || has(words, &["-rf"]) || words.iter().any(|word| word.starts_with(cache));
    (words[0] == program && has(words, &["clean", "all"])) || (words[0] == "rm" && is_removed())
}

/// Whether a package is installed by a name without a version, or a module without a stream (DL3033, DL3041).
pub(super) fn is_loose(commands: &[Vec<&str>], programs: &[&str]) -> bool {
    let of_kind = |is_module: bool| -> Vec<Vec<&str>> {
        let is_kind = |words: &&Vec<&str>| has(words, &["module"]) == is_module && !has(words, &["group"]);
        commands.iter().filter(is_kind).cloned().collect()
    };
    let is_loose = |package: &str| !package.contains('$') && !package.ends_with(".rpm") && !has_version(package);
    let is_loose_module = |module: &str| !module.contains([':', '$']);
    packages(&of_kind(false), programs, &["install"]).any(|package| is_loose(bare(package)))
        || packages(&of_kind(true), programs, &["install"]).any(|module| is_loose_module(bare(module)))
}

/// Whether what stands behind the first dash of a package is like a version.
fn has_version(package: &str) -> bool {
    let is_of_version =
        |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '~' | '^' | '_' | ':' | '+');
    let parts = || package.split('-').skip(1);
    parts().all(|part| part.chars().all(is_of_version))
        && parts().any(|part| part.starts_with(|first: char| first.is_ascii_digit()))
}

fn bare(word: &str) -> &str {
    word.trim_matches(['"', '\''])
}

/// Whether zypper waits for a yes (DL3034).
pub(super) fn zypper_asks(commands: &[Vec<&str>]) -> bool {
    const CHANGE: [&str; 7] = ["install", "in", "remove", "rm", "source-install", "si", "patch"];
    let is_yes = |word: &&str| {
        matches!(*word, "--non-interactive" | "--no-confirm") || is_short(word, 'n') || is_short(word, 'y')
    };
    commands.iter().any(|words| words[0] == "zypper" && has(words, &CHANGE) && !words.iter().any(is_yes))
}

const ZYPPER_INSTALL: &[&str] = &["install", "in"];

/// Whether what zypper downloaded stays (DL3036).
pub(super) fn leaves_zypper(commands: &[Vec<&str>]) -> bool {
    let runs = |words: &[&str], wanted: &[&str]| words[0] == "zypper" && has(words, wanted);
    leaves(commands, |words| runs(words, ZYPPER_INSTALL), |words| runs(words, &["clean", "cc"]))
}

/// Whether zypper installs a package by a name without a version (DL3037).
pub(super) fn is_loose_zypper(commands: &[Vec<&str>]) -> bool {
    packages(commands, &["zypper"], ZYPPER_INSTALL)
        .any(|package| !package.contains(['=', '<', '>', '$']) && !bare(package).ends_with(".rpm"))
}
