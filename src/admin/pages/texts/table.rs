//! Every text of the pages, English and German, a row each. The English one is how a page names it.
//!
//! A `{}` stands for a value; the order of the values is the same in every language. What is a word of the configuration or of the API (a class,
//! the mode of a throttle) stays as it is.

mod capital;
mod small;

/// Sorted by the English text.
pub(super) const TEXTS: &[[&str; 2]] = &join();

const fn join() -> [[&'static str; 2]; capital::TEXTS.len() + small::TEXTS.len()] {
    let mut all = [[""; 2]; capital::TEXTS.len() + small::TEXTS.len()];
    let (first, second) = all.split_at_mut(capital::TEXTS.len());
    first.copy_from_slice(capital::TEXTS);
    second.copy_from_slice(small::TEXTS);
    all
}
