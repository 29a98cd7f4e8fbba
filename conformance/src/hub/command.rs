//! `weir-conformance hub`: the hub for shell scripts, with a control API beside it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::control::Control;
use super::parse;
use super::{Account, Challenge, Fault, Hub, Limit, Settings, Spec, listener};

/// Run a Docker Hub on loopback until interrupted.
#[derive(Debug, clap::Args)]
#[command(after_long_help = super::HELP)]
pub struct Command {
    /// Where the registry and the token service listen.
    #[arg(long, default_value = "127.0.0.1:5999")]
    listen: SocketAddr,
    /// Where the CDN listens, to which blobs are redirected.
    #[arg(long, default_value = "127.0.0.1:5998")]
    cdn: SocketAddr,
    /// Where the control API listens.
    #[arg(long, default_value = "127.0.0.1:5997")]
    control: SocketAddr,
    /// Pulls of each anonymous source in a window; without it pulls are not limited.
    #[arg(long)]
    limit: Option<u32>,
    /// The window of the limit.
    #[arg(long, default_value = "6h", value_parser = parse::duration)]
    window: Duration,
    /// `name:password` or `name:password:pulls`; may be given several times. Accounts read every private repository.
    #[arg(long, value_parser = account)]
    account: Vec<Account>,
    /// An image, `repository:tag=seed,layers=3x1MiB,…` (see below); may be given several times.
    #[arg(long, value_parser = parse::image)]
    image: Vec<Spec>,
    /// A fault, `name,key=value,…` (see below); may be given several times.
    #[arg(long, value_parser = parse::fault)]
    fault: Vec<Fault>,
    /// How anonymous requests are met: bearer, basic, nobody.
    #[arg(long, default_value = "bearer", value_parser = challenge)]
    challenge: Challenge,
    /// How long tokens are good for.
    #[arg(long, default_value = "300s", value_parser = parse::duration)]
    token_life: Duration,
    /// Bytes per second of each body.
    #[arg(long, value_parser = parse::size)]
    bandwidth: Option<u64>,
    /// How long each answer waits.
    #[arg(long, default_value = "0s", value_parser = parse::duration)]
    latency: Duration,
    /// The most tags in a page; all of them in one if not given, whatever the client asks.
    #[arg(long)]
    page: Option<usize>,
    /// The registry sends blobs itself instead of redirecting to the CDN.
    #[arg(long)]
    no_redirect: bool,
    /// There is no referrers API, only the fallback tag.
    #[arg(long)]
    no_referrers: bool,
}

impl Command {
    /// Runs until SIGINT or SIGTERM. Prints one line when every port is open and every image is there.
    ///
    /// # Errors
    /// As [`Hub::start`] and [`Hub::push`].
    pub async fn run(self) -> io::Result<()> {
        let control = listener::listen(self.control)?;
        let hub = Hub::start(Settings {
            registry: self.listen,
            cdn: self.cdn,
            limit: self.limit.map(|pulls| Limit { pulls, window: self.window }),
            accounts: self.account,
            challenge: self.challenge,
            token_life: self.token_life,
            bandwidth: self.bandwidth,
            latency: self.latency,
            page: self.page,
            redirect_blobs: !self.no_redirect,
            referrers: !self.no_referrers,
            ..Settings::default()
        })
        .await?;
        let images = if self.image.is_empty() { vec![Spec::new("library/hello")] } else { self.image };
        for spec in images {
            let image = tokio::task::block_in_place(|| hub.push(spec))?;
            eprintln!("{}:{} {}", image.repository, image.tags.join(","), image.digest());
        }
        for fault in self.fault {
            hub.fault(fault);
        }
        println!("registry {} cdn {} control http://{}/", hub.registry(), hub.cdn(), control.local_addr()?);
        let state = Control::new(hub);
        let serving = listener::accept(control, Arc::new(Semaphore::new(64)), move |stream, peer| {
            Arc::clone(&state).converse(stream, peer)
        });
        let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            () = serving => Ok(()),
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminated.recv() => Ok(()),
        }
    }
}

fn account(text: &str) -> Result<Account, String> {
    let mut parts = text.split(':');
    let (Some(name), Some(password)) = (parts.next(), parts.next()) else {
        return Err("an account is name:password or name:password:pulls".to_owned());
    };
    let mut account = Account::new(name, password);
    if let Some(pulls) = parts.next() {
        account.limit = Some(Limit::hub(pulls.parse().map_err(|_| format!("{pulls}: a number of pulls"))?));
    }
    Ok(account)
}

fn challenge(name: &str) -> Result<Challenge, String> {
    match name {
        "bearer" => Ok(Challenge::Bearer),
        "basic" => Ok(Challenge::Basic),
        "nobody" => Ok(Challenge::Nobody),
        _ => Err("bearer, basic or nobody".to_owned()),
    }
}
