//! The words of the commands of a `RUN`: which program runs with which subcommand, options and packages.

/// Commands of a program with this subcommand, whatever options stand between the two.
pub(super) fn of<'a>(
    commands: &'a [Vec<&'a str>],
    program: &'a str,
    subcommand: &'a str,
) -> impl Iterator<Item = &'a [&'a str]> {
    let is_it = move |words: &&Vec<&str>| words[0] == program && words.iter().skip(1).any(|word| *word == subcommand);
    commands.iter().filter(is_it).map(|words| &words[..])
}

pub(super) fn does(commands: &[Vec<&str>], program: &str, subcommand: &str) -> bool {
    of(commands, program, subcommand).next().is_some()
}

/// What these commands install: the words behind the subcommand that are no options, nor the values of options.
pub(super) fn packages<'a>(
    commands: &'a [Vec<&'a str>],
    programs: &'a [&'a str],
    subcommands: &'a [&'a str],
) -> impl Iterator<Item = &'a str> {
    let of = move |words: &'a Vec<&'a str>| {
        let at = words.iter().position(|word| subcommands.contains(word));
        let at = at.filter(|_| programs.contains(&words[0]));
        let behind = at.map_or(&[][..], |at| &words[at + 1..]);
        let takes_a_value = |word: &str| {
            const TAKE_A_VALUE: [&str; 14] = [
                "-t",
                "--target",
                "--virtual",
                "-o",
                "--repository",
                "-X",
                "-i",
                "--index-url",
                "--enablerepo",
                "--disablerepo",
                "--installroot",
                "--releasever",
                "--setopt",
                "--from",
            ];
            TAKE_A_VALUE.contains(&word)
        };
        let mut previous = "";
        behind.iter().copied().filter(move |word| {
            let is_package =
                !word.starts_with(['-', '>', '.']) && !takes_a_value(previous) && !previous.starts_with('>');
            previous = *word;
            is_package
        })
    };
    commands.iter().flat_map(of)
}

/// Whether a word is a group of one-letter options with this one.
pub(super) fn is_short(word: &str, letter: char) -> bool {
    word.strip_prefix('-').is_some_and(|letters| !letters.starts_with('-') && letters.contains(letter))
}

/// Whether a command has one of these words.
pub(super) fn has(words: &[&str], wanted: &[&str]) -> bool {
    words.iter().any(|word| wanted.contains(word))
}

/// Whether commands install and leave what they downloaded: the first that cleans must stand behind the first that installs.
pub(super) fn leaves(
    commands: &[Vec<&str>],
    installs: impl Fn(&[&str]) -> bool,
    cleans: impl Fn(&[&str]) -> bool,
) -> bool {
    let installed = commands.iter().position(|words| installs(words));
    let cleaned = commands.iter().position(|words| cleans(words));
    installed.is_some_and(|installed| cleaned.is_none_or(|cleaned| cleaned < installed))
}
