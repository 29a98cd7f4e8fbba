//! The source as a tree of modules: which file defines an item, and what each file names. `use` lines, re-exports and
//! globs are followed. Test code is left out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
};

use super::tokens::{self, Kind, Token};

/// One module: a file, or a block `mod name { … }` in a file.
#[derive(Default)]
struct Module {
    file: PathBuf,
    children: BTreeSet<String>,
    items: HashSet<String>,
    /// The paths that `use` lines bring in, by the name that they have here.
    uses: HashMap<String, Vec<String>>,
    globs: Vec<Vec<String>>,
}

/// One path that a file names.
pub(crate) struct Reference {
    pub(crate) module: String,
    pub(crate) file: PathBuf,
    pub(crate) line: usize,
    /// The whole path, with this file's own `use` lines followed: `std::fs::read`, `weir::mirror::Mirror`.
    pub(crate) named: String,
    /// The module that defines it, with all re-exports followed. `None` when that is no module of this workspace, and
    /// for a path that ends in a module or is only re-exported here.
    pub(crate) defined_in: Option<String>,
}

/// One `impl` block.
pub(crate) struct Impl {
    pub(crate) module: String,
    pub(crate) file: PathBuf,
    pub(crate) line: usize,
    /// The type, by the module that defines it and its name. `None` for a type from elsewhere.
    pub(crate) of: Option<(String, String)>,
    /// The module that defines the trait, when the trait is of this workspace.
    pub(crate) trait_in: Option<String>,
    pub(crate) has_trait: bool,
}

#[derive(Default)]
pub(crate) struct Source {
    modules: BTreeMap<String, Module>,
    pub(crate) references: Vec<Reference>,
    pub(crate) impls: Vec<Impl>,
}

impl Source {
    /// Reads the modules below each `src/lib.rs` and `src/main.rs` among `files`.
    pub(crate) fn new(files: &BTreeMap<PathBuf, String>) -> Source {
        let mut source = Source::default();
        let mut parsed = Vec::new();
        for file in files.keys() {
            if let Some(name) = crate_name(file) {
                source.declare(files, file, name, &mut parsed);
            }
        }
        for (module, file, code) in &parsed {
            let mut reader =
                Reader { source: &source, file, module: module.clone(), references: vec![], impls: vec![] };
            reader.items(code);
            let Reader { references, impls, .. } = reader;
            source.references.extend(references);
            source.impls.extend(impls);
        }
        source
    }

    /// The file of a module.
    pub(crate) fn file(&self, module: &str) -> &Path {
        &self.modules[module].file
    }

    /// The file of a module's child, or the module's own for an empty name.
    pub(crate) fn child_file(&self, parent: &str, child: &str) -> &Path {
        if child.is_empty() { self.file(parent) } else { self.file(&format!("{parent}::{child}")) }
    }

    fn declare(
        &mut self,
        files: &BTreeMap<PathBuf, String>,
        file: &Path,
        name: String,
        parsed: &mut Vec<(String, PathBuf, Vec<Token>)>,
    ) {
        let code = tokens::read(&files[file]);
        self.modules.insert(name.clone(), Module { file: file.into(), ..Module::default() });
        for child in self.collect(&name, &code) {
            let below = if is_directory_file(file) { file.with_file_name("") } else { file.with_extension("") };
            let found = [below.join(format!("{child}.rs")), below.join(&child).join("mod.rs")];
            if let Some(found) = found.iter().find(|path| files.contains_key(*path)) {
                self.declare(files, found, format!("{name}::{child}"), parsed);
            }
        }
        parsed.push((name, file.into(), code));
    }

    /// Notes what a module's items define, and returns the modules that stand in files of their own.
    fn collect(&mut self, name: &str, code: &[Token]) -> Vec<String> {
        let mut in_files = Vec::new();
        for item in items(code) {
            let module = self.modules.get_mut(name).unwrap();
            match item.keyword {
                "mod" => {
                    let child = item.name.to_owned();
                    module.children.insert(child.clone());
                    match item.tokens.last().and_then(|last| last.group('{')) {
                        None => in_files.push(child),
                        Some(inside) => {
                            let path = format!("{name}::{child}");
                            let file = module.file.clone();
                            self.modules.insert(path.clone(), Module { file, ..Module::default() });
                            self.collect(&path, inside);
                        }
                    }
                }
                "use" => {
                    for leaf in leaves(item.tokens) {
                        match leaf.name {
                            Some(name) => {
                                module.uses.insert(name, leaf.path);
                            }
                            None => module.globs.push(leaf.path),
                        }
                    }
                }
                _ if !item.name.is_empty() => {
                    module.items.insert(item.name.to_owned());
                }
                _ => {}
            }
        }
        in_files
    }

