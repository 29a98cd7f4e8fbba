//! What the history of an image shows of its Dockerfile, under the numbers and severities of hadolint.
//!
//! The history lacks the stages that are not in the image, comments that switch a rule off, and the mounts of a `RUN`; it has the steps of
//! the base image too. So only rules are here that it can answer, and a finding says which command it is about.

mod rpm;
mod words;

use self::words::{does, has, is_short, leaves, of, packages};
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
    ("DL3003", Severity::Warning, "use WORKDIR instead of cd", |_, commands| {
        commands.iter().any(|words| words[0] == "cd")
    }),
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
    ("DL3030", Severity::Warning, "give yum install the option -y", |_, commands| rpm::asks(commands, rpm::YUM)),
    ("DL3032", Severity::Warning, "run yum clean all behind yum install", |_, commands| rpm::leaves_yum(commands)),
    ("DL3033", Severity::Warning, "pin versions in yum install", |_, commands| rpm::is_loose(commands, rpm::YUM)),
    ("DL3034", Severity::Warning, "give zypper the option -y", |_, commands| rpm::zypper_asks(commands)),
    ("DL3035", Severity::Warning, "run no zypper dist-upgrade", |_, commands| {
        commands.iter().any(|words| words[0] == "zypper" && has(words, &["dist-upgrade", "dup"]))
    }),
    ("DL3036", Severity::Warning, "run zypper clean behind zypper install", |_, commands| rpm::leaves_zypper(commands)),
    ("DL3037", Severity::Warning, "pin versions in zypper install", |_, commands| rpm::is_loose_zypper(commands)),
    ("DL3038", Severity::Warning, "give dnf install the option -y", |_, commands| rpm::asks(commands, rpm::DNF)),
    ("DL3040", Severity::Warning, "run dnf clean all behind dnf install", |_, commands| rpm::leaves_dnf(commands)),
    ("DL3041", Severity::Warning, "pin versions in dnf install", |_, commands| rpm::is_loose(commands, rpm::DNF)),
    ("DL3042", Severity::Warning, "give pip install --no-cache-dir", |step, commands| {
        let is_cached = |words: &[&str]| !words.contains(&"--no-cache-dir");
        !step.arguments.contains("PIP_NO_CACHE_DIR")
            && (of(commands, "pip", "install").any(is_cached) || of(commands, "pip3", "install").any(is_cached))
    }),
    ("DL3046", Severity::Warning, "give useradd with a high uid the option -l", |_, commands| {
        let is_high = |pair: &[&str]| {
            is_short(pair[0], 'u') && pair[1].len() > 5 && pair[1].bytes().all(|byte| byte.is_ascii_digit())
        };
        let is_short_log = |word: &&str| *word == "--no-log-init" || is_short(word, 'l');
        let is_large = |words: &[&str]| words.windows(2).any(is_high) && !words.iter().any(is_short_log);
        commands.iter().any(|words| words[0] == "useradd" && is_large(words))
    }),
    ("DL3047", Severity::Info, "give wget --progress=dot:giga, -q or -nv", |_, commands| {
        let is_calm = |word: &&str| {
            let long = ["--progress", "--quiet", "--no-verbose", "--output-file", "--append-output"];
            let is_long = long.contains(&word.split('=').next().unwrap_or_default());
            is_long || *word == "-nv" || ['q', 'o', 'a'].iter().any(|letter| is_short(word, *letter))
        };
        commands.iter().any(|words| words[0] == "wget" && !words.iter().any(is_calm))
    }),
    ("DL3060", Severity::Info, "run yarn cache clean behind yarn install", |_, commands| {
        let runs = |words: &[&str], wanted: &[&str]| words[0] == "yarn" && has(words, wanted);
        leaves(commands, |words| runs(words, &["install"]), |words| runs(words, &["cache", "clean"]))
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
            ("RUN /bin/sh -c cd /a && make", &["DL3003"]),
            ("RUN /bin/sh -c (cd /a; sudo make)", &["DL3003", "DL3004"]),
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
            ("RUN /bin/sh -c curl -O a && wget b", &["DL3047", "DL4001"]),
            ("RUN /bin/sh -c useradd -u 1000000 app", &["DL3046"]),
            ("RUN /bin/sh -c wget -O a https://example.com/a", &["DL3047"]),
            ("RUN /bin/sh -c yarn install --production", &["DL3060"]),
            ("RUN /bin/sh -c yarn cache clean && yarn install", &["DL3060"]),
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
    fn what_a_rule_asks_for_satisfies_it() {
        for step in [
            "WORKDIR /a",
            "RUN /bin/sh -c cdebootstrap a",
            "RUN /bin/sh -c useradd -l -u 1000000 app",
            "RUN /bin/sh -c useradd --no-log-init -u 1000000 app",
            "RUN /bin/sh -c useradd -u 10001 application",
            "RUN /bin/sh -c useradd -u10001 application",
            "RUN /bin/sh -c wget --progress=dot:giga a",
            "RUN /bin/sh -c wget -qO- a",
            "RUN /bin/sh -c wget -nv a",
            "RUN /bin/sh -c wget --quiet a",
            "RUN /bin/sh -c wget -o log a",
            "RUN /bin/sh -c yarn install && yarn build && yarn cache clean",
            "RUN /bin/sh -c yarn global list",
        ] {
            assert_eq!(rules(&[step]), Vec::<&str>::new(), "{step}");
        }
    }

    #[test]
    fn what_yum_dnf_and_zypper_lack_is_found() {
        for (commands, expected) in [
            ("yum install a-1.2 && yum clean all", &["DL3030"][..]),
            ("yum -y groupinstall tools", &[]),
            ("yum groupinstall tools", &["DL3030"]),
            ("yum install -y a-1.2", &["DL3032"]),
            ("yum clean all && yum install -y a-1.2", &["DL3032"]),
            ("yum install -y a-1.2 && rm -rf /var/cache/yum", &[]),
            ("yum install -y a-1.2 && rm -r /var/cache/yum/x86_64", &[]),
            ("yum install --assumeyes a && yum clean all", &["DL3033"]),
            ("yum install -y python3-devel && yum clean all", &["DL3033"]),
            ("yum install -y 'a-1.2-3.el9' https://example.com/a.rpm a-${V} && yum clean all", &[]),
            ("yum install -y --enablerepo epel a-1.2 && yum clean all", &[]),
            ("yum module install -y a && yum clean all", &["DL3033"]),
            ("yum module install -y a:18 && yum clean all", &[]),
            ("yum update -y", &[]),
            ("zypper install a=1 && zypper clean", &["DL3034"]),
            ("zypper patch", &["DL3034"]),
            ("zypper -n rm a", &[]),
            ("zypper --non-interactive dup", &["DL3035"]),
            ("zypper in -y a=1", &["DL3036"]),
            ("zypper in -y a=1 && zypper cc --all", &[]),
            ("zypper in -y a && zypper clean", &["DL3037"]),
            ("zypper in -y a.rpm 'b>=2' && zypper clean", &[]),
            ("dnf install a-1.2 && dnf clean all", &["DL3038"]),
            ("microdnf install a-1.2 && microdnf clean all", &["DL3038"]),
            ("dnf install -y a-1.2", &["DL3040"]),
            ("dnf -y upgrade", &["DL3040"]),
            ("dnf -y install a-1.2 && microdnf clean all", &["DL3040"]),
            ("dnf -y install a-1.2 && dnf clean all", &[]),
            ("dnf -y install a && dnf clean all", &["DL3041"]),
            ("dnf -y module install a && dnf clean all", &["DL3041"]),
            ("dnf -y group install a && dnf clean all", &[]),
        ] {
            assert_eq!(rules(&[&format!("RUN /bin/sh -c {commands} # buildkit")]), expected, "{commands}");
        }
    }

    #[test]
    fn the_steps_of_official_images_break_no_rule_that_fails() {
        let steps = [
            "RUN /bin/sh -c set -eux; wget -O python.tar.xz \"https://www.python.org/ftp/python/3.12.8/Python-3.12.8.tar.xz\"; cd /usr/src/python; ./configure; make -j 2; # buildkit",
            "RUN /bin/sh -c groupadd -r postgres --gid=999; useradd -r -g postgres --uid=999 --home-dir=/var/lib/postgresql postgres # buildkit",
            "/bin/sh -c apk add --no-cache --virtual .build-deps-yarn curl gnupg tar   && mkdir -p /opt   && yarn --version",
            "RUN /bin/sh -c microdnf install -y oraclelinux-developer-release-el9; microdnf clean all # buildkit",
            "RUN /bin/sh -c dnf -y update && dnf clean all && rm -rf /var/cache/dnf # buildkit",
        ];
        let history = steps.map(str::to_owned);
        let errors: Vec<Lint> = lint(&history).into_iter().filter(|lint| lint.severity == Severity::Error).collect();
        assert_eq!(errors, []);
        assert_eq!(rules(&steps[1..2]), Vec::<&str>::new());
        assert_eq!(rules(&steps[4..]), Vec::<&str>::new());
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
