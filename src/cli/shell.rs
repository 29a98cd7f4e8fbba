//! `weir completions` and `weir manual`: what shells and `man` know of the commands, made from their definition.

use std::path::PathBuf;

use clap::{Args, Command, ValueEnum};

use super::say;

/// Which shell.
#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Where to.
#[derive(Debug, Args)]
pub struct ManualArguments {
    /// A directory for the pages, such as /usr/local/share/man/man1; made when it is not there
    directory: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    /// For /usr/share/bash-completion/completions/weir, or: source <(weir completions bash)
    Bash,
    /// For a directory of $fpath, as _weir
    Zsh,
    /// For ~/.config/fish/completions/weir.fish
    Fish,
}

pub(super) fn completions(arguments: &CompletionsArguments, mut weir: Command) -> Result<(), String> {
    let shell = match arguments.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut weir, "weir", &mut script);
    say(&String::from_utf8_lossy(&script))
}

pub(super) fn manual(arguments: &ManualArguments, weir: Command) -> Result<(), String> {
    let directory = &arguments.directory;
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(weir, directory))
        .map_err(|error| format!("{}: {error}; name a directory that this user may write in", directory.display()))
}
