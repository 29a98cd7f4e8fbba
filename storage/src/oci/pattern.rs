//! Patterns of names, as a configuration holds them.

/// Whether `subject` is named by `pattern`, where `*` spans anything, slashes too, `[0-9]` stands for one of a set of
/// characters, and the rest for itself. Costs at most pattern times subject, whatever the stars.
pub fn matches(pattern: &str, subject: &str) -> bool {
    let (pattern, subject) = (pattern.as_bytes(), subject.as_bytes());
    let (mut p, mut s) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while s < subject.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, s));
            p += 1;
        } else if let Some(width) = one(&pattern[p..], subject[s]) {
            p += width;
            s += 1;
        } else if let Some((at, from)) = star {
            // The last star takes one more byte; earlier stars need not be tried again.
            star = Some((at, from + 1));
            p = at + 1;
            s = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// The width of the pattern's first element when it stands for `byte`.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'[', rest @ ..] => {
            let end = rest.iter().position(|byte| *byte == b']')?;
            let set = &rest[..end];
            let mut at = 0;
            while at < set.len() {
                let (low, high, width) = match set[at..] {
                    [low, b'-', high, ..] => (low, high, 3),
                    [low, ..] => (low, low, 1),
                    [] => break,
                };
                if (low..=high).contains(&byte) {
                    return Some(end + 2);
                }
                at += width;
            }
            None
        }
        [first, ..] if *first == byte => Some(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_span_slashes_and_know_sets() {
        for (pattern, subject, expected) in [
            ("docker.io/library/*:[0-9]*.[0-9]*.[0-9]*", "docker.io/library/nginx:1.27.3", true),
            ("docker.io/library/*:[0-9]*.[0-9]*.[0-9]*", "docker.io/library/nginx:latest", false),
            ("*", "anything/at:all", true),
            ("ghcr.io/*", "ghcr.io/a/b:c", true),
            ("ghcr.io/*", "ghcr.iox/a", false),
            ("a*b*c", "aXXbYYc", true),
            ("a*b*c", "aXXbYY", false),
            ("", "", true),
            ("", "a", false),
            ("[", "[", false),
        ] {
            assert_eq!(matches(pattern, subject), expected, "{pattern} {subject}");
        }
    }
}
