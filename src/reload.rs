//! The configuration, read again when its files change or on SIGHUP: one snapshot, or none and the reason.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{signal::unix::Signal, task::JoinHandle};
use weir::{
    admin::{Reload, Reloads},
    cli::Cli,
    config::{self, Config, Watch},
    http::Certificate,
    limits::{Limits, audit::Actor},
    mirror::{Enforcement, warm::Warm},
    telemetry::Logs,
    upstream::{self, Upstream},
};

use super::service_manager::ServiceManager;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What is replaced by a reload, and where its outcome is shown.
pub(crate) struct Parts {
    pub(crate) certificates: Vec<Arc<Certificate>>,
    pub(crate) upstreams: Vec<Upstream>,
    pub(crate) limits: Limits,
    pub(crate) warm: Arc<Warm>,
    pub(crate) enforcement: Arc<Enforcement>,
    pub(crate) reloads: Reloads,
    pub(crate) manager: ServiceManager,
    pub(crate) logs: Logs,
}

/// Reads again for as long as the process runs; `started` is the configuration that it began with.
pub(crate) fn start(cli: Cli, started: Config, mut watch: Watch, parts: Parts, mut hangup: Signal) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut look = tokio::time::interval(LOOK);
        loop {
            let by = tokio::select! {
                _ = hangup.recv() => {
                    // Whether or not the configuration is good: what rotates logs sends this signal.
                    parts.logs.reopen();
                    "SIGHUP"
                }
                _ = look.tick() => if watch.has_changed() { "file" } else { continue },
            };
            parts.manager.reloading();
            let (at, mut problem, mut waits_for_restart) = (SystemTime::now(), None, false);
            match read(&cli, &parts, by) {
                Ok((fresh, fresh_watch)) => {
                    // Compared with the start: what waited before the last reload waits still.
                    waits_for_restart = config::needs_restart(&started, &fresh);
                    report(by, waits_for_restart);
                    parts.reloads.show_settings(config::effective(&started, &fresh));
                    watch = fresh_watch;
                }
                Err(reason) => {
                    tracing::error!(%reason, "the new configuration is not used; the old one stays");
                    problem = Some(reason);
                }
            }
            parts.manager.ready(match &problem {
                None => "serving",
                Some(_) => "serving; the new configuration is not used, see the log",
            });
            parts.reloads.record(Reload { at, problem, waits_for_restart });
        }
    })
}

fn read(cli: &Cli, parts: &Parts, by: &str) -> Result<(Config, Watch), String> {
    let (fresh, watch) = cli.load().map_err(|errors| errors.to_string())?;
    let limits_config = config::limits_config(&fresh).map_err(|errors| errors.to_string())?;
    let (schedules, routes) = config::warm_schedules(&fresh).map_err(|errors| errors.to_string())?;
    // Everything is read before anything is replaced.
    let prepared = parts.certificates.iter().map(Certificate::prepare).collect::<Result<Vec<_>, _>>()?;
    let renewed = parts.upstreams.iter().map(Upstream::prepare).collect::<Result<Vec<_>, _>>()?;
    prepared.into_iter().for_each(|certificate| certificate.install());
    renewed.into_iter().flatten().for_each(upstream::Renewed::install);
    parts.warm.schedule(schedules, routes);
    parts.enforcement.set(&fresh.policy);
    parts.limits.reload(limits_config, &Actor::new(by, None), SystemTime::now());
    Ok((fresh, watch))
}

fn report(by: &str, waits_for_restart: bool) {
    if waits_for_restart {
        tracing::warn!(
            "reloaded; some of what changed waits for a restart (only throttles, limits, classes, budget, bans, accounts, warms, policies, allow and deny of upstreams, trusted proxies and certificates are reloaded)"
        );
    } else {
        tracing::info!(by, "reloaded");
    }
}
