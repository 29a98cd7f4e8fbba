//! `weir verify`: reads every stored object again. It takes the data directory, so weir must be stopped; a running weir does the
//! same by `POST /api/v1/verify`.
//!
//! Exits with 0 when all is well, 1 when something is damaged, and 2 when it could not look.

use std::{
    fmt::Write as _,
    io::{IsTerminal, Write as _},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use weir_storage::{Damage, DamagedRecord, Problem, Progress, RecordKind, Repair, Report, Store};

use super::{Failure, say};
use crate::config::{Config, Settings};

/// How often a terminal shows the progress.
const EVERY: Duration = Duration::from_millis(200);

/// What to do with what is found.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Put aside what is damaged: mirrored content is fetched again when it is asked for, hosted content must be pushed again
    #[arg(long)]
    repair: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, config: &Config) -> Result<(), Failure> {
    let report = look(arguments, config).map_err(|reason| Failure { reason, status: 2 })?;
    let text = match arguments.json {
        true => serde_json::to_string_pretty(&report).map_err(|error| error.to_string())? + "\n",
        false => describe(&report, arguments.repair),
    };
    say(&text)?;
    match report.damaged {
        0 => Ok(()),
        1 => Err("1 object is damaged".to_owned().into()),
        count => Err(format!("{count} objects are damaged").into()),
    }
}

fn look(arguments: &Arguments, config: &Config) -> Result<Report, String> {
    let mut settings = Settings::new(config).map_err(|errors| errors.to_string())?.storage;
    // This pass is the only one.
    settings.scrub = Duration::ZERO;
    let repair = if arguments.repair { Repair::Unreadable } else { Repair::Nothing };
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let store = Store::open_existing(settings).map_err(|error| error.to_string())?;
        let progress = Arc::new(Progress::default());
        let pass = store.scrub.run(repair, 0, progress.clone());
        tokio::pin!(pass);
        let report = loop {
            tokio::select! {
                report = &mut pass => break report,
                () = tokio::time::sleep(EVERY) => show(&progress),
            }
        };
        if std::io::stderr().is_terminal() {
            // The line of the progress.
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
        store.close().await;
        report.map_err(|error| error.to_string())
    })
}

/// One line that is written over, on a terminal alone.
fn show(progress: &Progress) {
    let mut terminal = std::io::stderr();
    if terminal.is_terminal() {
        let ((objects, bytes), (all_objects, all_bytes)) = (progress.done(), progress.total());
        let (mib, all_mib) = (bytes >> 20, all_bytes >> 20);
        // A terminal that has gone shows nothing.
        let _ = write!(terminal, "\r\x1b[K{objects} of {all_objects} objects, {mib} of {all_mib} MiB");
    }
}

fn describe(report: &Report, repaired: bool) -> String {
    let mut text = format!("{} objects, {} bytes: ", report.objects, report.bytes);
    if report.damaged == 0 {
        text.push_str("every one matches its digest\n");
        return text;
    }
    let _ = writeln!(text, "{} damaged", report.damaged);
    for damage in &report.damages {
        let _ = writeln!(text, "  {}", line(damage, repaired));
    }
    for record in &report.records {
        let _ = writeln!(text, "  {}", record_line(record, repaired));
    }
    let more = report.damaged - (report.damages.len() + report.records.len()) as u64;
    if more > 0 {
        let _ = writeln!(text, "  and {more} more");
    }
    if !repaired {
        text.push_str("nothing was changed; weir verify --repair puts aside what is damaged\n");
    }
    text
}

fn record_line(record: &DamagedRecord, repaired: bool) -> String {
    let DamagedRecord { kind, reference, .. } = record;
    let of = record.repository.as_ref().map_or_else(String::new, |name| format!(" {reference} of {name}"));
    let remedy = match (kind, repaired) {
        _ if record.restored => "made anew from the manifest",
        (RecordKind::Tag, true) => "put aside; push the tag again",
        (RecordKind::Tag, false) => "the tag answers with an error until it is pushed again, or put aside by --repair",
        (RecordKind::Manifest, true) => "the manifest does not say all of it; push it again",
        (RecordKind::Referrer, true) => "put aside; push the referrer again",
        (RecordKind::Manifest | RecordKind::Referrer, false) => {
            "it is made anew by --repair where the manifest says all of it"
        }
        (RecordKind::Pins, true) => "put aside; pin the images again",
        (RecordKind::Pins, false) => "no image is pinned; pin them again",
    };
    format!("{}{of}: the record is damaged: {remedy}", kind.name())
}

fn line(damage: &Damage, repaired: bool) -> String {
    let problem = match &damage.problem {
        Problem::Corrupt => "does not match its digest".to_owned(),
        Problem::Missing => "is missing".to_owned(),
        Problem::Unreadable(why) => format!("cannot be read ({why})"),
    };
    let names: Vec<_> = damage.repositories.iter().map(|name| name.as_str()).collect();
    let remedy = match (names.is_empty(), repaired) {
        (true, true) => "put aside, and fetched again when it is asked for".to_owned(),
        (true, false) => "mirrored, so it can be fetched again".to_owned(),
        (false, _) => format!("hosted, and lost to {} until it is pushed again", names.join(", ")),
    };
    format!("{} {} {problem}: {remedy}", damage.kind, damage.digest)
}