    /// The absolute path of what `path` means in `module`, following the `use` lines of that module alone.
    fn absolute(&self, module: &str, path: &[String]) -> Option<Vec<String>> {
        let here: Vec<String> = module.split("::").map(str::to_owned).collect();
        let (first, rest) = path.split_first()?;
        let mut start = match first.as_str() {
            "crate" => vec![here[0].clone()],
            "self" => here,
            "super" => {
                let mut start = here;
                start.pop();
                let mut rest = rest;
                while let Some((next, more)) = rest.split_first().filter(|(next, _)| *next == "super") {
                    debug_assert_eq!(next, "super");
                    start.pop();
                    rest = more;
                }
                start.extend_from_slice(rest);
                return Some(start);
            }
            "Self" => return None,
            name => {
                let inside = &self.modules[module];
                if let Some(used) = inside.uses.get(name).filter(|used| used.first() != Some(first) || used.len() > 1) {
                    // `use tokio::x as tokio` would come here for ever.
                    let used = used.clone();
                    if used.first() == Some(first) { used } else { self.absolute(module, &used)? }
                } else if inside.children.contains(name) || inside.items.contains(name) {
                    [here, vec![name.to_owned()]].concat()
                } else if let Some(found) = inside.globs.iter().find_map(|glob| self.in_glob(module, glob, name)) {
                    found
                } else if rest.is_empty() || name.starts_with(char::is_uppercase) {
                    return None;
                } else {
                    vec![name.to_owned()]
                }
            }
        };
        start.extend_from_slice(rest);
        Some(start)
    }

    /// The absolute path of `name` when the module that a glob names has it.
    fn in_glob(&self, module: &str, glob: &[String], name: &str) -> Option<Vec<String>> {
        let first = glob.first()?;
        let known = ["crate", "self", "super"].contains(&first.as_str())
            || self.modules[module].uses.contains_key(first)
            || self.modules[module].children.contains(first);
        let target = if known { self.absolute(module, glob)? } else { glob.to_vec() };
        let found = self.modules.get(&target.join("::")).filter(|_| target.join("::") != module)?;
        let has = found.items.contains(name) || found.uses.contains_key(name) || found.children.contains(name);
        has.then(|| [target, vec![name.to_owned()]].concat())
    }

    /// The module that defines an absolute path, and the name of the item in it; the name is `None` for a module itself.
    fn definition(&self, path: &[String], depth: usize) -> Option<(String, Option<String>)> {
        let mut module = path.first()?.clone();
        self.modules.get(&module)?;
        for (at, name) in path.iter().enumerate().skip(1) {
            let inside = &self.modules[&module];
            if inside.children.contains(name) && self.modules.contains_key(&format!("{module}::{name}")) {
                module = format!("{module}::{name}");
                continue;
            }
            if !inside.items.contains(name) && depth < 20 {
                let used = inside.uses.get(name).and_then(|used| self.absolute(&module, used));
                let used = used.or_else(|| inside.globs.iter().find_map(|glob| self.in_glob(&module, glob, name)));
                if let Some(used) = used {
                    return self.definition(&[used, path[at + 1..].to_vec()].concat(), depth + 1);
                }
            }
            return Some((module, Some(name.clone())));
        }
        Some((module, None))
    }
}

/// `src/lib.rs` → `weir`, `src/main.rs` → `main`, `storage/src/lib.rs` → `weir_storage`.
fn crate_name(file: &Path) -> Option<String> {
    let text = file.to_str()?;
    if text == "src/main.rs" {
        return Some("main".into());
    }
    let directory = text.strip_suffix("src/lib.rs")?.trim_end_matches('/');
    let last = directory.rsplit('/').next()?;
    Some(if last.is_empty() { "weir".into() } else { format!("weir_{last}") })
}

/// Whether a file's submodules stand beside it, and not in a directory of its name.
pub(crate) fn is_directory_file(file: &Path) -> bool {
    ["mod.rs", "lib.rs", "main.rs"].iter().any(|name| file.ends_with(name))
}

/// One item: its keyword, its name (empty for `use`, `impl` and macros), and its tokens from after the keyword.
struct Declared<'a> {
    keyword: &'a str,
    name: &'a str,
    is_private: bool,
    line: usize,
    tokens: &'a [Token],
}

const KEYWORDS: [&str; 12] =
    ["use", "mod", "impl", "fn", "struct", "enum", "trait", "type", "const", "static", "union", "macro_rules"];

