//! The steps of a build, from the history of an image: which instruction of a Dockerfile each was, and the commands of a `RUN`.
//!
//! Docker's old builder writes `/bin/sh -c #(nop)  ENV A=b`, BuildKit `ENV A=b`, and both put the build arguments of a `RUN` before its
//! shell: `|1 TOKEN=x /bin/sh -c make`. The options of a `RUN`, such as its mounts, are not in the history.

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step<'a> {
    /// `RUN`, `ENV`, `COPY` and so on; empty for what no Dockerfile wrote.
    pub(super) instruction: &'a str,
    /// What stands behind it. Of a `RUN` in a shell, what the shell runs.
    pub(super) arguments: &'a str,
    /// The build arguments of a `RUN`, as `NAME=value`, separated by spaces.
    pub(super) build_arguments: &'a str,
}

const INSTRUCTIONS: [&str; 17] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "WORKDIR",
];
const SHELL: &str = "/bin/sh -c ";

impl<'a> Step<'a> {
    /// Reads `created_by` of a step.
    pub(super) fn parse(created_by: &'a str) -> Step<'a> {
        let text = created_by.trim();
        let text = text.strip_suffix("# buildkit").unwrap_or(text).trim_end();
        if let Some(step) = text.strip_prefix("/bin/sh -c #(nop)") {
            return Step::instruction(step.trim_start());
        }
        match text.strip_prefix("RUN ") {
            Some(run) => Step::run(run.trim_start()),
            None if text.starts_with('|') || text.starts_with(SHELL) => Step::run(text),
            None => Step::instruction(text),
        }
    }

    fn instruction(text: &'a str) -> Step<'a> {
        let (instruction, arguments) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        match INSTRUCTIONS.contains(&instruction) {
            true => Step { instruction, arguments: arguments.trim(), build_arguments: "" },
            false => Step { instruction: "", arguments: text, build_arguments: "" },
        }
    }

    fn run(text: &'a str) -> Step<'a> {
        let (build_arguments, arguments) = match (text.starts_with('|'), text.find(SHELL)) {
            (true, Some(at)) => (text[..at].split_once(' ').map_or("", |(_, given)| given.trim()), &text[at..]),
            _ => ("", text),
        };
        let arguments = arguments.strip_prefix(SHELL).unwrap_or(arguments);
        Step { instruction: "RUN", arguments, build_arguments }
    }

    /// The simple commands of a `RUN`, each as its words, without assignments before it. Quotes keep what they hold together; a
    /// substitution counts as a command of its own. No shell: what it cannot read gives odd words, and no error.
    pub(super) fn commands(&self) -> Vec<Vec<&'a str>> {
        let (text, mut commands) = (self.arguments, Vec::new());
        let (mut command, mut begin, mut quote) = (Vec::new(), None, None);
        for (at, character) in text.char_indices() {
            let is_inside = quote.is_some();
            match (quote, character) {
                (None, '"' | '\'') => quote = Some(character),
                (Some(open), close) if open == close => quote = None,
                _ => {}
            }
            let ends_command = !is_inside && matches!(character, ';' | '&' | '|' | '\n' | '(' | ')' | '`' | '{' | '}');
            if is_inside || !(ends_command || character.is_whitespace()) {
                begin.get_or_insert(at);
                continue;
            }
            command.extend(begin.take().map(|begin| &text[begin..at]));
            // A line that goes on.
            if command.last() == Some(&"\\") {
                command.pop();
            } else if ends_command {
                push(&mut commands, &mut command);
            }
        }
        command.extend(begin.map(|begin| &text[begin..]));
        push(&mut commands, &mut command);
        commands
    }
}

/// Words before a command that are none.
const BEFORE: [&str; 9] = ["then", "do", "else", "if", "while", "!", "exec", "time", "env"];

fn push<'a>(commands: &mut Vec<Vec<&'a str>>, command: &mut Vec<&'a str>) {
    let is_before = |word: &&&str| BEFORE.contains(*word) || (word.contains('=') && !word.starts_with('-'));
    let skipped = command.iter().take_while(is_before).count();
    command.drain(..skipped);
    if !command.is_empty() {
        commands.push(std::mem::take(command));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_read_as_either_builder_writes_it() {
        for (created_by, instruction, arguments, build_arguments) in [
            ("/bin/sh -c #(nop)  ENV A=b", "ENV", "A=b", ""),
            ("ENV A=b", "ENV", "A=b", ""),
            ("RUN /bin/sh -c make # buildkit", "RUN", "make", ""),
            ("RUN |2 A=b C=d /bin/sh -c make # buildkit", "RUN", "make", "A=b C=d"),
            ("|1 A=b /bin/sh -c make", "RUN", "make", "A=b"),
            ("/bin/sh -c apt-get update", "RUN", "apt-get update", ""),
            ("RUN apt-get update", "RUN", "apt-get update", ""),
            ("COPY /a /b # buildkit", "COPY", "/a /b", ""),
            ("# debian.sh --arch 'amd64' out/", "", "# debian.sh --arch 'amd64' out/", ""),
            ("bazel build ...", "", "bazel build ...", ""),
            ("|1 A=b", "RUN", "|1 A=b", ""),
            ("", "", "", ""),
        ] {
            assert_eq!(Step::parse(created_by), Step { instruction, arguments, build_arguments }, "{created_by}");
        }
    }

    #[test]
    fn a_run_is_its_commands() {
        let run =
            "set -eux; A='x; y' apt-get update && apt-get install -y \\\n  curl=7 \"a b\" | cat; x=$(uname -m) || true";
        let step = Step { instruction: "RUN", arguments: run, build_arguments: "" };
        let commands: Vec<String> = step.commands().iter().map(|words| words.join(" ")).collect();
        let expected = ["set -eux", "apt-get update", "apt-get install -y curl=7 \"a b\"", "cat", "uname -m", "true"];
        assert_eq!(commands, expected);
        let odd = Step { arguments: "a 'b ; é (", ..step };
        assert_eq!(odd.commands(), [["a", "'b ; é ("]]);
    }
}
