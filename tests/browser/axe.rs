//! axe, which finds what keeps people with disabilities from using a page. It is fetched from npm at one version, verified, and kept below
//! `target/`; it is no part of Weir. What cannot be fetched fails the test.

use std::{io::Read as _, path::PathBuf, process::Command};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha512};

use super::driver::Window;

const VERSION: &str = "4.14.1";
/// What the registry says of this version (`npm view axe-core@VERSION dist.integrity`), without `sha512-`.
const SHA512: &str = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==";

/// What must not be there: WCAG 2.2 up to AA, and what axe calls best practice.
const RUN: &str = "const done = arguments[arguments.length - 1]; \
    axe.run(document, {resultTypes: ['violations'], runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']}) \
    .then(found => done(found.violations.map(one => one.id + ': ' + one.help + ' ' + one.nodes.map(node => node.html).join(' '))), \
    error => done(['axe: ' + error]))";

/// The program, as a page runs it.
pub(crate) fn source() -> String {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("axe");
    let archive = directory.join(format!("axe-core-{VERSION}.tgz"));
    if !is_whole(&archive) {
        std::fs::create_dir_all(&directory).unwrap();
        let fetched = Command::new("npm")
            .args(["pack", "--silent", &format!("axe-core@{VERSION}"), "--pack-destination"])
            .arg(&directory)
            .output()
            .expect("npm: install Debian's npm");
        assert!(fetched.status.success(), "axe-core cannot be fetched: {}", String::from_utf8_lossy(&fetched.stderr));
        assert!(is_whole(&archive), "{} is another file than axe-core {VERSION}", archive.display());
    }
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(archive).unwrap()));
    let mut entries = archive.entries().unwrap().map(Result::unwrap);
    let mut program = entries.find(|entry| entry.path().unwrap().ends_with("axe.min.js")).expect("axe.min.js");
    let mut source = String::new();
    program.read_to_string(&mut source).unwrap();
    source
}

fn is_whole(archive: &std::path::Path) -> bool {
    std::fs::read(archive).is_ok_and(|bytes| BASE64_STANDARD.encode(Sha512::digest(bytes)) == SHA512)
}

/// What axe finds on the page where the browser is, as it is laid out and coloured now.
pub(crate) fn violations(mut browser: impl Window, source: &str) -> Vec<String> {
    if browser.evaluate("return typeof axe") == "undefined" {
        browser.evaluate(source);
    }
    let found = browser.evaluate_later(RUN);
    found.as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect()
}
