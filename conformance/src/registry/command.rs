//! `weir-conformance registry`: which registry, which namespace, and where the report goes.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use url::Url;

use super::{Registry, names, run};
use crate::{
    client::Authorities,
    report::{Output, Report},
};

/// Ask a registry what the official OCI conformance suite does not ask, one row for each sentence of the distribution-spec.
///
/// Repositories are made below --namespace and stay there. Failure when a check failed, or when none ran.
#[derive(Debug, clap::Args)]
pub struct Command {
    /// The registry, as http://host:port/ or https://host/
    #[arg(long, required_unless_present = "list")]
    url: Option<Url>,
    /// Where repositories may be pushed to
    #[arg(long, default_value = "conformance")]
    namespace: String,
    /// Who pushes
    #[arg(long, requires = "password")]
    username: Option<String>,
    /// Their password
    #[arg(long)]
    password: Option<String>,
    /// Authorities that certificates are verified by, as PEM; the system's otherwise
    #[arg(long)]
    ca_file: Option<PathBuf>,
    /// Only checks whose name holds this, or whose group, endpoint or strength it is; may be repeated
    #[arg(long)]
    only: Vec<String>,
    #[command(flatten)]
    output: Output,
    /// Print what would be checked
    #[arg(long)]
    list: bool,
}

impl Command {
    /// Runs the suite.
    pub async fn run(self) -> ExitCode {
        if self.list {
            names().for_each(|(group, line, name)| println!("{group}: {line}: {name}"));
            return ExitCode::SUCCESS;
        }
        let judged = match self.judge().await {
            Ok(report) => self.output.write(&report).map(|()| report),
            Err(sentence) => Err(sentence),
        };
        match judged {
            Ok(report) => {
                println!("\n{}: {}", report.subject, report.summary());
                report.exit()
            }
            Err(sentence) => {
                eprintln!("weir-conformance: {sentence}");
                ExitCode::FAILURE
            }
        }
    }

    async fn judge(&self) -> Result<Report, String> {
        let url = self.url.clone().ok_or("--url")?;
        let authorities = Authorities::load(self.ca_file.as_deref())?;
        let credentials = self.username.clone().zip(self.password.clone());
        let registry = Registry::new(url.clone(), &self.namespace, credentials, authorities).await?;
        Ok(run(Arc::new(registry), &self.only, url.to_string(), |row| println!("{}", row.line(78))).await)
    }
}
