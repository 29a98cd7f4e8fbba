//! Settings to values to servers, until a signal. Wiring only.

use std::process::ExitCode;

use clap::Parser;
use weir::cli::{self, Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = match cli.load() {
        Ok(config) => config,
        Err(mistakes) => return fail(&mistakes.to_string()),
    };
    let done = match &cli.command {
        None | Some(Command::Serve) => cli::say(&cli::greeting(&config)),
        Some(command) => cli::run(command, &config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => fail(&reason),
    }
}

/// Says why on standard error, a line each, in the form that people look for.
fn fail(reason: &str) -> ExitCode {
    use std::io::Write;
    let mut err = std::io::stderr().lock();
    for line in reason.lines() {
        // Nobody is left to tell when this fails.
        let _ = writeln!(err, "weir: {line}");
    }
    ExitCode::FAILURE
}
