//! What the engine needs: bases, kept steps, and benches on which steps are done.

use async_trait::async_trait;
use tarn_build::{BuildConfig, CacheKey, Run};
use tarn_guest_api::{CopyIn, CopyOut};
use tarn_types::{BootImage, SnapshotId};
use thiserror::Error;
use tokio::io::AsyncRead;

use crate::journal::Journal;

/// An image that a stage begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaseImage {
    /// Which one.
    pub(crate) image: BootImage,
    /// Names its files: equal ones are the same.
    pub(crate) identity: String,
    /// What it says about running it, and about building on it.
    pub(crate) config: BuildConfig,
}

/// What a bench begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Files {
    /// An image's.
    Image(BootImage),
    /// Those that a kept step led to.
    Kept(SnapshotId),
}

/// Why a step was not done.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum StepError {
    /// Because of what was asked: the text is for whoever asked.
    #[error("{0}")]
    Failed(String),
    /// The sandbox ran out of memory.
    #[error("{0}")]
    OutOfMemory(String),
    /// Its disk is full.
    #[error("{0}")]
    DiskFull(String),
    /// Because of the server: the text is for its log.
    #[error("{0}")]
    Internal(String),
}

/// What is copied, as a stream.
pub(crate) struct Parcel {
    /// A head and an archive, as `tarnd copy-in` reads them.
    pub(crate) stream: Box<dyn AsyncRead + Send + Unpin>,
    /// Whether all of it was sent, once the stream has ended.
    pub(crate) done: tokio::sync::oneshot::Receiver<Result<(), StepError>>,
}

/// Where a build's steps are done.
#[async_trait]
pub(crate) trait Workshop: Send + Sync {
    /// Finds an image, and brings it here.
    async fn base(&self, name: &str) -> Result<BaseImage, StepError>;

    /// Returns what a step led to, if that is kept.
    async fn kept(&self, key: CacheKey) -> Option<SnapshotId>;

    /// Opens a bench.
    async fn open(&self, files: &Files) -> Result<Box<dyn Bench>, StepError>;
}

/// Files, and what is done to them.
#[async_trait]
pub(crate) trait Bench: Send + Sync {
    /// Runs a command to its end.
    async fn run(&self, run: &Run, journal: &Journal) -> Result<(), StepError>;

    /// Copies files in.
    async fn copy_in(&self, ask: &CopyIn, parcel: Parcel) -> Result<(), StepError>;

    /// Copies files out.
    async fn copy_out(&self, ask: &CopyOut) -> Result<Parcel, StepError>;

    /// Keeps the files as they are now, as what the step of that key led to.
    async fn keep(&self, key: CacheKey) -> Result<SnapshotId, StepError>;

    /// Gives the bench back.
    async fn close(self: Box<Self>);
}
