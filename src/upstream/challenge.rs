//! `WWW-Authenticate` (RFC 9110 section 11.6.1): several challenges in one header or in several, quoted strings with escapes. Pure.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// One way in which a server wants to be convinced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// In lower case: `bearer`, `basic`, or one that Weir does not know.
    pub(crate) scheme: String,
    parameters: Vec<(String, String)>,
}

/// Challenges of one answer beyond this many are not read.
const MAX_CHALLENGES: usize = 16;
/// Nor is a header longer than this, in bytes.
const LONGEST: usize = 8 * 1024;

impl Challenge {
    /// The challenges of an answer, in the order in which they stand.
    pub(crate) fn read(headers: &HeaderMap) -> Vec<Challenge> {
        let mut challenges = Vec::new();
        for value in headers.get_all(WWW_AUTHENTICATE) {
            if let Ok(text) = value.to_str() {
                challenges.extend(parse(text));
            }
        }
        challenges.truncate(MAX_CHALLENGES);
        challenges
    }

    /// A parameter by its name in lower case. When it stands there twice the first counts.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Lenient where clients are: stray commas, spaces around `=`, bare values with any visible character. What makes no sense is
/// skipped up to the next comma, so that a good challenge after a bad one is found.
fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    if header.len() > LONGEST {
        return challenges;
    }
    let mut scanner = Scanner { rest: header };
    loop {
        scanner.skip(|character| character == ',' || character.is_ascii_whitespace());
        if scanner.rest.is_empty() || challenges.len() > MAX_CHALLENGES {
            return challenges;
        }
        let word = scanner.take(is_token);
        if word.is_empty() {
            scanner.skip(|character| character != ',');
            continue;
        }
        scanner.skip(|character| character.is_ascii_whitespace());
        // What an equals sign follows belongs to the challenge before it; anything else begins the next one.
        if !scanner.rest.starts_with('=') {
            challenges.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
            continue;
        }
        scanner.rest = &scanner.rest[1..];
        scanner.skip(|character| character.is_ascii_whitespace());
        let value = scanner.value();
        if let Some(challenge) = challenges.last_mut() {
            challenge.parameters.push((word.to_ascii_lowercase(), value));
        }
    }
}

struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|character| !wanted(character)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn skip(&mut self, unwanted: impl Fn(char) -> bool) {
        self.take(unwanted);
    }

    fn value(&mut self) -> String {
        if !self.rest.starts_with('"') {
            return self.take(|character| character != ',' && !character.is_ascii_whitespace()).to_owned();
        }
        let mut value = String::new();
        let mut escaped = false;
        for (at, character) in self.rest.char_indices().skip(1) {
            match character {
                '\\' if !escaped => escaped = true,
                '"' if !escaped => {
                    self.rest = &self.rest[at + 1..];
                    return value;
                }
                character => {
                    escaped = false;
                    value.push(character);
                }
            }
        }
        // A quote that never closes: nothing after it can be trusted to be a challenge.
        self.rest = "";
        value
    }
}

fn is_token(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(header: &str) -> String {
        let one = |challenge: Challenge| {
            let parameters = challenge.parameters.iter().map(|(name, value)| format!(" {name}={value}"));
            format!("{}{}", challenge.scheme, parameters.collect::<String>())
        };
        parse(header).into_iter().map(one).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        for (header, expected) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull""#,
                "bearer realm=https://auth.docker.io/token service=registry.docker.io scope=repository:a/b:pull",
            ),
            (r#"BEARER Realm=https://a/t, SERVICE=x"#, "bearer realm=https://a/t service=x"),
            (r#"Basic realm="a \"b\" \\ , c", Bearer realm="d""#, r#"basic realm=a "b" \ , c | bearer realm=d"#),
            (r#"Negotiate, Basic realm="x""#, "negotiate | basic realm=x"),
            // A token68 is taken for a parameter, which does no harm and hides nothing that follows.
            (r#"Negotiate YWJj==, Bearer realm=y"#, "negotiate ywjj== | bearer realm=y"),
            (r#",, Basic ,"#, "basic"),
            (r#"Bearer realm = "x" , error = "invalid_token""#, "bearer realm=x error=invalid_token"),
            (r#"Bearer realm="x"#, "bearer realm=x"),
            (r#"realm="x", Bearer realm="y""#, "bearer realm=y"),
            ("", ""),
        ] {
            assert_eq!(shown(header), expected, "{header}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parser_panic(header in "\\PC{0,200}") {
            let _ = parse(&header);
        }

        #[test]
        fn no_mess_of_separators_makes_the_parser_panic(header in "[Ba =,\"\\\\ré]{0,100}") {
            prop_assert!(parse(&header).len() <= MAX_CHALLENGES + 1);
        }

        #[test]
        fn what_is_quoted_is_read_back(value in "[ -~]{0,40}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let challenges = parse(&format!("Bearer realm=\"{quoted}\", Basic"));
            prop_assert_eq!(challenges[0].get("realm"), Some(value.as_str()));
            prop_assert_eq!(challenges.len(), 2);
        }
    }
}
