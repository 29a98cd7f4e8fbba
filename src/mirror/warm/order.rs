//! What is asked for, and how it becomes a job.

use super::{
    job::{Job, Wanted},
    jobs::MOST_IMAGES,
    platforms,
    record::Record,
    runner::Shared,
};
use crate::clock;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// The images; each is fetched once, however often it stands there.
    pub images: Vec<Wanted>,
    /// Platforms such as `linux/arm64`; none is all that an image has.
    pub platforms: Vec<String>,
    /// The operator or the schedule.
    pub by: String,
    /// The reason that the operator gave.
    pub reason: String,
}

/// Why a warm is not taken or found.
#[derive(Debug, thiserror::Error)]
pub enum WarmError {
    /// The order is wrong; says what to write instead.
    #[error("{0}")]
    Invalid(String),
    /// There is too much under way.
    #[error("{0}")]
    Full(String),
    /// There is no such job.
    #[error("no warm has this number; GET /api/v1/cache/warm lists them")]
    Unknown,
    /// The job is done or was cancelled.
    #[error("this warm has ended")]
    Ended,
    /// The journal cannot be written, or is not open.
    #[error("the journal of the warms cannot be written: {0}")]
    Journal(String),
}

/// Whether an order can be taken, as far as it alone says.
pub(super) fn check(order: &Order) -> Result<(), WarmError> {
    let Order { images, platforms, .. } = order;
    if images.is_empty() {
        return Err(WarmError::Invalid("there is no image to warm; name some, or a list that has some".to_owned()));
    }
    if images.len() > MOST_IMAGES {
        let message = format!("these are {} images; write at most {MOST_IMAGES} for one warm", images.len());
        return Err(WarmError::Invalid(message));
    }
    platforms.iter().try_for_each(|platform| platforms::check(platform)).map_err(WarmError::Invalid)
}

/// Takes an order. It is on disk when this returns.
pub(super) async fn take(shared: &Shared, order: Order) -> Result<Job, WarmError> {
    check(&order)?;
    let Order { images, platforms, by, reason } = order;
    let job = shared.lock().make(images, platforms, (by, reason), clock::now()).map_err(WarmError::Full)?;
    let record = Record::Job { job: job.clone() };
    let _adding = shared.adding.lock().await;
    shared.write(&record).await.map_err(|error| WarmError::Journal(error.to_string()))?;
    shared.lock().insert(job.clone());
    shared.count_jobs();
    shared.changed.notify_one();
    Ok(job)
}
