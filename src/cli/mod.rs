//! The command line: one file per command. Serving itself is wired in `main`.

mod ask;
mod ban;
mod budget;
mod cache;
mod check;
mod client_config;
mod config;
mod describe;
mod export;
mod failure;
mod hash_password;
mod image;
mod import;
mod local;
mod output;
mod purge;
mod scanner;
mod serve;
mod shell;
mod status;
mod table;
mod throttle;
mod top;
mod verify;
mod warm;

use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser, Subcommand};

pub use self::{
    failure::Failure,
    local::{local_socket, remove_socket},
    output::say,
    serve::greeting,
};
use crate::config::{Config, ConfigErrors, Watch};

/// The version, with its commit in what `.ci/release` builds.
const VERSION: &str = match option_env!("WEIR_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// A pull-through mirror for OCI registries that never wastes an upstream pull.
#[derive(Debug, Parser)]
#[command(version = VERSION, about)]
pub struct Cli {
    /// The configuration file; without one, the defaults. WEIR_CONFIG names one too
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The command; without one, serve
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The commands of `weir`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve registry clients until a signal (the default)
    Serve,
    /// Check a configuration: errors, warnings, and what it does
    Check(check::Arguments),
    /// Show what is configured: every setting, and where it was written
    Config(config::Arguments),
    /// Print the configuration file of a client, with notes on standard error
    ClientConfig(client_config::Arguments),
    /// Show whether a running weir is well, and the figures to look at first
    Status(status::Arguments),
    /// Watch a running weir in a terminal: rates, budget, clients
    Top(top::Arguments),
    /// Exit with 0 when a running weir answers; for the health check of a container
    Healthcheck(status::HealthArguments),
    /// Show what is left of the upstream budget, and who spent it on what
    Budget(budget::Arguments),
    /// List, make, lift, export or import bans
    Ban(ban::Arguments),
    /// Show throttles with what they matched, or switch them
    Throttle(throttle::Arguments),
    /// List, show, warm, pin, unpin or purge what is cached
    Cache(cache::Arguments),
    /// Report what is wrong with a cached image, rule by rule, and how to mend it
    Image(image::Arguments),
    /// Forget a cached tag or repository; the same as cache purge
    Purge(purge::Arguments),
    /// Read everything on the disk again and name what is damaged (while weir is stopped)
    Verify(verify::Arguments),
    /// Print a password's hash for an `[[account]]`; the password is read from standard input
    HashPassword,
    /// Print a shell's completions of these commands
    Completions(shell::CompletionsArguments),
    /// Write the manual pages of these commands into a directory
    Manual(shell::ManualArguments),
}

impl Cli {
    /// The configuration that the arguments and the environment name, and a watch of its files that began before they
    /// were read.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn load(&self) -> Result<(Config, Watch), ConfigErrors> {
        let file = self.file();
        let mut watch = Watch::new(file.as_deref());
        let config = Config::load(file.as_deref(), environment())?;
        watch.add(&config);
        Ok((config, watch))
    }

    fn file(&self) -> Option<PathBuf> {
        let file = self.config.clone().or_else(|| std::env::var_os("WEIR_CONFIG").map(PathBuf::from));
        file.filter(|file| file != Path::new(""))
    }
}

/// The variables that are text.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Runs a command that needs no configuration, or is about one with mistakes; `None` for any other.
pub fn run_without_configuration(cli: &Cli) -> Option<Result<(), Failure>> {
    let done = match cli.command.as_ref()? {
        Command::Check(arguments) => {
            return Some(check::run(arguments, Config::draft(cli.file().as_deref(), environment())));
        }
        Command::HashPassword => hash_password::run(),
        Command::Completions(arguments) => shell::completions(arguments, Cli::command()),
        Command::Manual(arguments) => shell::manual(arguments, Cli::command()),
        _ => return None,
    };
    Some(done.map_err(Failure::from))
}

/// Runs a command that is not `serve`.
///
/// # Errors
/// What goes wrong.
pub fn run(command: &Command, config: &Config) -> Result<(), Failure> {
    let done = match command {
        Command::Serve | Command::Check(_) | Command::HashPassword | Command::Completions(_) | Command::Manual(_) => {
            Ok(())
        }
        Command::Config(arguments) => config::run(arguments, config),
        Command::ClientConfig(arguments) => client_config::run(arguments, config),
        Command::Status(arguments) => return status::run(arguments, config),
        Command::Top(arguments) => top::run(arguments, config),
        Command::Healthcheck(arguments) => status::healthcheck(arguments, config),
        Command::Budget(arguments) => budget::run(arguments, config),
        Command::Ban(arguments) => ban::run(arguments, config),
        Command::Throttle(arguments) => throttle::run(arguments, config),
        Command::Cache(arguments) => cache::run(arguments, config),
        Command::Image(arguments) => return image::run(arguments, config),
        Command::Purge(arguments) => purge::run(arguments, config),
        Command::Verify(arguments) => return verify::run(arguments, config),
    };
    Ok(done?)
}
