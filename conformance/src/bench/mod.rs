//! Ratios, not seconds: Weir, nginx and Debian's docker-registry serve the same bytes, in one run, round after round in turn.
//!
//! A figure in requests a second says as much about the machine as about the server. So nginx, which does nothing but send files
//! (`sendfile`, `tcp_nopush`, `open_file_cache`), runs beside the mirrors and everything is given as a share of it; the servers take
//! turns so that whatever else the machine does strikes all of them, and medians over the rounds are compared.

mod blobs;
mod median;
mod nginx;
mod start;
mod throttles;
mod wrk;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use serde::Serialize;

use self::median::median;
use crate::{
    client::{Client, Shape},
    hub::{Hub, Settings},
    mirror::{
        Harness, Image,
        process::{Process, Program, find_weir},
    },
    report::{Report, Row},
};

/// Bytes of the blob.
const BLOB: u64 = 256 << 20;

/// The throttle that Weir has by default, for a client that asks as often as a benchmark does.
const GENEROUS: &str = "[[throttle]]\nname = \"throttle_unauthenticated_pulls\"\nrequests_per_period = 1000000000\n\
                        period_in_seconds = 3600\nmode = \"enforce\"\n";

/// Compare Weir with nginx and docker-registry serving the same bytes.
#[derive(Debug, clap::Args)]
pub struct Command {
    /// Weir; otherwise found beside this program, or built
    #[arg(long)]
    weir: Option<PathBuf>,
    /// nginx
    #[arg(long, default_value = "/usr/sbin/nginx")]
    nginx: PathBuf,
    /// docker-registry
    #[arg(long, default_value = "/usr/bin/docker-registry")]
    registry: PathBuf,
    /// How often each server has its turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Blobs on disk for the start-time measurement; 0 leaves it out
    #[arg(long, default_value_t = 100_000)]
    stored: usize,
    /// Write the figures here, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the table here, as Markdown
    #[arg(long)]
    markdown: Option<PathBuf>,
}

/// One server that has its turn, and where on it the same bytes are.
struct Server {
    name: &'static str,
    address: std::net::SocketAddr,
    /// All its processes.
    pids: Vec<u32>,
}

/// What a server did in each round.
#[derive(Debug, Serialize)]
struct Figures {
    server: &'static str,
    /// Manifest GETs a second.
    manifests: Vec<f64>,
    /// MiB/s of a warm blob.
    throughput: Vec<f64>,
    /// Seconds of the server's CPU for each GiB of it.
    cpu: Vec<f64>,
}

impl Command {
    /// Runs the comparison. Failure when a bar is missed or a server could not be had.
    pub async fn run(self) -> ExitCode {
        match self.compare().await {
            Ok(report) => {
                println!("{}", report.table());
                let written = self.markdown.as_ref().map_or(Ok(()), |path| std::fs::write(path, report.markdown()));
                match written {
                    Ok(()) => report.exit(),
                    Err(error) => {
                        eprintln!("weir-conformance: {error}");
                        ExitCode::FAILURE
                    }
                }
            }
            Err(sentence) => {
                eprintln!("weir-conformance: {sentence}");
                ExitCode::FAILURE
            }
        }
    }