/// The items of a module or of an `impl` or `trait` block, but those for tests.
fn items(mut code: &[Token]) -> Vec<Declared<'_>> {
    let mut found = Vec::new();
    while !code.is_empty() {
        let mut at = 0;
        let (mut is_test, mut is_private, mut keyword) = (false, true, "");
        // Attributes, visibility and modifiers, as far as the keyword.
        while let Some(token) = code.get(at) {
            match token.word() {
                // `const fn` is a function.
                Some("const")
                    if code.get(at + 1).is_some_and(|next| MODIFIERS.iter().any(|word| next.is_word(word))) => {}
                Some(word) if KEYWORDS.contains(&word) => {
                    keyword = word;
                    break;
                }
                Some("pub") => is_private = false,
                Some(_) => {}
                None if token.is_mark('#') => is_test |= code[at + 1..].iter().take(2).any(is_test_attribute),
                None if token.is_mark(';') || token.group('{').is_some() => break,
                None => {}
            }
            at += 1;
        }
        let ends_with_a_block = !matches!(keyword, "use" | "type" | "const" | "static");
        let ends = |token: &Token| token.is_mark(';') || ends_with_a_block && token.group('{').is_some();
        let end = code[at..].iter().position(ends).map_or(code.len(), |end| at + end + 1);
        let first = (at + usize::from(!keyword.is_empty())).min(end);
        let tokens = &code[first..end];
        let name = match keyword {
            "use" | "impl" => "",
            "macro_rules" => tokens.get(1).and_then(Token::word).unwrap_or(""),
            _ => tokens.iter().find_map(Token::word).unwrap_or(""),
        };
        let name = if keyword.is_empty() { "" } else { name };
        if !is_test {
            let line = code[at.min(code.len() - 1)].line;
            // A macro's own words come before its block, and an `async` before its `fn`.
            let tokens = if keyword.is_empty() || keyword == "fn" { &code[..end] } else { tokens };
            found.push(Declared { keyword, name, is_private, line, tokens });
        }
        code = &code[end..];
    }
    found
}

const MODIFIERS: [&str; 4] = ["fn", "unsafe", "async", "extern"];

/// `[cfg(test)]`, alone or among others.
fn is_test_attribute(attribute: &Token) -> bool {
    let Some([name, arguments]) = attribute.group('[') else { return false };
    let has = |word: &str| arguments.group('(').is_some_and(|inside| inside.iter().any(|token| token.is_word(word)));
    name.is_word("cfg") && has("test")
}

struct Leaf {
    path: Vec<String>,
    /// `None` for `*`.
    name: Option<String>,
}

/// Each path of a `use` tree, whole.
fn leaves(tree: &[Token]) -> Vec<Leaf> {
    fn walk(tree: &[Token], before: &[String], found: &mut Vec<Leaf>) {
        for branch in tree.split(|token| token.is_mark(',') || token.is_mark(';')) {
            let mut path = before.to_vec();
            let mut name = None;
            for (at, token) in branch.iter().enumerate() {
                match &token.kind {
                    Kind::Word(word) if word == "as" => {
                        name = branch.get(at + 1).and_then(Token::word).map(str::to_owned);
                        break;
                    }
                    // `a::{self}` is `a`.
                    Kind::Word(word) if word == "self" && !path.is_empty() => name = path.last().cloned(),
                    Kind::Word(word) => {
                        path.push(word.clone());
                        name = Some(word.clone());
                    }
                    Kind::Mark('*') => found.push(Leaf { path: path.clone(), name: None }),
                    Kind::Group(_, inside) => walk(inside, &path, found),
                    _ => {}
                }
            }
            if branch.last().is_some_and(|last| last.word().is_some()) {
                found.push(Leaf { path, name });
            }
        }
    }
    let mut found = Vec::new();
    walk(tree, &[], &mut found);
    found
}

/// Collects what one file names.
struct Reader<'a> {
    source: &'a Source,
    file: &'a Path,
    module: String,
    references: Vec<Reference>,
    impls: Vec<Impl>,
}

