//! The GPUs of a host.

use async_trait::async_trait;
use tarn_types::{ErrorClass, GpuFiles, GpuId, GpuModel};
use thiserror::Error;

/// A GPU that the host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuDevice {
    /// Which.
    pub id: GpuId,
    /// What its maker calls it.
    pub product: String,
    /// The model by which it is asked for.
    pub model: GpuModel,
}

/// Says why a GPU cannot be given to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GpuError {
    /// Something uses it still; that may pass by itself.
    #[error("it is in use: {detail}")]
    Busy {
        /// By what.
        detail: String,
    },
    /// It does not do what it should; that does not pass by itself.
    #[error("it is not well: {detail}")]
    Faulty {
        /// What was found.
        detail: String,
    },
    /// What its driver needs inside a sandbox is not known.
    #[error("the files of its driver are not known: {detail}")]
    Files {
        /// What is missing, and what to do.
        detail: String,
    },
}

/// Finds the GPUs of a host, and what a sandbox needs to use them. It gives none out: who has
/// which is for the node to remember.
#[async_trait]
pub trait Gpus: Send + Sync + 'static {
    /// Returns every GPU that was found at the start. What is plugged in later is not there.
    fn list(&self) -> Vec<GpuDevice>;

    /// Looks whether a GPU is well and used by nobody.
    ///
    /// # Errors
    /// Says what is the matter with it.
    async fn check(&self, id: &GpuId) -> Result<(), GpuError>;

    /// Returns what a sandbox must be given to use these GPUs, and no others.
    ///
    /// # Errors
    /// Fails when the host does not say what that is.
    async fn files(&self, ids: &[GpuId]) -> Result<GpuFiles, GpuError>;
}

// === impl GpuError ===

impl GpuError {
    /// Sorts the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Busy { .. } => ErrorClass::Unavailable,
            Self::Faulty { .. } | Self::Files { .. } => ErrorClass::Internal,
        }
    }
}
