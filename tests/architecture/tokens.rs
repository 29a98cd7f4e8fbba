//! Rust source as trees of tokens: enough to find items, paths and `use` lines. Comments, literals and lifetimes are left
//! out. `syn` would do it, but a test that depends on it makes every procedural macro, and all that uses one, build anew.

/// One token, and the line that it stands in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) line: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Word(String),
    /// One character of punctuation, but `::`, which is `:` `:` elsewhere, is one token.
    Mark(char),
    Colons,
    Literal,
    /// What stands between two brackets, and the opening one.
    Group(char, Vec<Token>),
}

impl Token {
    pub(crate) fn word(&self) -> Option<&str> {
        if let Kind::Word(word) = &self.kind { Some(word) } else { None }
    }

    pub(crate) fn is_word(&self, word: &str) -> bool {
        self.word() == Some(word)
    }

    pub(crate) fn is_mark(&self, mark: char) -> bool {
        self.kind == Kind::Mark(mark)
    }

    /// The tokens between brackets of this kind.
    pub(crate) fn group(&self, open: char) -> Option<&[Token]> {
        if let Kind::Group(found, tokens) = &self.kind { (*found == open).then_some(tokens) } else { None }
    }
}

pub(crate) fn read(text: &str) -> Vec<Token> {
    let mut reader = Reader { text: text.chars().collect(), at: 0, line: 1 };
    let tokens = reader.tokens();
    assert!(reader.at == reader.text.len(), "an unopened bracket in line {}", reader.line);
    tokens
}

struct Reader {
    text: Vec<char>,
    at: usize,
    line: usize,
}

impl Reader {
    fn peek(&self, ahead: usize) -> char {
        self.text.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn next(&mut self) -> char {
        let next = self.peek(0);
        self.at += 1;
        self.line += usize::from(next == '\n');
        next
    }

    fn starts(&self, with: &str) -> bool {
        with.chars().enumerate().all(|(ahead, letter)| self.peek(ahead) == letter)
    }

    /// Until a closing bracket or the end.
    fn tokens(&mut self) -> Vec<Token> {
        let mut found = Vec::new();
        while self.at < self.text.len() {
            let line = self.line;
            let kind = match self.peek(0) {
                ')' | ']' | '}' => break,
                letter if letter.is_whitespace() => {
                    self.next();
                    continue;
                }
                '/' if self.peek(1) == '/' => {
                    self.skip_while(|letter| letter != '\n');
                    continue;
                }
                '/' if self.peek(1) == '*' => {
                    self.comment();
                    continue;
                }
                open @ ('(' | '[' | '{') => {
                    self.next();
                    let inside = self.tokens();
                    assert!(matches!(self.next(), ')' | ']' | '}'), "a bracket of line {line} is never closed");
                    Kind::Group(open, inside)
                }
                '"' => self.string(),
                '\'' if self.peek(1) != '\\' && self.peek(2) != '\'' => {
                    self.next();
                    self.skip_while(is_part_of_word);
                    continue;
                }
                '\'' => {
                    self.next();
                    self.quoted('\'')
                }
                letter if letter.is_ascii_digit() => {
                    self.skip_while(is_part_of_word);
                    Kind::Literal
                }
                letter if is_part_of_word(letter) => self.word(),
                ':' if self.peek(1) == ':' => {
                    self.at += 2;
                    Kind::Colons
                }
                _ => Kind::Mark(self.next()),
            };
            found.push(Token { kind, line });
        }
        found
    }

    fn skip_while(&mut self, also: impl Fn(char) -> bool) {
        while self.at < self.text.len() && also(self.peek(0)) {
            self.next();
        }
    }

    fn comment(&mut self) {
        let mut depth = 0;
        while self.at < self.text.len() {
            if self.starts("/*") {
                depth += 1;
                self.at += 2;
            } else if self.starts("*/") {
                depth -= 1;
                self.at += 2;
                if depth == 0 {
                    return;
                }
            } else {
                self.next();
            }
        }
    }

    fn word(&mut self) -> Kind {
        let start = self.at;
        let raw = self.text[start..].iter().skip(1).position(|letter| *letter != '#').unwrap_or(0);
        match self.peek(0) {
            'b' | 'c' if self.peek(1) == '"' => {
                self.next();
                return self.string();
            }
            'b' if self.peek(1) == '\'' => {
                self.at += 2;
                return self.quoted('\'');
            }
            'r' if self.peek(1 + raw) == '"' => return self.raw(1, raw),
            'b' | 'c' if self.peek(1) == 'r' && matches!(self.peek(2), '"' | '#') => {
                let hashes = self.text[start..].iter().skip(2).position(|letter| *letter != '#').unwrap_or(0);
                return self.raw(2, hashes);
            }
            'r' if self.peek(1) == '#' => self.at += 2,
            _ => {}
        }
        let start = self.at;
        self.skip_while(is_part_of_word);
        Kind::Word(self.text[start..self.at].iter().collect())
    }

    fn string(&mut self) -> Kind {
        self.next();
        self.quoted('"')
    }

    fn quoted(&mut self, end: char) -> Kind {
        while self.at < self.text.len() {
            match self.next() {
                '\\' => {
                    self.next();
                }
                letter if letter == end => break,
                _ => {}
            }
        }
        Kind::Literal
    }

    fn raw(&mut self, before: usize, hashes: usize) -> Kind {
        self.at += before + hashes + 1;
        let end = format!("\"{}", "#".repeat(hashes));
        while self.at < self.text.len() && !self.starts(&end) {
            self.next();
        }
        self.at += end.len();
        Kind::Literal
    }
}

fn is_part_of_word(letter: char) -> bool {
    letter == '_' || letter.is_alphanumeric()
}