impl Reader<'_> {
    fn items(&mut self, code: &[Token]) {
        for item in items(code) {
            match item.keyword {
                "use" => self.used(item.tokens, item.line, !item.is_private),
                "mod" => {
                    if let Some(inside) = item.tokens.last().and_then(|last| last.group('{')) {
                        let outside = self.module.clone();
                        self.module = format!("{outside}::{}", item.name);
                        self.items(inside);
                        self.module = outside;
                    }
                }
                "impl" | "trait" => {
                    if item.keyword == "impl" {
                        self.implementation(&item);
                    }
                    let Some((block, head)) = item.tokens.split_last() else { continue };
                    self.paths(head);
                    self.items(block.group('{').unwrap_or(&[]));
                }
                _ => self.paths(item.tokens),
            }
        }
    }

    fn used(&mut self, tree: &[Token], line: usize, re_exported: bool) {
        for leaf in leaves(tree) {
            self.name(&leaf.path, line, re_exported);
        }
    }

    fn implementation(&mut self, item: &Declared<'_>) {
        let head = item.tokens.split_last().map_or(item.tokens, |(_, head)| head);
        let head = head.split(|token| token.is_word("where")).next().unwrap_or(head);
        let mut depth = 0;
        let mut top = Vec::new();
        for (at, token) in head.iter().enumerate() {
            let arrow = at > 0 && (head[at - 1].is_mark('-') || head[at - 1].is_mark('='));
            match token.kind {
                Kind::Mark('<') => depth += 1,
                Kind::Mark('>') if !arrow => depth -= 1,
                _ if depth == 0 => top.push(token),
                _ => {}
            }
        }
        let split = top.iter().position(|token| token.is_word("for"));
        let of = self.local(split.map_or(&top[..], |split| &top[split + 1..]));
        let trait_in = split.and_then(|split| self.local(&top[..split])).map(|(module, _)| module);
        let (module, file) = (self.module.clone(), self.file.into());
        self.impls.push(Impl { module, file, line: item.line, of, trait_in, has_trait: split.is_some() });
    }

    /// The module and the name of what a path means, if it is of this workspace.
    fn local(&self, path: &[&Token]) -> Option<(String, String)> {
        let plain = path.iter().all(|token| token.word().is_some() || token.kind == Kind::Colons);
        let path: Vec<String> = path.iter().filter_map(|token| token.word()).map(str::to_owned).collect();
        let absolute = self.source.absolute(&self.module, &path).filter(|_| plain)?;
        let (module, name) = self.source.definition(&absolute, 0)?;
        Some((module, name?))
    }

    /// Every path in a run of tokens, also in the arguments of macros.
    fn paths(&mut self, code: &[Token]) {
        let mut at = 0;
        while let Some(token) = code.get(at) {
            at += 1;
            match &token.kind {
                // An attribute names nothing; what it keeps for tests is left out.
                Kind::Mark('#') => {
                    if code.get(at).is_some_and(is_test_attribute) {
                        let end = |token: &Token| token.is_mark(';') || token.group('{').is_some();
                        at += code[at..].iter().position(end).map_or(0, |end| end + 1);
                    } else if code.get(at).is_some_and(|next| next.group('[').is_some()) {
                        at += 1;
                    }
                }
                Kind::Word(word) if word == "pub" => {
                    at += usize::from(code.get(at).is_some_and(|next| next.group('(').is_some()));
                }
                Kind::Word(word) if word == "use" => {
                    let end = code[at..].iter().position(|token| token.is_mark(';')).unwrap_or(0);
                    self.used(&code[at..at + end], token.line, false);
                    at += end;
                }
                Kind::Word(word) if word == "async" || word == "await" => {
                    self.note("async".into(), None, token.line);
                }
                Kind::Word(word) => {
                    let mut path = vec![word.clone()];
                    while let [Token { kind: Kind::Colons, .. }, next, ..] = &code[at..]
                        && let Some(word) = next.word()
                    {
                        path.push(word.to_owned());
                        at += 2;
                    }
                    // A word alone is a variable or a field, unless it is called.
                    let is_called = code.get(at).is_some_and(|next| next.group('(').is_some());
                    if path.len() > 1 || is_called || word.starts_with(char::is_uppercase) {
                        self.name(&path, token.line, false);
                    }
                }
                // A method or a field.
                Kind::Mark('.') if code.get(at).is_some_and(|next| next.word().is_some_and(|word| word != "await")) => {
                    at += 1;
                }
                Kind::Group(_, inside) => self.paths(inside),
                _ => {}
            }
        }
    }

    fn name(&mut self, path: &[String], line: usize, re_exported: bool) {
        let Some(absolute) = self.source.absolute(&self.module, path) else { return };
        let defined = self.source.definition(&absolute, 0);
        let defined_in = defined.filter(|(_, item)| item.is_some() && !re_exported).map(|(module, _)| module);
        self.note(absolute.join("::"), defined_in, line);
    }

    fn note(&mut self, named: String, defined_in: Option<String>, line: usize) {
        let (module, file) = (self.module.clone(), self.file.into());
        self.references.push(Reference { module, file, line, named, defined_in });
    }
}
