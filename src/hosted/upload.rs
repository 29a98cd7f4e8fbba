//! An upload, in the words of this room.

use bytes::Bytes;

use super::Error;
use crate::oci::Digest;

/// One request's hold of an upload session; see [`weir_storage::Upload`], of which this is the whole but for its errors.
#[derive(Clone, Debug)]
pub struct Upload(pub(super) weir_storage::Upload);

impl Upload {
    /// What names the session: this server, and 128 random bits.
    pub fn id(&self) -> &str {
        self.0.id()
    }

    /// Bytes received: where to go on.
    pub fn written(&self) -> u64 {
        self.0.written()
    }

    /// From now on this request writes, and no earlier one does.
    pub async fn take_over(&mut self) {
        self.0.take_over().await;
    }

    /// Appends and hashes. Done even when the future is dropped.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Quota`], [`Error::UploadUnknown`] when another request has taken over, [`Error::Internal`].
    pub async fn append(&self, bytes: Bytes) -> Result<(), Error> {
        Ok(self.0.append(vec![bytes]).await?)
    }

    /// Gives back all beyond `offset`.
    ///
    /// # Errors
    /// As [`Upload::append`].
    pub async fn roll_back(&self, offset: u64) -> Result<(), Error> {
        Ok(self.0.roll_back(offset).await?)
    }

    /// Makes it a blob of its repository, on the disk when this comes back. Done even when the future is dropped.
    ///
    /// # Errors
    /// [`Error::DigestInvalid`], and the session is no more; as [`Upload::append`].
    pub async fn commit(&self, digest: &Digest) -> Result<(), Error> {
        Ok(self.0.commit(digest).await?)
    }

    /// Ends it.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`] when it has ended already.
    pub async fn cancel(&mut self) -> Result<(), Error> {
        Ok(self.0.cancel().await?)
    }
}
