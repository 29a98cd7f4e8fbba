//! The texts of the pages by their English words, in the language of the page. `text!("Budget")` is a text, `text!("{} left", pulls)` one with
//! values in it, `heads!["When", "Who"]` the heads of a table; one that the table does not have fails to compile.

mod table;

use maud::{Markup, PreEscaped, Render};

use self::table::TEXTS;
use super::language::{self, Language};

/// The row of an English text.
///
/// # Panics
/// When there is none. It is called while Weir is compiled.
#[expect(clippy::panic, reason = "it ends the compiler, and no process")]
pub(super) const fn row(english: &str) -> usize {
    let mut row = 0;
    while row < TEXTS.len() {
        if is_equal(TEXTS[row][0].as_bytes(), english.as_bytes()) {
            return row;
        }
        row += 1;
    }
    panic!("write this text below src/admin/pages/texts/table/, in each language");
}

const fn is_equal(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// The text of a row, in the language of the page that is made now.
pub(super) fn of(row: usize) -> &'static str {
    let [english, german] = TEXTS[row];
    match language::current() {
        Language::English => english,
        Language::German => german,
    }
}

/// A text with values for its `{}`, in their order. What is text in them is escaped, what is markup is not.
pub(super) fn fill(text: &str, values: &[Markup]) -> Markup {
    let (mut filled, mut values) = (String::new(), values.iter());
    for (at, part) in text.split("{}").enumerate() {
        if at > 0 {
            values.next().inspect(|value| value.render_to(&mut filled));
        }
        part.render_to(&mut filled);
    }
    PreEscaped(filled)
}

macro_rules! text {
    ($english:literal) => {{
        const ROW: usize = $crate::admin::pages::texts::row($english);
        $crate::admin::pages::texts::of(ROW)
    }};
    ($english:literal, $($value:expr),+ $(,)?) => {
        $crate::admin::pages::texts::fill($crate::admin::pages::texts::text!($english), &[$(maud::html! { ($value) }),+])
    };
}
pub(super) use text;

macro_rules! heads {
    ($($english:literal),+ $(,)?) => { [$($crate::admin::pages::texts::text!($english)),+] };
}
pub(super) use heads;

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use maud::html;

    use super::*;

    #[test]
    fn each_text_is_there_once_and_in_every_language_with_the_same_values() {
        for [english, german] in TEXTS {
            assert!(!english.trim().is_empty() && !german.trim().is_empty(), "{english:?}: {german:?}");
            assert_eq!(english.matches("{}").count(), german.matches("{}").count(), "{english:?}: {german:?}");
            let ends = |text: &str| text.chars().next_back().filter(|end| ".?:".contains(*end));
            assert_eq!(ends(english), ends(german), "{english:?}: {german:?}");
        }
        let sorted: BTreeSet<&str> = TEXTS.iter().map(|[english, _]| *english).collect();
        assert_eq!(
            sorted.into_iter().collect::<Vec<_>>(),
            TEXTS.iter().map(|[english, _]| *english).collect::<Vec<_>>()
        );
    }

    #[test]
    fn each_text_of_the_table_is_on_a_page_and_no_page_has_one_of_its_own() {
        let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/pages");
        let mut sources = String::new();
        for entry in fs::read_dir(pages).unwrap() {
            let path = entry.unwrap().path();
            let source = if path.is_file() { fs::read_to_string(&path).unwrap() } else { continue };
            let code = source.split("#[cfg(test)]").next().unwrap();
            for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
                // In markup a text stands alone, after a brace or a value: `{ "Words" }`, `(value) " words"`.
                for (before, rest) in line.match_indices('"').map(|(at, _)| line.split_at(at)) {
                    let is_markup = before.ends_with("{ ") || before.ends_with(") ") || before.ends_with("} ");
                    let words = rest[1..].split('"').next().unwrap_or_default();
                    let is_address = words.starts_with(['/', '?']) || words.ends_with(['-', '=']);
                    let is_text = words.chars().any(char::is_alphabetic) && !is_address && !SAME.contains(&words);
                    assert!(
                        !(is_markup && is_text),
                        "{}: {words:?} is in no table: write text!({words:?})",
                        path.display()
                    );
                }
            }
            sources += code;
        }
        for [english, _] in TEXTS {
            assert!(sources.contains(&format!("{english:?}")), "{english:?} is on no page");
        }
    }

    /// What is the same in every language: names, units, classes of the stylesheet, and what the audit keeps.
    const SAME: &[&str] = &[
        "Weir",
        " · Weir",
        " ms",
        "bulk",
        "good",
        "bad",
        "chip",
        "chip on",
        "chip bad",
        "without the token of its form",
        "from no page of ours",
    ];

    #[tokio::test]
    async fn a_text_is_in_the_language_of_its_page_and_escapes_what_is_no_markup() {
        let made = || text!("{} of {} here", "<b>", html! { b { "2" } }).into_string();
        assert_eq!((text!("Hit ratio"), made()), ("Hit ratio", "&lt;b&gt; of <b>2</b> here".to_owned()));
        let german = Language::German.scope(async { (text!("Hit ratio"), made(), heads!["When", "Who"]) }).await;
        assert_eq!(german, ("Trefferquote", "&lt;b&gt; von <b>2</b> hier".to_owned(), ["Wann", "Wer"]));
    }
}
