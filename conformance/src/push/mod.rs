//! What a registry owes to those who push: that 201 means kept, whatever happens next, and that it comes soon.
//!
//! - [`crash`] kill -9 in the middle of pushes, two hundred times: everything acknowledged is there, nothing else is half there
//! - [`power`] the power is cut in the middle of pushes, a hundred times: a file system in a file is copied while it is being
//!   written, and the copy is mounted and served. What the kernel had not yet written is lost in it
//! - [`faults`] system calls fail in the middle of pushes, three hundred of them, and a kill -9 follows
//! - [`rate`] layers pushed over eight connections, by turns to Weir and to Debian's `docker-registry`
//!
//! All of them drive a process from outside and judge by what it answers. Each moment comes from a seed, so that one that
//! fails can be had again, as far as the scheduler allows.

mod crash;
mod faults;
mod load;
mod power;
mod rate;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use crate::{
    mirror::process::find_weir,
    report::{Report, Row},
};

/// What pushes survive, and how fast they are.
#[derive(Debug, clap::Args)]
pub struct Command {
    /// Weir; otherwise found beside this program, or built
    #[arg(long)]
    weir: Option<PathBuf>,
    /// docker-registry
    #[arg(long, default_value = "/usr/bin/docker-registry")]
    registry: PathBuf,
    /// How often it is killed; 0 leaves it out
    #[arg(long, default_value_t = 200)]
    kills: u64,
    /// How often the power is cut, which takes root and a loop device; 0 leaves it out
    #[arg(long, default_value_t = 100)]
    cuts: u64,
    /// How many system calls are made to fail, which takes root and strace; 0 leaves it out
    #[arg(long, default_value_t = 300)]
    faults: u64,
    /// How often each registry has its turn when the rates are compared; 0 leaves it out
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Command {
    /// Runs what is asked for. Failure when a bar is missed or something could not be had.
    pub async fn run(self) -> ExitCode {
        let report = Report { subject: "pushes to Weir".into(), rows: self.rows().await };
        println!("{}", report.table());
        report.exit()
    }

    async fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut row = |name: &'static str, bar: &'static str, begun: Instant, outcome: Result<String, String>| {
            rows.push(Row::new("push", name, bar, outcome, begun.elapsed()));
        };
        let kept = "every 201 is kept, nothing is half there";
        let weir = match self.weir.clone().map_or_else(find_weir, Ok) {
            Ok(weir) => weir,
            Err(why) => {
                row("weir", "can be had", Instant::now(), Err(why));
                return rows;
            }
        };
        if self.kills > 0 {
            row("kill -9", kept, Instant::now(), crash::run(&weir, self.kills, self.seed).await);
        }
        if self.cuts > 0 {
            row("power cut", kept, Instant::now(), power::run(&weir, self.cuts, self.seed).await);
        }
        if self.faults > 0 {
            row("failing calls", kept, Instant::now(), faults::run(&weir, self.faults, self.seed).await);
        }
        if self.rounds > 0 {
            let rate = rate::run(&weir, &self.registry, self.rounds);
            row("push rate", ">= 1.5 docker-registry", Instant::now(), rate.await);
        }
        rows
    }
}
