//! Where the head of a request ends. Pure.

/// Finds the end of a request head, byte by byte, as httparse does: an empty line after at least one other, bare line feeds
/// allowed, empty lines before the first skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum HeadEnd {
    /// Nothing of a head has been seen.
    #[default]
    Before,
    /// Inside a line.
    Line,
    /// Right behind a line feed.
    Start,
    /// Behind a line feed and a carriage return.
    Return,
}

impl HeadEnd {
    /// The number of bytes up to and with the end of the head, when it lies in `bytes`.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Option<usize> {
        for (index, byte) in bytes.iter().enumerate() {
            *self = match (*self, byte) {
                (HeadEnd::Before, b'\r' | b'\n') => HeadEnd::Before,
                (HeadEnd::Start | HeadEnd::Return, b'\n') => {
                    *self = HeadEnd::Before;
                    return Some(index + 1);
                }
                (_, b'\n') => HeadEnd::Start,
                (HeadEnd::Start, b'\r') => HeadEnd::Return,
                _ => HeadEnd::Line,
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Where httparse, which actix-http uses, sees the end of the first head.
    fn parsed(bytes: &[u8]) -> Option<usize> {
        let mut headers = [httparse::EMPTY_HEADER; 96];
        match httparse::Request::new(&mut headers).parse(bytes) {
            Ok(httparse::Status::Complete(end)) => Some(end),
            _ => None,
        }
    }

    proptest! {
        /// Were the two to disagree, a head would never be handed up, or two at once.
        #[test]
        fn a_head_ends_where_the_parser_says(
            blank in "(\r?\n){0,3}",
            headers in proptest::collection::vec("[A-Za-z-]{1,9}:[ -~]{0,20}\r?\n", 0..5),
            end in "\r?\n",
            body in "[\r\na-z]{0,20}",
            cut in 0usize..200,
        ) {
            let head = format!("{blank}GET /v2/ HTTP/1.1\r\n{}{end}", headers.concat());
            let all = [head.as_bytes(), body.as_bytes()].concat();
            prop_assume!(parsed(&all).is_some());
            let mut scan = HeadEnd::default();
            let cut = cut.min(all.len());
            let found = scan.feed(&all[..cut]).or_else(|| scan.feed(&all[cut..]).map(|end| cut + end));
            prop_assert_eq!(found, parsed(&all));
            prop_assert_eq!(scan, HeadEnd::Before);
        }
    }
}
