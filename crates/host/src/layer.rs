//! The private writable layer of each sandbox.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use tarn_types::{ByteSize, ErrorClass, SandboxId};
use thiserror::Error;

use crate::Template;

/// A mounted root file system: a template below, a sandbox's layer above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootFs {
    /// Where it is mounted.
    pub path: PathBuf,
}

/// How much room the pool has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSpace {
    /// The size of the pool.
    pub total: ByteSize,
    /// What is free in it.
    pub available: ByteSize,
    /// Below this what runs must stand still, before the pool is full under it.
    pub floor: ByteSize,
    /// What captures have written that are not whole yet; their room is not free.
    pub drafts: ByteSize,
}

/// Says which step of a layer's life failed.
#[derive(Debug, Error)]
pub enum LayerError {
    /// The pool has no room left above its reserve.
    #[error(
        "the pool has {available} free and keeps {reserve} in reserve; free disk space or enlarge the pool"
    )]
    PoolFull {
        /// What is free.
        available: ByteSize,
        /// What must stay free.
        reserve: ByteSize,
    },
    /// The snapshot's files need a larger disk.
    #[error("the disk is to have {size} and the snapshot's has {least}; ask for at least that")]
    TooSmall {
        /// What was asked for.
        size: ByteSize,
        /// What the snapshot's disk has.
        least: ByteSize,
    },
    /// Only where the disk is not in use can it be enlarged.
    #[error("to enlarge a disk in use, the server needs CAP_SYS_RESOURCE, which it has not")]
    Unprivileged,
    /// The disk took only a part of what it was to grow by.
    #[error("the disk grew only in part, and is to have {size} still")]
    PartlyGrown {
        /// What it was to grow to, and what its file has.
        size: ByteSize,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
    /// The sandbox has no layer here.
    #[error("sandbox {id} has no layer on this node")]
    Missing {
        /// The sandbox.
        id: SandboxId,
    },
    /// A step on the host failed.
    #[error("{step} of {path}")]
    Step {
        /// What was being done, such as "mount".
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
}

/// Makes, finds again and removes layers.
#[async_trait]
pub trait Layers: Send + Sync + 'static {
    /// Makes a sandbox's layer of exactly `size` and mounts it over the template.
    ///
    /// A failure, or dropping the future, leaves nothing that [`Layers::release`] does not remove.
    ///
    /// # Errors
    /// Fails when the pool is full or a step on the host fails.
    async fn build(
        &self,
        id: &SandboxId,
        template: &Template,
        size: ByteSize,
    ) -> Result<RootFs, LayerError>;

    /// Finds the root file system of a sandbox that outlived a restart of the server.
    ///
    /// # Errors
    /// Fails when it is not mounted any more.
    async fn adopt(&self, id: &SandboxId) -> Result<RootFs, LayerError>;

    /// Makes a sandbox's layer as a clone of a snapshot's, grown to `size`, and mounts it over the
    /// template. What identifies a machine is the sandbox's own in it: `machine-id`.
    ///
    /// A failure, or dropping the future, leaves nothing that [`Layers::release`] does not remove.
    ///
    /// # Errors
    /// Fails when the pool is full, `size` is smaller than the clone, or a step on the host fails.
    async fn build_from(
        &self,
        id: &SandboxId,
        template: &Template,
        source: &Path,
        size: ByteSize,
    ) -> Result<RootFs, LayerError>;

    /// Mounts a layer again that [`Layers::close`] or a restart of the host left, with the files
    /// that are in it, over the template that it was made over. One that is smaller than `size`
    /// is enlarged first.
    ///
    /// A failure, or dropping the future, leaves the files, and nothing mounted that
    /// [`Layers::close`] does not unmount.
    ///
    /// # Errors
    /// Fails when there is none, or a step on the host fails.
    async fn reopen(
        &self,
        id: &SandboxId,
        template: &Template,
        size: ByteSize,
    ) -> Result<RootFs, LayerError>;

    /// Enlarges a mounted layer to `size`, in use; does nothing when it is no smaller. May be
    /// repeated after a crash, which is made up for then.
    ///
    /// # Errors
    /// Fails when it is not mounted, the pool is full, the server may not ([`LayerError::
    /// Unprivileged`]), or a step on the host fails. It is as large as it was then, unless it is
    /// [`LayerError::PartlyGrown`].
    async fn grow(&self, id: &SandboxId, size: ByteSize) -> Result<(), LayerError>;

    /// Unmounts a sandbox's layer and keeps its files; does nothing when there is none.
    ///
    /// # Errors
    /// Fails when a step on the host fails; it may then be tried again.
    async fn close(&self, id: &SandboxId) -> Result<(), LayerError>;

    /// Writes what the sandbox's files have in memory to its layer.
    ///
    /// # Errors
    /// Fails when it is not mounted, or the disk fails.
    async fn sync(&self, id: &SandboxId) -> Result<(), LayerError>;

    /// Unmounts and removes a sandbox's layer; does nothing when there is none.
    ///
    /// # Errors
    /// Fails when a step on the host fails; it may then be tried again.
    async fn release(&self, id: &SandboxId) -> Result<(), LayerError>;

    /// Returns every sandbox of which anything is left on the host (file, mount or loop device).
    ///
    /// # Errors
    /// Fails when the host cannot be read.
    async fn list(&self) -> Result<Vec<SandboxId>, LayerError>;

    /// Returns how much room the pool has.
    ///
    /// # Errors
    /// Fails when the pool cannot be read.
    async fn space(&self) -> Result<PoolSpace, LayerError>;
}

// === impl LayerError ===

impl LayerError {
    /// Sorts the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::PoolFull { .. } | Self::Unprivileged => ErrorClass::Unavailable,
            Self::TooSmall { .. } => ErrorClass::Invalid,
            Self::Missing { .. } => ErrorClass::NotFound,
            Self::Step { .. } | Self::PartlyGrown { .. } => ErrorClass::Internal,
        }
    }
}
