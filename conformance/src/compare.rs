//! `weir-conformance compare`: reports of several mirrors side by side, as Markdown.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode};

use crate::report::{Report, Row};

/// Print reports (as --json writes them) side by side, as Markdown.
#[derive(Debug, clap::Args)]
pub struct Command {
    /// The reports; the first decides which checks there are
    #[arg(required = true)]
    reports: Vec<PathBuf>,
}

impl Command {
    /// Prints the table. Failure when a report cannot be read.
    pub fn run(self) -> ExitCode {
        let reports: Result<Vec<Report>, String> = self.reports.iter().map(read).collect();
        match reports {
            Ok(reports) => {
                print!("{}", side_by_side(&reports));
                ExitCode::SUCCESS
            }
            Err(sentence) => {
                eprintln!("weir-conformance: {sentence}");
                ExitCode::FAILURE
            }
        }
    }
}

fn read(path: &PathBuf) -> Result<Report, String> {
    let named = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let bytes = std::fs::read(path).map_err(|e| named(&e))?;
    serde_json::from_slice(&bytes).map_err(|e| named(&e))
}

fn side_by_side(reports: &[Report]) -> String {
    let mut out = String::new();
    for report in reports {
        let _ = writeln!(out, "- {}: {}", report.subject, report.summary());
    }
    let Some(first) = reports.first() else { return out };
    let mut group = "";
    for row in &first.rows {
        if row.group != group {
            group = &row.group;
            let _ = write!(out, "\n## {group}\n\n| check | stands for |");
            for report in reports {
                let _ = write!(out, " {} |", report.subject.split_whitespace().next().unwrap_or_default());
            }
            let _ = write!(out, "\n|---|---|{}\n", "---|".repeat(reports.len()));
        }
        let _ = write!(out, "| {} | {} |", row.name, row.stands_for);
        for report in reports {
            let same = report.rows.iter().find(|other| other.name == row.name);
            let _ = write!(out, " {} |", same.map_or_else(|| "absent".to_owned(), cell));
        }
        out.push('\n');
    }
    out
}

fn cell(row: &Row) -> String {
    format!("**{}**: {}", row.verdict.word(), row.cell())
}
