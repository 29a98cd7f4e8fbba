//! Looking at pages: wide and narrow, light and dark, each for what overflows, what has no label and what axe finds, with a screenshot of each.

use std::{cell::RefCell, path::PathBuf};

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{axe, driver::Browser, harness::Harness};

/// A desktop and a phone, by day and by night.
const SIZES: [(u32, &str); 4] = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")];

/// Where the pictures are, to be looked at.
fn screenshots() -> PathBuf {
    let screenshots = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../screenshots");
    std::fs::create_dir_all(&screenshots).unwrap();
    screenshots
}

/// Keeps a picture that came in base64.
pub(crate) fn keep(name: &str, picture: &str) {
    std::fs::write(screenshots().join(format!("{name}.png")), BASE64_STANDARD.decode(picture).unwrap()).unwrap();
}

/// A browser that looks at the pages of a harness. What it finds is reported at the end, all at once.
pub(crate) struct Look<'a> {
    pub(crate) browser: &'a Browser,
    harness: &'a Harness,
    axe: String,
    screenshots: PathBuf,
    problems: RefCell<Vec<String>>,
}

impl<'a> Look<'a> {
    pub(crate) fn new(browser: &'a Browser, harness: &'a Harness) -> Look<'a> {
        Look { browser, harness, axe: axe::source(), screenshots: screenshots(), problems: RefCell::default() }
    }

    pub(crate) fn at(&self, name: &str, path: &str) {
        self.browser.open(&format!("http://{}{path}", self.harness.admin));
        self.here(name);
    }

    /// Looks at the page that the browser has before it, such as the answer to a form.
    pub(crate) fn here(&self, name: &str) {
        let (browser, problem) = (self.browser, |problem: String| self.problems.borrow_mut().push(problem));
        if browser.has("#human") {
            browser.wait("the human test is solved", |browser| browser.is_enabled("#human button"));
        }
        for (width, scheme) in SIZES {
            browser.resize(width, scheme);
            let wide = browser.evaluate("return document.documentElement.scrollWidth").as_u64().unwrap();
            if wide > u64::from(width) {
                problem(format!("{name} is {wide} wide in {width}"));
            }
            for found in axe::violations(browser, &self.axe) {
                problem(format!("{name}, {width}, {scheme}: {found}"));
            }
            browser.screenshot(&self.screenshots.join(format!("{name}-{width}-{scheme}.png")));
        }
        for (what, script) in [
            (
                "a field without a label",
                "return [...document.querySelectorAll('input:not([type=hidden]), select, textarea')].filter(i => !i.labels.length).length",
            ),
            (
                "a table without heads",
                "return [...document.querySelectorAll('table')].filter(t => !t.querySelector('th[scope=col]')).length",
            ),
        ] {
            if browser.evaluate(script) != 0 {
                problem(format!("{name} has {what}"));
            }
        }
    }

    /// # Panics
    /// When anything was found, or the console has errors.
    pub(crate) fn done(self) {
        let mut problems = self.problems.into_inner();
        problems.extend(self.browser.errors());
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }
}
