//! `weir purge`: forgets a cached tag or repository of a running weir, so that the next pull asks upstream.

use clap::Args;

use super::ask::{Ask, Output, repository_and_reference};
use crate::config::Config;

/// What to forget.
#[derive(Debug, Args)]
pub struct Arguments {
    /// As in an image name: busybox, ghcr.io/acme/app, docker.io/library/debian:12
    #[arg(value_name = "REPOSITORY[:TAG]")]
    image: String,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(arguments: &Arguments, config: &Config) -> Result<(), String> {
    let query = repository_and_reference(&arguments.image);
    let answer = Ask::new(&arguments.output.admin, config)?.json("DELETE", &format!("/api/v1/cache?{query}"))?;
    // What was pulled by digest alone has no tag.
    let counts = ["removed", "manifests", "blobs", "kept"].map(|key| answer[key].as_u64().unwrap_or_default());
    arguments.output.print(&answer, |_| match counts.iter().sum::<u64>() {
        0 => format!("nothing was cached of {}\n", arguments.image),
        1 => format!("1 entry of {} is forgotten\n", arguments.image),
        count => format!("{count} entries of {} are forgotten\n", arguments.image),
    })
}
