//! `weir-conformance`: the hub on loopback and the suites that use it, from the command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use weir_conformance::{bench, compare, hub, mirror, push, registry};

/// Is it a registry, and is it a good mirror?
#[derive(Debug, Parser)]
#[command(name = "weir-conformance", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Hub(Box<hub::Command>),
    Mirror(Box<mirror::Command>),
    Push(push::Command),
    Registry(registry::Command),
    Bench(bench::Command),
    Compare(compare::Command),
}

#[tokio::main]
async fn main() -> ExitCode {
    let ran = match Arguments::parse().command {
        Command::Hub(command) => command.run().await,
        Command::Mirror(command) => return command.run().await,
        Command::Push(command) => return command.run().await,
        Command::Registry(command) => return command.run().await,
        Command::Bench(command) => return command.run().await,
        Command::Compare(command) => return command.run(),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-conformance: {error}");
            ExitCode::FAILURE
        }
    }
}
