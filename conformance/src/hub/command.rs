//! `weir-conformance hub`: the hub for shell scripts, with a control API beside it.

use std::net::SocketAddr;

use super::{Hub, Settings};

/// Run a Docker Hub on loopback until interrupted.
#[derive(Debug, clap::Args)]
pub struct Command {
    /// Where the registry and the token service listen.
    #[arg(long, default_value = "127.0.0.1:5999")]
    listen: SocketAddr,
    /// Where the CDN listens, to which blobs are redirected.
    #[arg(long, default_value = "127.0.0.1:5998")]
    cdn: SocketAddr,
}

impl Command {
    /// Runs until a signal.
    ///
    /// # Errors
    /// As [`Hub::start`].
    pub async fn run(self) -> std::io::Result<()> {
        let _hub = Hub::start(Settings { registry: self.listen, cdn: self.cdn, ..Settings::default() }).await?;
        tokio::signal::ctrl_c().await
    }
}
