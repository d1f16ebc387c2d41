//! Why a build cannot be begun or changed.

use tarn_control::ControlError;
use tarn_types::{BuildId, BuildRecord, BuildStatus, ErrorClass};
use thiserror::Error;

use super::MOST_ACTIVE;

/// Says why a build cannot be begun or changed.
#[derive(Debug, Error)]
pub enum BuilderError {
    /// The project has no such build.
    #[error("no build `{0}`; an ended one is kept for 7 days, or until its image is built anew")]
    NotFound(String),
    /// The image of that name is being built.
    #[error("image `{}` is being built by {}; cancel that one first, or wait", .0.name, .0.id)]
    InProgress(Box<BuildRecord>),
    /// Too many are under way.
    #[error("{MOST_ACTIVE} builds of the project are under way, which is the most; wait for one")]
    TooMany,
    /// The build is past that.
    #[error("build {id} is {}; it takes no context any more", .status.as_str())]
    NotAwaiting {
        /// The build.
        id: BuildId,
        /// Where it is.
        status: BuildStatus,
    },
    /// There is nothing to register yet, or no more.
    #[error("build {id} is {}; only what was built can be completed", .status.as_str())]
    NotBuilt {
        /// The build.
        id: BuildId,
        /// Where it is.
        status: BuildStatus,
    },
    /// The upload shows no token, or not the one.
    #[error("the upload URL is not valid, or was used up")]
    Denied,
    /// A context of the build is being uploaded.
    #[error("a context of build {0} is being uploaded; wait until that has ended, then try again")]
    Uploading(BuildId),
    /// The contexts of the project take as much as they may.
    #[error("the contexts of the project's builds take {0} bytes, the most; wait for one to end")]
    Crowded(u64),
    /// The context is larger than it may be.
    #[error("the context is larger than {0} bytes; leave out what the build does not need")]
    TooLarge(u64),
    /// The context is not what was sealed.
    #[error("{0}")]
    Context(String),
    /// Control refused.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The host does not write.
    #[error("the server cannot keep the context just now")]
    Unavailable(String),
}

// === impl BuilderError ===

impl BuilderError {
    /// Sorts the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound(_) => ErrorClass::NotFound,
            Self::InProgress(_)
            | Self::NotAwaiting { .. }
            | Self::NotBuilt { .. }
            | Self::Uploading(_)
            | Self::Crowded(_) => ErrorClass::Conflict,
            Self::TooMany => ErrorClass::Quota,
            Self::Denied => ErrorClass::Denied,
            Self::TooLarge(_) | Self::Context(_) => ErrorClass::Invalid,
            Self::Control(failed) => failed.class(),
            Self::Unavailable(_) => ErrorClass::Unavailable,
        }
    }
}
