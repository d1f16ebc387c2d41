//! Images, resolved to templates ready to start from.

use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tarn_types::{ErrorClass, ImageName};
use thiserror::Error;

/// The run-time part of an image's configuration (spec 01 §10).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// `ENV`, in order.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// `USER`; `None` = root.
    #[serde(default)]
    pub user: Option<String>,
    /// `WORKDIR`; `None` = the user's home.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// `ENTRYPOINT`.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// `CMD`.
    #[serde(default)]
    pub cmd: Vec<String>,
}

/// A read-only root file system made from an image, shared by all its sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Names the content: `sha256:` and 64 hex digits.
    pub digest: String,
    /// The directory that holds the tree.
    pub root: PathBuf,
    /// What the image says about running it.
    pub config: ImageConfig,
}

/// Says why an image cannot be started from.
#[derive(Debug, Error)]
pub enum ImageError {
    /// No image has that name.
    #[error("no image is named `{name}`")]
    NotFound {
        /// The name asked for.
        name: ImageName,
    },
    /// A stock image that is made only when it is wanted, and was not made yet.
    #[error("the stock image `{name}` is not built here; `{command}` builds it")]
    NotBuilt {
        /// The name asked for.
        name: ImageName,
        /// What the operator runs.
        command: &'static str,
    },
    /// The image is there but cannot be used.
    #[error("image `{name}` cannot be used: {reason}")]
    Unusable {
        /// The name asked for.
        name: ImageName,
        /// What is wrong with it.
        reason: String,
    },
}

/// Finds templates.
#[async_trait]
pub trait Images: Send + Sync + 'static {
    /// Returns the template of an image.
    ///
    /// # Errors
    /// Fails when no image has the name, or its files are damaged.
    async fn resolve(&self, name: &ImageName) -> Result<Template, ImageError>;

    /// Returns the template of a digest, whatever its image is called now.
    ///
    /// # Errors
    /// Fails when there is none, or its files are damaged; `name` is for the message.
    async fn resolve_digest(&self, digest: &str, name: &ImageName) -> Result<Template, ImageError>;

    /// Returns every name that resolves, sorted.
    async fn names(&self) -> Vec<ImageName>;

    /// Returns the image that a create without `image` gets.
    fn default_image(&self) -> ImageName;
}

// === impl ImageError ===

impl ImageError {
    /// Sorts the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. } | Self::NotBuilt { .. } => ErrorClass::NotFound,
            Self::Unusable { .. } => ErrorClass::Internal,
        }
    }
}
