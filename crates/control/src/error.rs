//! Why the control plane refused or failed. The text is what a caller reads.

use tarn_store::StoreError;
use tarn_types::{ErrorClass, ImageName, SandboxId, SandboxName};
use thiserror::Error;

/// Says why a call did nothing.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The key is missing, unknown or revoked.
    #[error(
        "the API key is missing or not valid; send `Authorization: Bearer <key>` (`tarn key create` makes one)"
    )]
    Unauthenticated,
    /// A field cannot be what it is.
    #[error("{field}: {reason}")]
    Invalid {
        /// The JSON path.
        field: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A field is outside a configured limit.
    #[error("{field}: {value} is outside the limit; {limit}")]
    LimitExceeded {
        /// The JSON path.
        field: &'static str,
        /// What was asked.
        value: String,
        /// What is allowed, such as "at least 128 MiB".
        limit: String,
    },
    /// No node has that GPU model.
    #[error("resources.gpus[0].model: no node has a GPU of model `{0}`")]
    NoSuchGpu(String),
    /// No image has that name.
    #[error("image: no image is named `{name}`; known are {known}")]
    ImageNotFound {
        /// The name asked for.
        name: ImageName,
        /// The names there are, joined.
        known: String,
    },
    /// The name is that of a stock image which was not made yet.
    #[error(
        "image: the stock image `{name}` is not built on this server; run `{command}` in tarn's \
         directory on its host, then try again"
    )]
    ImageNotBuilt {
        /// The name asked for.
        name: ImageName,
        /// What the operator runs.
        command: &'static str,
    },
    /// The caller's project has no such sandbox.
    #[error("no sandbox `{0}`")]
    SandboxNotFound(String),
    /// Another live sandbox has the name.
    #[error("the name `{name}` is taken by sandbox {holder}; terminate it or choose another name")]
    NameTaken {
        /// The name.
        name: SandboxName,
        /// Who has it.
        holder: SandboxId,
    },
    /// The sandbox has ended.
    #[error("sandbox {0} is terminated")]
    Terminated(SandboxId),
    /// Only a named sandbox can do that.
    #[error("{field}: only a named sandbox has it; give the sandbox a name")]
    Ephemeral {
        /// The JSON path.
        field: &'static str,
    },
    /// There is no such key or project.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// The store or the node cannot take work just now.
    #[error("the control plane cannot do this just now; try again")]
    Unavailable {
        /// For our log only.
        detail: String,
    },
    /// A fault of ours.
    #[error("internal error; the server's log says more")]
    Internal {
        /// For our log only.
        detail: String,
    },
}

// === impl ControlError ===

impl ControlError {
    /// Sorts the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Unauthenticated => ErrorClass::Denied,
            Self::Invalid { .. }
            | Self::LimitExceeded { .. }
            | Self::NoSuchGpu(_)
            | Self::Ephemeral { .. } => ErrorClass::Invalid,
            Self::ImageNotFound { .. }
            | Self::ImageNotBuilt { .. }
            | Self::SandboxNotFound(_)
            | Self::NotFound(_) => ErrorClass::NotFound,
            Self::NameTaken { .. } | Self::Terminated(_) => ErrorClass::Conflict,
            Self::Unavailable { .. } => ErrorClass::Unavailable,
            Self::Internal { .. } => ErrorClass::Internal,
        }
    }

    /// Returns what belongs in our log and not in an answer.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Unavailable { detail } | Self::Internal { detail } => Some(detail),
            Self::Unauthenticated
            | Self::Invalid { .. }
            | Self::LimitExceeded { .. }
            | Self::NoSuchGpu(_)
            | Self::ImageNotFound { .. }
            | Self::ImageNotBuilt { .. }
            | Self::SandboxNotFound(_)
            | Self::NameTaken { .. }
            | Self::Terminated(_)
            | Self::Ephemeral { .. }
            | Self::NotFound(_) => None,
        }
    }
}

impl From<StoreError> for ControlError {
    fn from(failed: StoreError) -> Self {
        match failed {
            StoreError::NameTaken { name, holder } => Self::NameTaken { name, holder },
            StoreError::NotFound { what } => Self::NotFound(what),
            StoreError::Unavailable { detail } => Self::Unavailable { detail },
            StoreError::Conflict { .. }
            | StoreError::Exists { .. }
            | StoreError::Internal { .. } => Self::Internal { detail: failed.to_string() },
        }
    }
}
