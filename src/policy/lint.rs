//! What the history of an image shows of its Dockerfile, under the numbers and severities of hadolint.
//!
//! The history lacks the stages that are not in the image, comments that switch a rule off, and the mounts of a `RUN`; it has the steps of
//! the base image too. So only rules are here that it can answer, and a finding says which command it is about.

use super::{history::Step, user::User};

/// How bad hadolint calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Info.
    Info,
    /// Warning.
    Warning,
    /// Error.
    Error,
}

/// A rule that a Dockerfile broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lint {
    /// hadolint's number, such as `DL3008`.
    pub rule: &'static str,
    /// hadolint's severity.
    pub severity: Severity,
    /// What to do instead.
    pub advice: &'static str,
    /// In how many steps.
    pub steps: usize,
}

/// Whether a step breaks a rule. Its commands are given, so that they are parsed once.
type Broken = fn(&Step<'_>, &[Vec<&str>]) -> bool;

const RULES: &[(&str, Severity, &str, Broken)] = &[
    (
        "DL3001",
        Severity::Info,
        "run no ssh, vim, shutdown, service, ps, free, top, kill, mount or ifconfig while building",
        |_, commands| {
            const NOT_HERE: [&str; 10] =
                ["ssh", "vim", "shutdown", "service", "ps", "free", "top", "kill", "mount", "ifconfig"];
            commands.iter().any(|words| NOT_HERE.contains(&words[0]))
        },
    ),
    ("DL3004", Severity::Error, "run no sudo; use USER", |_, commands| commands.iter().any(|words| words[0] == "sudo")),
    ("DL3008", Severity::Warning, "pin versions in apt-get install", |_, commands| {
        packages(commands, &["apt-get"], &["install"])
            .any(|package| !package.contains(['=', '/', '$']) && !package.ends_with(".deb"))
    }),
    ("DL3009", Severity::Info, "remove /var/lib/apt/lists/* in the step that runs apt-get update", |step, commands| {
        does(commands, "apt-get", "update") && !step.arguments.contains("/var/lib/apt/lists")
    }),
    ("DL3013", Severity::Warning, "pin versions in pip install", |_, commands| {
        let is_loose = |package: &str| !package.contains(['=', '<', '>', '~', '/', '@', '$', '.']);
        let by_list = |words: &&Vec<&str>| {
            !words.iter().any(|word| matches!(*word, "-r" | "--requirement" | "-c" | "--constraint" | "-e"))
        };
        let commands: Vec<Vec<&str>> = commands.iter().filter(by_list).cloned().collect();
        packages(&commands, &["pip", "pip3"], &["install"]).any(is_loose)
    }),
    ("DL3014", Severity::Warning, "give apt-get install the option -y", |_, commands| {
        let is_yes = |word: &&str| matches!(*word, "--yes" | "--assume-yes" | "-qq") || is_short(word, 'y');
        of(commands, "apt-get", "install").any(|words| !words.iter().any(is_yes))
    }),
    ("DL3015", Severity::Info, "give apt-get install --no-install-recommends", |_, commands| {
        let is_set = |word: &&str| *word == "--no-install-recommends" || word.contains("APT::Install-Recommends");
        of(commands, "apt-get", "install").any(|words| !words.iter().any(is_set))
    }),
    ("DL3016", Severity::Warning, "pin versions in npm install", |_, commands| {
        let is_loose = |package: &str| {
            !package.trim_start_matches('@').contains('@') && !package.contains([':', '$']) && !package.starts_with('.')
        };
        packages(commands, &["npm"], &["install", "i", "add"]).any(is_loose)
    }),
    ("DL3018", Severity::Warning, "pin versions in apk add", |_, commands| {
        packages(commands, &["apk"], &["add"]).any(|package| !package.contains(['=', '<', '>', '~', '$', '/', '.']))
    }),
    ("DL3019", Severity::Info, "give apk add --no-cache", |step, commands| {
        let is_cached = |words: &[&str]| !words.contains(&"--no-cache");
        of(commands, "apk", "add").any(is_cached) && !step.arguments.contains("/var/cache/apk")
    }),
    ("DL3020", Severity::Error, "use COPY instead of ADD for files", |step, _| {
        let words: Vec<&str> = step.arguments.split_whitespace().filter(|word| !word.starts_with("--")).collect();
        let (_, sources) = words.split_last().unwrap_or((&"", &[]));
        // The old builder writes the hash of what was added, as `file:… in /`, by which an archive cannot be told.
        let is_hashed = ["file:", "dir:", "multi:"].iter().any(|begin| step.arguments.starts_with(*begin));
        let is_fetched = |word: &str| word.contains("://") || word.starts_with("git@");
        let is_file = |word: &&str| !is_fetched(word) && !is_archive(word);
        step.instruction == "ADD" && !is_hashed && sources.iter().any(is_file)
    }),
    ("DL3025", Severity::Warning, "write CMD and ENTRYPOINT as a JSON list", |step, _| {
        let is_shell =
            step.arguments.starts_with("[\"/bin/sh\" \"-c\"") || step.arguments.starts_with("[\"/bin/sh\", \"-c\"");
        matches!(step.instruction, "CMD" | "ENTRYPOINT") && is_shell
    }),
    ("DL3027", Severity::Warning, "use apt-get or apt-cache instead of apt", |_, commands| {
        commands.iter().any(|words| words[0] == "apt")
    }),
    ("DL3028", Severity::Warning, "pin versions in gem install", |_, commands| {
        let is_pinned = |words: &[&str]| {
            words.iter().any(|word| matches!(*word, "-v" | "--version") || word.starts_with("--version="))
        };
        of(commands, "gem", "install").any(|words| {
            !is_pinned(words)
                && words.iter().skip(2).any(|word| !word.starts_with('-') && !word.contains([':', '$', '.']))
        })
    }),
    ("DL3042", Severity::Warning, "give pip install --no-cache-dir", |step, commands| {
        let is_cached = |words: &[&str]| !words.contains(&"--no-cache-dir");
        !step.arguments.contains("PIP_NO_CACHE_DIR")
            && (of(commands, "pip", "install").any(is_cached) || of(commands, "pip3", "install").any(is_cached))
    }),
    ("DL4000", Severity::Error, "write a LABEL instead of MAINTAINER", |step, _| step.instruction == "MAINTAINER"),
    ("DL4001", Severity::Warning, "use wget or curl, not both", |_, commands| {
        let runs = |name| commands.iter().any(|words| words[0] == name);
        runs("wget") && runs("curl")
    }),
];

const LAST_USER: (&str, Severity, &str) = ("DL3002", Severity::Warning, "let the last USER be another than root");

/// The rules that the steps of a history break, in the order of their numbers.
pub(super) fn lint(history: &[String]) -> Vec<Lint> {
    let steps: Vec<Step<'_>> = history.iter().map(|created_by| Step::parse(created_by)).collect();
    let mut broken = [0; RULES.len()];
    for step in &steps {
        let commands = if step.instruction == "RUN" { step.commands() } else { Vec::new() };
        for ((.., is_broken), count) in RULES.iter().zip(&mut broken) {
            *count += usize::from(is_broken(step, &commands));
        }
    }
    let found = RULES.iter().zip(broken).filter(|(_, steps)| *steps > 0);
    let mut found: Vec<Lint> =
        found.map(|(&(rule, severity, advice, _), steps)| Lint { rule, severity, advice, steps }).collect();
    let last = steps.iter().rev().find(|step| step.instruction == "USER");
    // A variable has its value in the config, where it is looked at as the user itself.
    let root = |step: &Step<'_>| User::parse(step.arguments) == User::Root;
    if last.is_some_and(root) {
        let (rule, severity, advice) = LAST_USER;
        found.push(Lint { rule, severity, advice, steps: 1 });
        found.sort_by_key(|lint| lint.rule);
    }
    found
}

/// Commands of a program with this subcommand, whatever options stand between the two.
fn of<'a>(commands: &'a [Vec<&'a str>], program: &'a str, subcommand: &'a str) -> impl Iterator<Item = &'a [&'a str]> {
    let is_it = move |words: &&Vec<&str>| words[0] == program && words.iter().skip(1).any(|word| *word == subcommand);
    commands.iter().filter(is_it).map(|words| &words[..])
}

fn does(commands: &[Vec<&str>], program: &str, subcommand: &str) -> bool {
    of(commands, program, subcommand).next().is_some()
}

/// What these commands install: the words behind the subcommand that are no options, nor the values of options.
fn packages<'a>(
    commands: &'a [Vec<&'a str>],
    programs: &'a [&'a str],
    subcommands: &'a [&'a str],
) -> impl Iterator<Item = &'a str> {
    let of = move |words: &'a Vec<&'a str>| {
        let at = words.iter().position(|word| subcommands.contains(word));
        let at = at.filter(|_| programs.contains(&words[0]));
        let behind = at.map_or(&[][..], |at| &words[at + 1..]);
        let takes_a_value = |word: &str| {
            matches!(word, "-t" | "--target" | "--virtual" | "-o" | "--repository" | "-X" | "-i" | "--index-url")
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
fn is_short(word: &str, letter: char) -> bool {
    word.strip_prefix('-').is_some_and(|letters| !letters.starts_with('-') && letters.contains(letter))
}

fn is_archive(word: &str) -> bool {
    let ends = [".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".tzst", ".zip", ".lzma"];
    ends.iter().any(|end| word.ends_with(*end)) || word.contains(".tar.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(history: &[&str]) -> Vec<&'static str> {
        let history: Vec<String> = history.iter().map(|step| (*step).to_owned()).collect();
        lint(&history).iter().map(|lint| lint.rule).collect()
    }

    #[test]
    fn a_dockerfile_is_linted_by_its_history() {
        for (step, expected) in [
            ("RUN /bin/sh -c service nginx start", &["DL3001"][..]),
            ("RUN /bin/sh -c cd /a && sudo make", &["DL3004"]),
            ("RUN /bin/sh -c apt-get install -y --no-install-recommends curl", &["DL3008"]),
            ("RUN /bin/sh -c apt-get update && apt-get -y install --no-install-recommends curl=7.1", &["DL3009"]),
            ("RUN /bin/sh -c pip install --no-cache-dir flask", &["DL3013"]),
            ("RUN /bin/sh -c apt-get install --no-install-recommends curl=7.1", &["DL3014"]),
            ("RUN /bin/sh -c apt-get install -yq curl=7.1", &["DL3015"]),
            ("RUN /bin/sh -c npm install -g yarn", &["DL3016"]),
            ("RUN /bin/sh -c apk add --no-cache git", &["DL3018"]),
            ("RUN /bin/sh -c apk add git=2.1-r0", &["DL3019"]),
            ("ADD app.conf /etc/ # buildkit", &["DL3020"]),
            ("CMD [\"/bin/sh\" \"-c\" \"run it\"]", &["DL3025"]),
            ("RUN /bin/sh -c apt update", &["DL3027"]),
            ("RUN /bin/sh -c gem install rails", &["DL3028"]),
            ("RUN /bin/sh -c pip3 install flask==3.0", &["DL3042"]),
            ("/bin/sh -c #(nop)  MAINTAINER app", &["DL4000"]),
            ("RUN /bin/sh -c curl -O a && wget b", &["DL4001"]),
            ("USER root", &["DL3002"]),
            ("/bin/sh -c #(nop)  USER 0:0", &["DL3002"]),
        ] {
            assert_eq!(rules(&[step]), expected, "{step}");
        }
        assert_eq!(rules(&["USER root", "USER app"]), Vec::<&str>::new(), "the last one counts");
        let twice = lint(&["RUN sudo a".to_owned(), "RUN sudo b".to_owned()]);
        assert_eq!((twice.len(), twice[0].steps, twice[0].severity), (1, 2, Severity::Error));
    }

    #[test]
    fn the_steps_of_official_images_raise_no_error() {
        let steps = [
            "/bin/sh -c #(nop) ADD file:4b03b5f551e3fbdf47ec609712007327828f7530cc3455c43bbcdcaf449a75a9 in / ",
            "ADD alpine-minirootfs-3.20.3-x86_64.tar.gz / # buildkit",
            "ADD https://example.com/a.conf /etc/ # buildkit",
            "# debian.sh --arch 'amd64' out/ 'bookworm' '@1733097600'",
            "CMD [\"bash\"]",
            "ENV PYTHON_VERSION=3.12.8",
            "RUN /bin/sh -c set -eux; apk add --no-cache ca-certificates=20241121 tzdata~=2024 ; # buildkit",
            "RUN /bin/sh -c set -x && addgroup -S -g 101 nginx && adduser -S -D -H -u 101 nginx",
            "COPY docker-entrypoint.sh / # buildkit",
            "ENTRYPOINT [\"/docker-entrypoint.sh\"]",
            "USER 65532:65532",
            "WORKDIR /app",
        ];
        assert_eq!(rules(&steps), Vec::<&str>::new());
    }
}
