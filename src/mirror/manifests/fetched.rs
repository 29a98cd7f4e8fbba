//! A manifest that one replica gets by tag, where a registry refuses HEAD, and that the others get from it.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use weir_storage::Source;

use super::Manifests;
use crate::{
    clock,
    mirror::{error::Error, fleet_answers::source_of, lookup::Lookup},
    oci::{Digest, Manifest, MediaType, Tag},
};

/// A manifest as upstream gave it, when, and with whose credential.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Fetched {
    credential: Arc<str>,
    digest: Digest,
    media_type: MediaType,
    #[serde(with = "text")]
    bytes: Bytes,
    at: SystemTime,
}

/// A manifest is JSON; what is not UTF-8 is not told to other replicas.
mod text {
    use bytes::Bytes;
    use serde::{Deserialize as _, Deserializer, Serializer, ser::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(bytes).map_err(S::Error::custom)?)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        String::deserialize(deserializer).map(Bytes::from)
    }
}

impl Manifests {
    /// What `fetched` gets by a tag or, from upstream for another replica, has come a moment ago; whose answer it is, and when that was.
    pub(super) async fn told(
        &self,
        lookup: &Lookup,
        tag: &Tag,
        fetched: impl Future<Output = Result<(Source, Manifest), Error>>,
    ) -> Result<(Source, Manifest, SystemTime), Error> {
        // For a client that gets only what is cached no replica is waited for.
        if lookup.cached_only.is_some() {
            return fetched.await.map(|(source, manifest)| (source, manifest, clock::now()));
        }
        let is_usable = |fetched: &Fetched, is_old: bool| {
            Manifest::is_named(&fetched.bytes, &fetched.digest)
                && source_of(self.sources.readable(lookup), &fetched.credential).is_some()
                && (!is_old || self.tags.is_fresh(lookup, tag, fetched.at))
        };
        let ask = async {
            let (Source { credential, .. }, Manifest { digest, media_type, bytes }) = fetched.await?;
            Ok(Fetched { credential, digest, media_type, bytes, at: clock::now() })
        };
        let absent_for = self.settings.load().negative_ttl;
        let told = self.fleet.ask(("tag-get", lookup, tag), absent_for, is_usable, ask).await?;
        let Fetched { credential, digest, media_type, bytes, at } = told;
        let source = Source { credential, ..lookup.public() };
        // The clock of another replica may be ahead.
        Ok((source, Manifest { digest, media_type, bytes }, at.min(clock::now())))
    }
}