    async fn compare(&self) -> Result<Report, String> {
        let path = self.weir.clone().map_or_else(find_weir, Ok)?;
        let hub = Arc::new(Hub::start(Settings::default()).await.map_err(|e| e.to_string())?);
        let upstream = hub.registry_address();
        let weir = Process::start(Program::Weir(path.clone()), upstream, GENEROUS).await?;
        let registry = Process::start(Program::DockerRegistry(self.registry.clone()), upstream, "").await?;
        let harness = Harness::new(hub.clone(), Client::new(weir.address, ""), None, None);
        let image = harness.image("bench", &[BLOB]).await?;
        for address in [weir.address, registry.address] {
            // Twice: a mirror may keep a blob a moment after it was sent.
            for _ in 0..2 {
                Client::new(address, "").pull(&image.repository, &image.tag, Shape::HeadFirst).await?;
            }
        }
        let nginx = nginx::Nginx::start(&self.nginx, &harness.client, &image).await?;
        let servers = [
            Server { name: "nginx", address: nginx.address, pids: nginx.pids()? },
            Server { name: "weir", address: weir.address, pids: weir.pid().into_iter().collect() },
            Server { name: "docker-registry", address: registry.address, pids: registry.pid().into_iter().collect() },
        ];
        let mut figures = Vec::new();
        for server in &servers {
            figures.push(Figures { server: server.name, manifests: vec![], throughput: vec![], cpu: vec![] });
        }
        self.rounds(&servers, &image, &harness.client, &mut figures).await?;
        if let Some(path) = &self.json {
            let text = serde_json::to_vec_pretty(&figures).map_err(|e| e.to_string())?;
            std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        let mut rows = rows(&figures);
        rows.push(throttles::row(&path, &hub, self.rounds).await?);
        if self.stored > 0 {
            rows.push(start::row(&path, upstream, self.stored).await?);
        }
        Ok(Report { subject: format!("medians of {} rounds in turn", self.rounds), rows })
    }

    async fn rounds(
        &self,
        servers: &[Server],
        image: &Image,
        paths: &Client,
        figures: &mut [Figures],
    ) -> Result<(), String> {
        let manifest = paths.manifest(&image.repository, &image.tag);
        let blob = paths.blob(&image.repository, &image.layers[0].digest);
        // The first round warms page cache, connections and branch predictors, and is thrown away.
        for round in 0..=self.rounds {
            for (server, figures) in servers.iter().zip(figures.iter_mut()) {
                let rate = wrk::rate(server.address, &manifest, 3).await?;
                let (target, address, pids) = (blob.clone(), server.address, server.pids.clone());
                let sent = tokio::task::spawn_blocking(move || blobs::measure(address, &target, &pids));
                let sent = sent.await.map_err(|e| e.to_string())?.map_err(|e| format!("{}: {e}", server.name))?;
                println!(
                    "round {round} {:16} {rate:9.0} manifests/s  {:7.0} MiB/s  {:.3} CPU s/GiB",
                    server.name, sent.throughput, sent.cpu
                );
                if round > 0 {
                    figures.manifests.push(rate);
                    figures.throughput.push(sent.throughput);
                    figures.cpu.push(sent.cpu);
                }
            }
        }
        Ok(())
    }
}

fn rows(figures: &[Figures]) -> Vec<Row> {
    let of = |name: &str, what: fn(&Figures) -> &Vec<f64>| {
        figures.iter().find(|f| f.server == name).map_or(f64::NAN, |f| median(what(f)))
    };
    let mut rows = Vec::new();
    let mut compare = |name: &'static str,
                       stands_for: &'static str,
                       what: fn(&Figures) -> &Vec<f64>,
                       unit: &str,
                       holds: fn(f64) -> bool| {
        let [nginx, weir, registry] = ["nginx", "weir", "docker-registry"].map(|server| of(server, what));
        let digits = if nginx < 10.0 { 3 } else { 0 };
        let figure = format!(
            "{:.2} of nginx ({weir:.digits$} to {nginx:.digits$} {unit}); docker-registry {:.3} ({registry:.digits$})",
            weir / nginx,
            registry / nginx
        );
        let outcome = if holds(weir / nginx) { Ok(figure) } else { Err(figure) };
        rows.push(Row::new("bench", name, stands_for, outcome, Duration::ZERO));
    };
    compare("warm manifest GET, 32 connections", "bar: >= 0.6 of nginx", |f| &f.manifests, "a second", |r| r >= 0.6);
    compare("warm blob of 256 MiB, 8 connections", "bar: >= nginx", |f| &f.throughput, "MiB/s", |r| r >= 1.0);
    compare("its CPU", "bar: <= nginx", |f| &f.cpu, "CPU s/GiB", |r| r <= 1.0);
    rows
}
