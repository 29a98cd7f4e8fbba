//! Paging by `n` and `last`, as tags/list and `_catalog` do it (end-8b).

/// One page of a sorted list.
#[derive(Debug, PartialEq, Eq)]
pub struct Page<'a, T> {
    /// The entries.
    pub entries: &'a [T],
    /// Whether entries follow, and so a `Link` is due.
    pub more: bool,
}

/// The entries after `last` (exclusive; it need not exist), at most `n` of them.
///
/// `sorted` is in byte order. `n` of zero is an empty page without a `Link`, as the spec words it. Costs two binary searches.
pub fn page<'a, T: AsRef<str>>(sorted: &'a [T], last: Option<&str>, n: Option<usize>) -> Page<'a, T> {
    let start = last.map_or(0, |last| sorted.partition_point(|entry| entry.as_ref() <= last));
    let rest = &sorted[start..];
    let count = n.unwrap_or(rest.len()).min(rest.len());
    Page { entries: &rest[..count], more: count > 0 && count < rest.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_n_and_last() {
        let tags = ["A", "a", "b", "c"];
        assert_eq!(page(&tags, None, None), Page { entries: &tags[..], more: false });
        assert_eq!(page(&tags, None, Some(0)), Page { entries: &tags[..0], more: false });
        assert_eq!(page(&tags, Some("a"), Some(1)), Page { entries: &tags[2..3], more: true });
        assert_eq!(page(&tags, Some("aa"), Some(9)), Page { entries: &tags[2..], more: false });
        assert_eq!(page(&tags, Some("z"), None), Page { entries: &tags[4..], more: false });
    }
}
