//! A blob that is to be here, for a warm: it waits for the whole of it, and reads none of it.

use std::{sync::Arc, time::Duration};

use super::{ATTEMPTS, Blobs};
use crate::{
    answer::CacheStatus,
    mirror::{error::Error, lookup::Lookup},
    oci::Digest,
};

/// How often it is looked whether fills of clients have become fewer.
const POLL: Duration = Duration::from_millis(250);

/// How long a warm waits for a blob, besides a second for each [`SLOWEST`] bytes of it. What comes more slowly goes on arriving for
/// clients as long as `mirror.fill_timeout` allows, and the warm goes on with its next image.
const PATIENCE: Duration = Duration::from_secs(600);
const SLOWEST: u64 = 64 << 10;

/// What became of a blob that is to be here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mirror) enum Kept {
    /// It was here.
    Here,
    /// It came; its size in bytes.
    Fetched(u64),
    /// The disk has no space for it.
    NoSpace,
}

impl Blobs {
    /// Sees to it that the blob is here and this client's to have, by the same fill as a client's request. While clients' fills take half
    /// of `mirror.fills`, it starts none.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::UpstreamUnavailable`] when it did not arrive whole, or too slowly.
    pub(in crate::mirror) async fn keep(self: &Arc<Blobs>, lookup: &Lookup, digest: &Digest) -> Result<Kept, Error> {
        let mut fetched = None;
        for _ in 0..ATTEMPTS {
            if self.whole(lookup, digest).await?.is_some() {
                return Ok(fetched.map_or(Kept::Here, Kept::Fetched));
            }
            if fetched.is_some() {
                break;
            }
            while self.fills.count() >= self.settings.load().fills.div_ceil(2) && self.fills.size(digest).is_none() {
                tokio::time::sleep(POLL).await;
            }
            let answer = self.find(lookup, digest, None).await?;
            match answer.facts.status {
                CacheStatus::Hit => return Ok(Kept::Here),
                // Without its reader, the stream that was opened is closed.
                CacheStatus::Bypass => return Ok(Kept::NoSpace),
                _ => {}
            }
            let size = answer.reader.size();
            drop(answer);
            let patience = PATIENCE + Duration::from_secs(size / SLOWEST);
            if tokio::time::timeout(patience, self.fills.ended(digest)).await.is_err() {
                return Err(unavailable("a layer arrives too slowly"));
            }
            fetched = Some(size);
        }
        Err(unavailable("a layer did not arrive whole; the log says why"))
    }
}

fn unavailable(message: &str) -> Error {
    Error::UpstreamUnavailable { retry_after: None, message: message.into() }
}
