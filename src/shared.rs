//! The start of what replicas share: each engine is tried out before it is used.

use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::runtime::Handle;
use weir::mirror::Peers;
use weir_shared::{Bucket, PeerSecret, Redis, RedisClient, RedisError, Settings, Tier, Unfit};
use weir_storage::Store;

/// How long a start waits for the bucket to be tried out; later it goes on without, as when the bucket is away.
const PROBE: Duration = Duration::from_secs(60);

/// The bucket behind the store and the other replicas, when they are configured. What does not answer now is used when it does.
///
/// # Errors
/// What is wrong with a file of its settings, what the store lacks, and that an engine refuses.
pub(crate) async fn start(
    settings: &Settings,
    store: &Store,
    metrics: &mut Registry,
) -> Result<(Option<Tier>, Option<Peers>), String> {
    let Some(s3) = &settings.s3 else { return Ok((None, None)) };
    let secret = settings.peers.as_ref().map(PeerSecret::read).transpose().map_err(|error| error.to_string())?;
    let bucket = Bucket::open(s3).map_err(|error| error.to_string())?;
    let is_proven = match tokio::time::timeout(PROBE, bucket.probe()).await {
        Ok(Ok(())) => true,
        Ok(Err(unfit @ (Unfit::Refused(_) | Unfit::Lacks(_)))) => {
            return Err(format!("shared.s3.bucket = {:?}: {unfit}", s3.bucket));
        }
        Ok(Err(Unfit::Unreachable(error))) => {
            tracing::warn!(%error, "serving without the bucket until it answers");
            false
        }
        Err(_) => {
            tracing::warn!("the bucket is too slow to be tried out; serving without it until it is not");
            false
        }
    };
    let redis = match &settings.redis {
        Some(redis) => Some((connect(redis).await?, redis)),
        None => None,
    };
    let url = secret.as_ref().map(|secret| secret.url().clone());
    let tier = Tier::start(bucket, s3, redis, url, store, is_proven, &Handle::current());
    let peers = secret.map(|secret| Peers::new(secret, tier.answers().clone())).transpose()?;
    tier.register(metrics);
    Ok((Some(tier), peers))
}

/// Redis, tried out when it answers.
async fn connect(settings: &Redis) -> Result<RedisClient, String> {
    let redis = RedisClient::open(settings).map_err(|error| error.to_string())?;
    match redis.probe().await {
        Ok(()) => {}
        Err(error @ RedisError::Refused(_)) => {
            return Err(format!("shared.redis.url = {:?}: {error}", settings.url));
        }
        Err(error) => tracing::warn!(%error, "serving without Redis until it answers"),
    }
    Ok(redis)
}
