//! What every connection of a hub sees.

use std::net::SocketAddr;
use std::sync::{Mutex, RwLock};

use tempfile::TempDir;
use tokio::sync::watch;

use super::fault::Faults;
use super::gate::Gates;
use super::log::{HostileRequest, Log};
use super::pulls::Pulls;
use super::settings::Settings;
use super::store::{Maker, Store};
use super::tokens::Tokens;

/// No lock in here is held across an await.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: RwLock<Settings>,
    pub(super) store: RwLock<Store>,
    pub(super) maker: Mutex<Maker>,
    pub(super) log: Log,
    pub(super) faults: Faults,
    pub(super) gates: Gates,
    pub(super) tokens: Tokens,
    pub(super) pulls: Pulls,
    /// Counts the releases of stalled bodies.
    pub(super) released: watch::Sender<u64>,
    /// Counts how often the hub went down; a connection lives in one count only.
    pub(super) fallen: watch::Sender<u64>,
    pub(super) hostile: Mutex<Vec<HostileRequest>>,
    pub(super) hostile_address: SocketAddr,
    /// Signs the addresses of the CDN.
    pub(super) secret: u64,
    pub(super) scratch: TempDir,
}
