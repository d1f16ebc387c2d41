//! What sandboxes were at some moment, kept on the node.

use std::path::PathBuf;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use tarn_types::{ByteSize, ErrorClass, Pace, SandboxId};
use thiserror::Error;

/// Names a capture on its node: a snapshot's id, or the id of a suspended sandbox.
pub type CaptureName = str;

/// A capture that is being made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureDraft {
    /// An empty directory for a memory image.
    pub memory: PathBuf,
    /// What was promised to the capture.
    pub room: ByteSize,
}

/// A whole capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// The clone of the layer, for [`crate::Layers::build_from`].
    pub layer: PathBuf,
    /// The directory with the memory image; empty if there is none.
    pub memory: PathBuf,
    /// What the maker wrote down about it, as JSON.
    pub note: serde_json::Value,
    /// The allocated bytes of the layer.
    pub layer_size: ByteSize,
    /// The bytes of the memory image.
    pub memory_size: ByteSize,
}

/// Says which step of a capture's life failed.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// The pool has no room for it above its reserve.
    #[error(
        "the snapshot needs {needed} and the pool has {available} free, of which it keeps {reserve} in reserve; free disk space or enlarge the pool"
    )]
    PoolFull {
        /// What it may take.
        needed: ByteSize,
        /// What is free.
        available: ByteSize,
        /// What must stay free.
        reserve: ByteSize,
    },
    /// There is no whole capture of that name.
    #[error("there is no snapshot {name} on this node")]
    Missing {
        /// The name.
        name: String,
    },
    /// What is on disk is not what was written.
    #[error("snapshot {name} is damaged: {detail}")]
    Damaged {
        /// The name.
        name: String,
        /// What differs.
        detail: String,
    },
    /// A step on the host failed.
    #[error("{step} of {path}")]
    Step {
        /// What was being done, such as "clone".
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
}

/// Keeps captures.
///
/// ```text
///  begin ──▶ (memory image written) ──▶ clone_layer ──▶ commit ──▶ open, any number of times
///    └──────────────┴───────────────────────┴──▶ discard ◀──┘
/// ```
///
/// A draft is not seen by [`Captures::open`] and [`Captures::list`]; drafts of an earlier server
/// are removed when the store is opened.
#[async_trait]
pub trait Captures: Send + Sync + 'static {
    /// Begins a capture that may take `memory` bytes besides the layer: that room is its own until
    /// it is committed or discarded. A draft of that name is replaced; a whole one stays until
    /// [`Captures::commit`].
    ///
    /// # Errors
    /// Fails when there is no room.
    async fn begin(
        &self,
        name: &CaptureName,
        memory: ByteSize,
    ) -> Result<CaptureDraft, CaptureError>;

    /// Promises a capture that was begun as much room as `memory` needs, in place of before.
    ///
    /// # Errors
    /// Fails when there is no room.
    async fn extend(&self, name: &CaptureName, memory: ByteSize) -> Result<(), CaptureError>;

    /// Clones the layer of a sandbox as it is at this moment, what its files have only in memory
    /// included. The sandbox must stand still until this returns; the store may go on working
    /// beside it after that.
    ///
    /// # Errors
    /// Fails when the layer is not mounted, or a step on the host fails.
    async fn clone_layer(&self, name: &CaptureName, id: &SandboxId) -> Result<(), CaptureError>;

    /// Makes a draft whole and durable, with checksums of what it consists of and what the caller
    /// wants to know about it later. It replaces a whole one of that name.
    ///
    /// # Errors
    /// Fails when something cannot be written; the draft is not whole then.
    async fn commit(
        &self,
        name: &CaptureName,
        note: serde_json::Value,
    ) -> Result<Capture, CaptureError>;

    /// Makes a draft whole as [`Captures::commit`] does, but does not wait for the disk. After a
    /// restart of the host it is missing, unless the store has found time to make it durable.
    /// `uses` is how many sandboxes are to be built from it; it may be wrong.
    ///
    /// # Errors
    /// Fails when something cannot be written; the draft is not whole then.
    async fn commit_for_boot(
        &self,
        name: &CaptureName,
        note: serde_json::Value,
        uses: u32,
    ) -> Result<Capture, CaptureError>;

    /// Returns a whole capture, after checking that its parts are there and of the right size.
    ///
    /// # Errors
    /// Fails when there is none, or it is damaged.
    async fn open(&self, name: &CaptureName) -> Result<Capture, CaptureError>;

    /// Reads every byte of a whole capture and compares it with the checksums; returns how much
    /// that was.
    ///
    /// # Errors
    /// Fails when there is none, or says what is damaged.
    async fn verify(&self, name: &CaptureName, pace: Pace) -> Result<ByteSize, CaptureError>;

    /// Removes a capture, draft or whole; does nothing when there is none. It cannot be opened any
    /// more when this returns; its bytes go in the background.
    ///
    /// # Errors
    /// Fails when a step on the host fails; it may then be tried again.
    async fn discard(&self, name: &CaptureName) -> Result<(), CaptureError>;

    /// Returns the names of all whole captures, sorted.
    ///
    /// # Errors
    /// Fails when the host cannot be read.
    async fn list(&self) -> Result<Vec<String>, CaptureError>;
}

// === impl Capture ===

impl Capture {
    /// Reads the maker's note.
    ///
    /// # Errors
    /// Fails when the note is of another shape.
    pub fn note<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_value(self.note.clone())
    }
}

// === impl CaptureError ===

impl CaptureError {
    /// Sorts the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::PoolFull { .. } => ErrorClass::Unavailable,
            Self::Missing { .. } => ErrorClass::NotFound,
            Self::Damaged { .. } | Self::Step { .. } => ErrorClass::Internal,
        }
    }
}
