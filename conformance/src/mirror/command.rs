//! `weir-conformance mirror`: which mirror, on which hub, and where the report goes.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use url::Url;

use super::{
    Harness, groups, matches_none, names,
    process::{Program, find_weir},
    run,
};
use crate::{
    client::{Client, Request},
    hub::{Hub, Settings},
    report::{Output, Report},
};

/// How long a mirror that others started may take to its first answer. It may have been started a moment ago.
const FIRST_ANSWER: Duration = Duration::from_secs(4);

/// Judge a mirror whose upstream is the hub that this starts.
///
/// With --url the mirror must already have http://<--hub> as its Docker Hub. With --self a newcomer needs nothing else: the hub and
/// Weir are started here, on ports of their own, with their data in a directory that goes away.
#[derive(Debug, clap::Args)]
pub struct Command {
    /// The mirror, as http://host:port/
    #[arg(long, required_unless_present_any = ["own", "peer", "list"])]
    url: Option<Url>,
    /// Start the hub and Weir here
    #[arg(long = "self", conflicts_with_all = ["url", "peer"])]
    own: bool,
    /// Start the hub and another mirror here
    #[arg(long, value_parser = ["docker-registry"], conflicts_with = "url")]
    peer: Option<String>,
    /// The program to start with --self or --peer; Weir is otherwise found beside this program, or built
    #[arg(long)]
    weir: Option<PathBuf>,
    /// What goes before repository names at the mirror
    #[arg(long, default_value = "")]
    prefix: String,
    /// Where the hub listens with --url
    #[arg(long, default_value = "127.0.0.1:5999")]
    hub: SocketAddr,
    /// Where the hub's CDN listens with --url
    #[arg(long, default_value = "127.0.0.1:5998")]
    cdn: SocketAddr,
    /// Weir's admin listener with --url
    #[arg(long)]
    admin: Option<SocketAddr>,
    /// Tags at --url stay fresh only so long: runs the checks that need it instead of those that need the opposite
    #[arg(long, value_parser = humantime::parse_duration)]
    tag_ttl: Option<Duration>,
    /// Only checks whose name holds this, or whose group it is; may be repeated
    #[arg(long)]
    only: Vec<String>,
    #[command(flatten)]
    output: Output,
    /// Print what would be checked
    #[arg(long)]
    list: bool,
}

impl Command {
    /// Runs the suite. Failure when a check failed, when none ran, or when the mirror could not be had; 2 when `--only` names no check.
    pub async fn run(self) -> ExitCode {
        if self.list {
            names().for_each(|(group, name)| println!("{group}: {name}"));
            return ExitCode::SUCCESS;
        }
        if let Some(word) = matches_none(&self.only) {
            let groups: Vec<&str> = groups().collect();
            failed(&format!(
                "--only {word} names no check; --list names all, and the groups are: {}",
                groups.join(", ")
            ));
            return ExitCode::from(2);
        }
        match self.judge().await {
            Ok(report) => {
                println!("{}", report.table());
                self.output.write(&report).map_or_else(|sentence| failed(&sentence), |()| report.exit())
            }
            Err(sentence) => failed(&sentence),
        }
    }

    async fn judge(&self) -> Result<Report, String> {
        // A thousand clients, their sockets on both sides of this process, and the hub's.
        raise_file_limit();
        let (harness, subject) = self.harness().await?;
        Ok(run(Arc::new(harness), &self.only, subject).await)
    }

    async fn harness(&self) -> Result<(Harness, String), String> {
        let program = match &self.peer {
            Some(_) => Program::DockerRegistry(self.weir.clone().unwrap_or_else(|| "docker-registry".into())),
            None if self.own => Program::Weir(self.weir.clone().map_or_else(find_weir, Ok)?),
            None => return self.at_url().await,
        };
        let subject = format!("{} in front of the hub", program.name());
        Ok((Harness::start(program).await?, subject))
    }

    async fn at_url(&self) -> Result<(Harness, String), String> {
        let url = self.url.as_ref().ok_or("--url, --self or --peer")?;
        let addresses = url.socket_addrs(|| None).map_err(|e| format!("{url}: {e}"))?;
        let address = *addresses.first().ok_or_else(|| format!("{url} has no address"))?;
        let hub = start(Settings { registry: self.hub, cdn: self.cdn, ..Settings::default() }).await?;
        let client = Client::new(address, &self.prefix);
        first_answer(&client).await.map_err(|last| format!("no server answers at {url}: {last}"))?;
        let harness = Harness::new(hub, client, self.admin, None);
        let harness = match self.tag_ttl {
            Some(ttl) => harness.with_tag_ttl(ttl),
            None => harness,
        };
        Ok((harness, format!("{url} in front of the hub at {}", self.hub)))
    }
}

/// Waits until a server answers, whatever it answers. The error is what went wrong last.
async fn first_answer(client: &Client) -> Result<(), String> {
    let mut last = "it accepts a connection and says nothing".to_owned();
    let asked = async {
        while let Err(error) = client.send(&Request::get("/v2/")).await {
            last = error.to_string();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(FIRST_ANSWER, asked).await.map_err(|_| last)
}

async fn start(settings: Settings) -> Result<Arc<Hub>, String> {
    let at = settings.registry;
    Hub::start(settings).await.map(Arc::new).map_err(|e| format!("the hub cannot listen at {at}: {e}"))
}

fn failed(sentence: &str) -> ExitCode {
    eprintln!("weir-conformance: {sentence}");
    ExitCode::FAILURE
}

/// Open files up to what the kernel lets us have.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        command: Command,
    }

    fn line(words: &[&str]) -> Command {
        Line::try_parse_from([&["mirror"], words].concat()).unwrap().command
    }

    #[tokio::test]
    async fn a_url_without_a_server_is_reported_before_a_client_times_out() {
        // Once with no listener, and once with one that accepts connections and never answers.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = listener.local_addr().unwrap();
        let closed = super::super::process::free_address().unwrap();
        for address in [silent, closed] {
            let url = format!("http://{address}/");
            let start = std::time::Instant::now();
            let judged = line(&["--url", &url, "--hub", "127.0.0.1:0", "--cdn", "127.0.0.1:0"]).judge().await;
            let sentence = judged.map(|_| ()).unwrap_err();
            assert!(sentence.starts_with(&format!("no server answers at {url}: ")), "{sentence}");
            assert!(start.elapsed() < crate::client::PATIENCE, "{:?}", start.elapsed());
        }
    }

    #[tokio::test]
    async fn only_what_is_no_check_is_a_mistake() {
        // No server has the address: were anything asked, it would be another failure.
        let code = line(&["--url", "http://127.0.0.1:1/", "--only", "herd", "--only", "zzz"]).run().await;
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(2)));
    }
}
