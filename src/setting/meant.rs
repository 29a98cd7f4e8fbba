//! What was most likely meant by a name that is not known. Pure.

/// The end of a sentence that names the known name which was most likely meant, "; did you mean format?"; nothing when more than every
/// third letter would have to be another.
pub(crate) fn did_you_mean<S: AsRef<str>>(written: &str, known: &[S]) -> String {
    let distance = |name: &&str| strsim::damerau_levenshtein(written, name);
    let nearest = known.iter().map(AsRef::as_ref).min_by_key(distance);
    let nearest = nearest.filter(|name| 3 * distance(name) <= written.len());
    nearest.map_or_else(String::new, |name| format!("; did you mean {name}?"))
}
