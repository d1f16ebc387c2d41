//! Why an image cannot be had.

use std::{io, path::PathBuf};

use tarn_types::ErrorClass;
use thiserror::Error;

use crate::Digest;

/// Says why an image cannot be looked up, pulled or imported, and what to do.
#[derive(Debug, Error)]
pub enum OciError {
    /// The registry has no such image, or does not show it to this caller.
    #[error(
        "there is no image {what}; check its name and tag, or give credentials that may see it"
    )]
    NotFound {
        /// The reference, or the name within an archive.
        what: String,
    },
    /// The registry wants credentials, or others.
    #[error(
        "the registry {registry} does not let these credentials read {repository}; give ones that may"
    )]
    Unauthorized {
        /// The registry.
        registry: String,
        /// The repository in it.
        repository: String,
    },
    /// The registry does not answer, retries included.
    #[error("the registry {registry} cannot be reached ({step}); try again later")]
    Unreachable {
        /// The registry, or the host it sent us to.
        registry: String,
        /// What was being done.
        step: &'static str,
        /// What the network said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something is at an address to which no request may go.
    #[error(
        "{host} is at no public address, and this server asks no others for images; its operator \
         can allow that host"
    )]
    NotPublic {
        /// The registry, or where it sent us.
        host: String,
    },
    /// The registry answered that it does not do it.
    #[error("the registry {registry} refused the request with status {status}{detail}")]
    Refused {
        /// The registry, or the host it sent us to.
        registry: String,
        /// The HTTP status.
        status: u16,
        /// What it said about it, with a leading colon; may be empty.
        detail: String,
    },
    /// Content is not what its digest says.
    #[error(
        "{what} should be {expected} but is {found}; the image is damaged or was tampered with"
    )]
    BadDigest {
        /// Which content.
        what: String,
        /// The digest it was asked by.
        expected: Digest,
        /// The digest it has.
        found: Digest,
    },
    /// Content is not as long as its manifest says.
    #[error("{what} should have {expected} bytes but has {found}; the image is damaged")]
    BadSize {
        /// Which content.
        what: String,
        /// The bytes it should have.
        expected: u64,
        /// The bytes that came, or were announced.
        found: u64,
    },
    /// An entry of a layer that no honest image has.
    #[error("the image is refused: its entry `{entry}` {what}")]
    Hostile {
        /// The entry's path, escaped.
        entry: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Something is not in the format it should be in.
    #[error("{what} cannot be read: {detail}; build or push the image anew")]
    Malformed {
        /// What it is.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A bound is reached.
    #[error("the image is refused: {what} exceeds {limit}; use a smaller image or raise the limit")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// No variant of the image is for this machine.
    #[error("the image has nothing for {wanted}, only for {offered}; build it for {wanted}")]
    NoPlatform {
        /// This machine's platform.
        wanted: String,
        /// What there is.
        offered: String,
    },
    /// A kind of image that is not taken.
    #[error("{what} is not supported; {advice}")]
    Unsupported {
        /// What it is.
        what: String,
        /// What to do instead.
        advice: &'static str,
    },
    /// This machine's disk does not do what is asked.
    #[error("{step} {path}")]
    Disk {
        /// What was being done.
        step: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The pull was given up, or the server stops.
    #[error("the pull was given up; start it again")]
    Cancelled,
}

// === impl OciError ===

impl OciError {
    /// Sorts the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. } => ErrorClass::NotFound,
            Self::Unauthorized { .. } | Self::NotPublic { .. } => ErrorClass::Denied,
            Self::Unreachable { .. } => ErrorClass::Unavailable,
            Self::Refused { status, .. } => match status {
                429 | 500..=599 => ErrorClass::Unavailable,
                401 | 403 => ErrorClass::Denied,
                _ => ErrorClass::Invalid,
            },
            Self::BadDigest { .. }
            | Self::BadSize { .. }
            | Self::Hostile { .. }
            | Self::Malformed { .. }
            | Self::TooLarge { .. }
            | Self::NoPlatform { .. }
            | Self::Unsupported { .. } => ErrorClass::Invalid,
            Self::Disk { source, .. } => {
                let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
                let is_full = full.contains(&source.kind());
                if is_full { ErrorClass::Unavailable } else { ErrorClass::Internal }
            }
            Self::Cancelled => ErrorClass::Cancelled,
        }
    }

    /// Says whether the text may be shown to whoever asked for the image. What the disk said is
    /// for the operator alone.
    #[must_use]
    pub fn is_for_the_caller(&self) -> bool {
        !matches!(self, Self::Disk { .. })
    }

    pub(crate) fn disk(
        step: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Disk { step, path: path.into(), source: source.into() }
    }

    pub(crate) fn malformed(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Malformed { what: what.into(), detail: detail.into() }
    }
}
