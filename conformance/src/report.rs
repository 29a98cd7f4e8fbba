//! What a run found: a table for people, JSON for programs, and one exit code.
//!
//! A check that did not run is counted apart and printed with its reason. It is never a pass: a suite that shrinks in silence is
//! worse than none. A run in which nothing ran has failed.

use std::{borrow::Cow, fmt::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use serde::{Deserialize, Serialize};

/// What became of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It held.
    Pass,
    /// It did not.
    Fail,
    /// It could not be tried here; the figure says why.
    NotRun,
}

impl Verdict {
    /// As tables print it.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "FAIL",
            Verdict::NotRun => "not run",
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The group, which is the file the check is in.
    pub group: Cow<'static, str>,
    /// The check.
    pub name: Cow<'static, str>,
    /// What it stands for: an invariant of the design by number, or a bar in words.
    pub stands_for: Cow<'static, str>,
    /// What became of it.
    pub verdict: Verdict,
    /// What was measured, or the sentence that says what went wrong.
    pub figure: String,
    /// Wall time, seconds.
    pub seconds: f64,
}

/// A finished run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// What was run against what, for a reader who has the file only.
    pub subject: String,
    /// The checks, in the order they ran.
    pub rows: Vec<Row>,
}

impl Report {
    /// How many checks ended so.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.rows.iter().filter(|row| row.verdict == verdict).count()
    }

    /// The table.
    pub fn table(&self) -> String {
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or(5);
        let mut out = String::new();
        let mut group = "";
        for row in &self.rows {
            if row.group != group {
                group = &row.group;
                let _ = writeln!(out, "\n{group}");
            }
            let _ = writeln!(out, "{}", row.line(width));
        }
        let _ = writeln!(out, "\n{}: {}", self.subject, self.summary());
        out
    }

    /// `41 passed, 2 failed, 3 not run`.
    pub fn summary(&self) -> String {
        let [passed, failed, skipped] = [Verdict::Pass, Verdict::Fail, Verdict::NotRun].map(|v| self.count(v));
        format!("{passed} passed, {failed} failed, {skipped} not run")
    }

    /// A table in Markdown, as `RESULTS.md` holds it.
    pub fn markdown(&self) -> String {
        let mut out = String::from("| check | verdict | figure | stands for |\n|---|---|---|---|\n");
        for row in &self.rows {
            let _ = writeln!(out, "| {} | {} | {} | {} |", row.name, row.verdict.word(), row.cell(), row.stands_for);
        }
        out
    }

    /// Success when something passed and nothing failed.
    pub fn exit(&self) -> ExitCode {
        match (self.count(Verdict::Pass), self.count(Verdict::Fail)) {
            (1.., 0) => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }
}

/// Where a report goes besides the terminal.
#[derive(Debug, clap::Args)]
pub(crate) struct Output {
    /// Write the report here, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the table here, as Markdown
    #[arg(long)]
    markdown: Option<PathBuf>,
}

impl Output {
    /// Writes what is wanted. The error names the file.
    pub(crate) fn write(&self, report: &Report) -> Result<(), String> {
        let json =
            self.json.as_ref().map(|path| (path, serde_json::to_string_pretty(report).map_err(|e| e.to_string())));
        let markdown = self.markdown.as_ref().map(|path| (path, Ok(report.markdown())));
        for (path, text) in [json, markdown].into_iter().flatten() {
            std::fs::write(path, text?).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(())
    }
}

impl Row {
    /// What one measurement of a suite gave: a figure that holds its bar, or one that does not.
    pub(crate) fn new(
        group: &'static str,
        name: &'static str,
        bar: &'static str,
        outcome: Result<String, String>,
        took: Duration,
    ) -> Row {
        let verdict = if outcome.is_ok() { Verdict::Pass } else { Verdict::Fail };
        let (Ok(figure) | Err(figure)) = outcome;
        let (group, name, stands_for) = (group.into(), name.into(), bar.into());
        Row { group, name, stands_for, verdict, figure, seconds: took.as_secs_f64() }
    }

    /// One line, the name padded to `width`.
    pub fn line(&self, width: usize) -> String {
        let Row { name, stands_for, .. } = self;
        format!("  {name:width$}  {:7}  {}  [{stands_for}]", self.verdict.word(), self.short(600))
    }

    /// The figure in a cell of a Markdown table.
    pub fn cell(&self) -> String {
        self.short(240).replace('|', "\\|").replace('<', "&lt;")
    }

    /// The figure on one line of at most so many characters. JSON has all of it.
    fn short(&self, most: usize) -> String {
        let line = self.figure.split_whitespace().collect::<Vec<_>>().join(" ");
        if line.chars().count() <= most {
            return line;
        }
        line.chars().take(most).chain("…".chars()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdicts: &[Verdict]) -> Report {
        let row = |verdict: &Verdict| Row {
            group: "g".into(),
            name: "n".into(),
            stands_for: "1".into(),
            verdict: *verdict,
            figure: String::new(),
            seconds: 0.0,
        };
        Report { subject: "x".into(), rows: verdicts.iter().map(row).collect() }
    }

    #[test]
    fn a_run_without_a_pass_or_with_a_failure_has_failed() {
        let code = |verdicts: &[Verdict]| format!("{:?}", report(verdicts).exit());
        let (good, bad) = (format!("{:?}", ExitCode::SUCCESS), format!("{:?}", ExitCode::FAILURE));
        assert_eq!(code(&[]), bad);
        assert_eq!(code(&[Verdict::NotRun, Verdict::NotRun]), bad);
        assert_eq!(code(&[Verdict::Pass, Verdict::Fail]), bad);
        assert_eq!(code(&[Verdict::Pass, Verdict::NotRun]), good);
    }

    #[test]
    fn what_did_not_run_is_counted_apart() {
        assert_eq!(report(&[Verdict::Pass, Verdict::NotRun]).summary(), "1 passed, 0 failed, 1 not run");
    }
}
