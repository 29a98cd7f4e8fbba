//! From a configuration to what each room is given: its own `Settings` and nothing else.

use std::time::Duration;

use super::{Config, Log, Mistakes};
use crate::{mirror, upstream};

/// Everything that `main` hands out.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For the store.
    pub storage: weir_storage::Settings,
    /// For the mirror.
    pub mirror: mirror::Settings,
    /// One per upstream, in the order of the file.
    pub upstreams: Vec<upstream::Settings>,
    /// How long bodies under way may take after SIGTERM.
    pub drain: Duration,
    /// What is logged, and how.
    pub log: Log,
}

impl Config {
    /// What each room is given. Reads the password files of upstream accounts.
    ///
    /// # Errors
    /// Password files that cannot be read or are empty.
    pub fn settings(&self) -> Result<Settings, Mistakes> {
        let mut mistakes = Vec::new();
        let upstreams = self.upstream.0.iter().enumerate();
        let upstreams = upstreams.filter_map(|(number, upstream)| upstream.settings(number, &mut mistakes)).collect();
        if !mistakes.is_empty() {
            return Err(Mistakes(mistakes));
        }
        Ok(Settings {
            storage: self.storage.settings(),
            mirror: self.mirror.settings(),
            upstreams,
            drain: self.server.drain.0,
            log: self.log.clone(),
        })
    }
}
