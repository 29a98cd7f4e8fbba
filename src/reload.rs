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
    hosted::Hosted,
    http::{self, Certificate},
    limits::{Limits, audit::Actor},
    mirror::Mirror,
    route::SharedRoutes,
    telemetry::Logs,
    upstream::{self, Ledger, Upstream},
};

use super::service_manager::ServiceManager;

/// How often the files are looked at. A change is read at the second look that finds it.
const LOOK: Duration = Duration::from_secs(2);

/// What is replaced by a reload, and where its outcome is shown.
pub(crate) struct Parts {
    pub(crate) certificates: Vec<Arc<Certificate>>,
    pub(crate) mirror: Mirror,
    pub(crate) hosted: Hosted,
    pub(crate) routes: SharedRoutes,
    /// What an upstream is made with that is new, or whose settings changed.
    pub(crate) ledger: Ledger,
    pub(crate) upstream_metrics: upstream::Metrics,
    pub(crate) http_metrics: http::Metrics,
    pub(crate) limits: Limits,
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
    let policies = config::policies(&fresh).map_err(|errors| errors.to_string())?;
    // Everything is read before anything is replaced.
    let prepared = parts.certificates.iter().map(Certificate::prepare).collect::<Result<Vec<_>, _>>()?;
    let upstreams = upstreams(parts, config::upstreams(&fresh).map_err(|errors| errors.to_string())?)?;
    let renewed = upstreams.iter().map(Upstream::prepare).collect::<Result<Vec<_>, _>>()?;
    prepared.into_iter().for_each(|certificate| certificate.install());
    renewed.into_iter().flatten().for_each(upstream::Renewed::install);
    parts.hosted.reload(&fresh.hosted);
    // A name is routed to an upstream only when that is there.
    parts.mirror.reload(upstreams, &fresh.mirror);
    parts.routes.replace(routes.clone());
    parts.http_metrics.count_upstreams(parts.mirror.upstreams());
    parts.mirror.warm.schedule(schedules, routes);
    parts.mirror.enforcement.set(policies);
    parts.limits.reload(limits_config, &Actor::new(by, None), SystemTime::now());
    Ok((fresh, watch))
}

/// A client for each of `settings`: the one that there is, with its connections, tokens and breaker, when nothing of it changed, else a new one.
fn upstreams(parts: &Parts, settings: Vec<upstream::Settings>) -> Result<Vec<Upstream>, String> {
    let running = parts.mirror.upstream_clients();
    let client = |settings: upstream::Settings| match running.iter().find(|upstream| upstream.is_of(&settings)) {
        Some(kept) => Ok(kept.clone()),
        None => Upstream::with_metrics(settings, parts.ledger.clone(), parts.upstream_metrics.clone()),
    };
    settings.into_iter().map(client).collect()
}

fn report(by: &str, waits_for_restart: bool) {
    if waits_for_restart {
        tracing::warn!(
            "reloaded; some of what changed waits for a restart (what of listeners, the data directory, the log and the sizes of tables changed does; the Settings page names it)"
        );
    } else {
        tracing::info!(by, "reloaded");
    }
}
