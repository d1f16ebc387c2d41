//! Captures in an object store, away from the node.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use async_trait::async_trait;
use tarn_types::{ByteSize, ErrorClass, ProjectId};
use thiserror::Error;

use crate::{CaptureError, CaptureName};

/// What is in the object store of one capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    /// Where its manifest is, as a URL.
    pub uri: String,
    /// The bytes of the capture that are not holes.
    pub size: ByteSize,
    /// The bytes that the object store got for it now: less what it had already.
    pub sent: ByteSize,
}

/// How far a transfer is, in bytes of the capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is done.
    pub done: ByteSize,
    /// What there is to do.
    pub total: ByteSize,
}

/// Is told of every step of a transfer, from whatever task makes it.
pub type OnProgress<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// What a collection of garbage did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collected {
    /// The chunks that some manifest needs, or that are younger than the grace.
    pub kept: u64,
    /// The chunks that were removed.
    pub removed: u64,
    /// Their bytes in the object store.
    pub freed: ByteSize,
}

/// Says which step of a transfer failed.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// The capture on this node cannot be read or made.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// There is no capture of that name in the object store.
    #[error("there is no snapshot {name} in the object store")]
    Missing {
        /// The name.
        name: String,
    },
    /// What is in the object store is not what was written, or was written with another key.
    #[error("snapshot {name} in the object store is damaged: {detail}")]
    Damaged {
        /// The name.
        name: String,
        /// What differs, and in which object.
        detail: String,
    },
    /// The object store refused a request or did not answer it, retries included.
    #[error("{step} of {object} in the object store")]
    Store {
        /// What was being done, such as "put".
        step: &'static str,
        /// The object's path.
        object: String,
        /// What the store said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The key that everything is encrypted with cannot be read.
    #[error("read the key of the object store, {path}")]
    Key {
        /// Its file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
}

/// Keeps captures in an object store: cut into chunks, compressed, and encrypted with a key of
/// their project.
///
/// ```text
///  store ──▶ fetch, verify, any number of times ──▶ remove ──▶ (grace) ──▶ collect
/// ```
///
/// Nothing refers to a chunk before it is there, and what a chunk holds never changes.
#[async_trait]
pub trait Archive: Send + Sync + 'static {
    /// Uploads a whole capture of this node. Chunks that are there are not sent again, so calling
    /// it again after a cut goes on where it was cut; for a capture that is there whole it does
    /// nothing.
    ///
    /// # Errors
    /// Fails when the capture is missing or damaged, or the object store does not take it.
    async fn store(
        &self,
        project: &ProjectId,
        name: &CaptureName,
        progress: OnProgress<'_>,
    ) -> Result<Archived, ArchiveError>;

    /// Makes what the object store has of a capture whole again, from the whole capture on this
    /// node: reads every chunk, writes those again that are missing or are not what they were, and
    /// then the description. Removes nothing. A capture that is not there at all is stored.
    ///
    /// # Errors
    /// Fails when the capture on the node is missing, damaged, or is not the one that was sent, or
    /// the object store does not take it.
    async fn mend(
        &self,
        project: &ProjectId,
        name: &CaptureName,
        progress: OnProgress<'_>,
    ) -> Result<Archived, ArchiveError>;

    /// Brings a capture to this node, so that [`crate::Captures::open`] finds it. Every byte is
    /// verified. Does nothing when the capture is here already; a damaged one is replaced. Calls
    /// for the same name wait for each other.
    ///
    /// # Errors
    /// Fails when there is no such capture, it is damaged, the node has no room for it, or the
    /// object store does not answer.
    async fn fetch(
        &self,
        project: &ProjectId,
        name: &CaptureName,
        progress: OnProgress<'_>,
    ) -> Result<(), ArchiveError>;

    /// Reads every byte of a capture in the object store and checks it.
    ///
    /// # Errors
    /// Fails when there is none, or says what is damaged.
    async fn verify(&self, project: &ProjectId, name: &CaptureName) -> Result<(), ArchiveError>;

    /// Removes a capture from the object store; does nothing when there is none. It cannot be
    /// fetched any more when this returns; its chunks stay until [`Archive::collect`].
    ///
    /// # Errors
    /// Fails when the object store does not do it; it may then be tried again.
    async fn remove(&self, project: &ProjectId, name: &CaptureName) -> Result<(), ArchiveError>;

    /// Removes the chunks that no manifest needs and that are older than `grace`, which must be
    /// longer than any upload takes.
    ///
    /// # Errors
    /// Fails when a manifest cannot be read (nothing is removed then), or the object store does
    /// not answer.
    async fn collect(&self, grace: Duration) -> Result<Collected, ArchiveError>;

    /// Returns the names of a project's captures in the object store.
    ///
    /// # Errors
    /// Fails when the object store does not answer.
    async fn list(&self, project: &ProjectId) -> Result<BTreeSet<String>, ArchiveError>;
}

// === impl ArchiveError ===

impl ArchiveError {
    /// Sorts the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Capture(failed) => failed.class(),
            Self::Missing { .. } => ErrorClass::NotFound,
            Self::Store { .. } => ErrorClass::Unavailable,
            Self::Damaged { .. } | Self::Key { .. } => ErrorClass::Internal,
        }
    }
}
