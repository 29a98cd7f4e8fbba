//! Blobs from and for the other replicas of the fleet, while they arrive, and what upstream tells one of them.
//!
//! # What it guarantees
//! * A blob that one replica fetches under a lease goes to those that want it too from the first byte, by its peer listener. Each
//!   writes and verifies it as if it came from upstream, and the last 64 KiB wait for that.
//! * Whether a client may have the blob is decided by the replica that the client asks, as for any other blob: a peer gives bytes to each
//!   request that is signed with the secret, and a right to no client.
//! * When the bytes break off, the replica looks into the bucket, for the next owner of the lease, and asks upstream by `Range` when it is
//!   its turn, so that an owner that dies costs one more request, and its clients' reads go on.
//! * A peer that sent what does not match its digest is not followed for a minute. An answer that is not sealed as the fleet's is not read.
//!
//! # What it refuses to do
//! * It asks no other replica than the one that has the lease, and passes on nothing but blobs and what [`super::fleet_answers`] shares.
//! * What came from a peer it does not write to the bucket: its owner does.

use std::{future::poll_fn, sync::Arc, time::Duration};

use bytes::Bytes;
use weir_shared::{Answers, PeerSecret, Question, Said};
use weir_storage::{Reader, Store};

use crate::{
    clock,
    oci::Digest,
    upstream::{self, PeerBody, PeerClient},
};

/// Replicas that sent wrong bytes, and for how long none is asked. A fleet has few.
const DISTRUSTED: u64 = 1000;
const DISTRUSTED_FOR: Duration = Duration::from_secs(60);

/// Bytes that are read from the disk at once for a peer.
const PIECE: usize = 256 << 10;

/// The other replicas of the fleet. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Peers {
    secret: PeerSecret,
    client: PeerClient,
    answers: Answers,
    distrusted: moka::sync::Cache<String, ()>,
}

/// A blob on its way to another replica.
#[derive(Debug)]
pub struct PeerBlob {
    reader: Reader,
    store: Store,
    digest: Digest,
    at: u64,
}

impl Peers {
    /// What asks the others and knows them, and tells them what is in `answers`.
    ///
    /// # Errors
    /// That no HTTP client can be made.
    pub fn new(secret: PeerSecret, answers: Answers) -> Result<Peers, String> {
        let distrusted = moka::sync::Cache::builder().max_capacity(DISTRUSTED).time_to_live(DISTRUSTED_FOR).build();
        Ok(Peers { secret, client: PeerClient::new()?, answers, distrusted })
    }

    /// Whether a replica of this fleet asks for this blob.
    pub fn admits(&self, authorization: &str, digest: &Digest) -> bool {
        self.secret.admits(authorization, digest, clock::now())
    }

    /// A blob from this offset on, as it arrives at the replica with this URL.
    ///
    /// # Errors
    /// As [`PeerClient::get`].
    pub(super) async fn get(&self, owner: &str, digest: &Digest, from: u64) -> Result<PeerBody, upstream::Error> {
        if self.distrusted.contains_key(owner) {
            return Err(upstream::Error::Denied);
        }
        let authorization = self.secret.sign(owner, digest, clock::now());
        let body = self.client.get(owner, digest, &authorization, from).await;
        if let Err(error) = &body {
            tracing::info!(%error, owner, %digest, "a blob cannot be had from the replica that fetches it");
        }
        body
    }

    /// What the flight with this token was told of the object whose key has this hash, and the seal of that. `None` when no replica of this
    /// fleet asks. Waits for two seconds at most.
    pub async fn answer(&self, authorization: &str, [token, key, nonce]: [&str; 3]) -> Option<(Vec<u8>, String)> {
        let question = Question::new(token, key, nonce)?;
        if !self.secret.admits_question(authorization, &question, clock::now()) {
            return None;
        }
        let body = self.answers.wait(token, key).await.to_bytes();
        let seal = self.secret.seal(&question, &body);
        Some((body, seal))
    }

    /// What the replica with this URL says; `None` when it cannot be reached, or another one answers in its place.
    pub(super) async fn told(&self, owner: String, question: Question) -> Option<Said> {
        let authorization = self.secret.sign_question(&owner, &question, clock::now());
        let words = [question.token(), question.key(), question.nonce()];
        match self.client.answer(&owner, words, &authorization).await {
            Ok((seal, body)) if self.secret.is_sealed(&owner, &question, &body, &seal) => Said::parse(&body),
            Ok(_) => {
                tracing::error!(owner, "what answers in the place of a replica does not have the secret of this fleet");
                None
            }
            Err(error) => {
                tracing::info!(%error, owner, "what upstream said cannot be had from the replica that asked");
                None
            }
        }
    }

    /// From now on it is not followed for a while.
    pub(super) fn distrust(&self, owner: String) {
        tracing::error!(
            owner,
            "a replica sent a blob that does not match its digest, and is not followed for a minute"
        );
        self.distrusted.insert(owner, ());
    }
}

impl PeerBlob {
    pub(super) fn new(reader: Reader, store: Store, digest: Digest, from: u64) -> PeerBlob {
        PeerBlob { reader, store, digest, at: from }
    }

    /// Bytes of the whole blob.
    pub fn size(&self) -> u64 {
        self.reader.size()
    }

    /// The next piece as soon as this replica has it; `None` at the end, or an error when the blob stops to arrive.
    pub async fn next(&mut self) -> Option<Result<Bytes, Arc<str>>> {
        let (at, size) = (self.at, self.reader.size());
        if at >= size {
            return None;
        }
        let extent = match poll_fn(|cx| self.reader.poll_extent(cx, at, size)).await {
            Ok(extent) => extent,
            Err(stopped) => return Some(Err(stopped.0)),
        };
        match self.store.blobs.copy(&self.digest, extent, PIECE).await {
            Ok(piece) if !piece.is_empty() => {
                self.at += piece.len() as u64;
                Some(Ok(piece))
            }
            _ => Some(Err("the disk does not give it".into())),
        }
    }
}
