//! The index: rebuildable, and so never waited for.

use crate::{Error, Source, core::Core};

impl Core {
    pub(crate) fn has_source(&self, _source: &Source) {}

    pub(crate) fn lost_source(&self, _source: &Source) {}

    pub(crate) fn flush_index(&self) {}

    pub(crate) fn catalog(&self) -> Result<Vec<Source>, Error> {
        let sources = self.walk_sources()?.into_iter().filter_map(|(upstream, repository, credential)| {
            let repository = repository.parse().ok()?;
            Some(Source { upstream: upstream.into(), credential: credential.into(), repository })
        });
        Ok(sources.collect())
    }
}
