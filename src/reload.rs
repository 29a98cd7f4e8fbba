//! The configuration, read again when its files change or on SIGHUP: one snapshot, or none and the reason.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{signal::unix::Signal, task::JoinHandle};
use weir::{
    cli::Cli,
    config::{self, Config, Watch},
    http::Certificate,
    limits::{Limits, audit::Actor},
    upstream::{self, Upstream},
};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Reads again for as long as the process runs.
pub(crate) fn start(
    cli: Cli,
    mut config: Config,
    mut watch: Watch,
    certificates: Vec<Arc<Certificate>>,
    upstreams: Vec<Upstream>,
    limits: Limits,
    mut hangup: Signal,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut look = tokio::time::interval(LOOK);
        loop {
            let by = tokio::select! {
                _ = hangup.recv() => "SIGHUP",
                _ = look.tick() => if watch.has_changed() { "file" } else { continue },
            };
            match read(&cli, &config, &certificates, &upstreams, &limits, by) {
                Ok(fresh) => (config, watch) = fresh,
                Err(reason) => tracing::error!(%reason, "the new configuration is not used; the old one stays"),
            }
        }
    })
}

fn read(
    cli: &Cli,
    old: &Config,
    certificates: &[Arc<Certificate>],
    upstreams: &[Upstream],
    limits: &Limits,
    by: &str,
) -> Result<(Config, Watch), String> {
    let (fresh, watch) = cli.load().map_err(|errors| errors.to_string())?;
    let limits_config = config::limits_config(&fresh).map_err(|errors| errors.to_string())?;
    // Everything is read before anything is replaced.
    let prepared = certificates.iter().map(Certificate::prepare).collect::<Result<Vec<_>, _>>()?;
    let renewed = upstreams.iter().map(Upstream::prepare).collect::<Result<Vec<_>, _>>()?;
    prepared.into_iter().for_each(|certificate| certificate.install());
    renewed.into_iter().flatten().for_each(upstream::Renewed::install);
    limits.reload(limits_config, &Actor::new(by, None), SystemTime::now());
    if fresh.needs_restart_after(old) {
        tracing::warn!(
            "reloaded; some of what changed waits for a restart (only throttles, limits, classes, budget, bans, accounts, allow and deny of upstreams, trusted proxies and certificates are reloaded)"
        );
    } else {
        tracing::info!(by, "reloaded");
    }
    Ok((fresh, watch))
}
