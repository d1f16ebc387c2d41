//! What can go wrong, and at which step.

use tarn_host::{SlotError, SlotId};
use tarn_types::ErrorClass;
use thiserror::Error;

/// Says that a text is no address range.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("'{text}' is no address range: write an IPv4 network from /8 to /22, as 198.18.0.0/16")]
pub struct AddressRangeError {
    pub(crate) text: String,
}

/// Says why slots cannot be had on this host.
#[derive(Debug, Error)]
pub enum SlotsStartError {
    /// The configuration asks for what cannot be.
    #[error("{0}")]
    Config(String),
    /// Every block of the address range is taken.
    #[error(
        "no free /22 in {range}: each is reserved by another tarn or used by a route of this host; \
         set another address range"
    )]
    NoAddresses {
        /// The range.
        range: String,
    },
    /// A step on the host failed.
    #[error("{step}: {detail}")]
    Step {
        /// What was being done.
        step: &'static str,
        /// What the host said.
        detail: String,
    },
}

/// A step on the host that failed, before it is known for whom.
#[derive(Debug)]
pub(crate) struct StepFailure {
    pub(crate) step: &'static str,
    pub(crate) detail: String,
}

/// Names the step of a result.
pub(crate) trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, StepFailure>;
}

// === impl SlotsStartError ===

impl SlotsStartError {
    /// Sorts the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Config(_) => ErrorClass::Invalid,
            Self::NoAddresses { .. } => ErrorClass::Unavailable,
            Self::Step { .. } => ErrorClass::Internal,
        }
    }
}

impl From<StepFailure> for SlotsStartError {
    fn from(failure: StepFailure) -> Self {
        Self::Step { step: failure.step, detail: failure.detail }
    }
}

// === impl StepFailure ===

impl StepFailure {
    /// Says whose slot it was.
    pub(crate) fn of(self, slot: SlotId) -> SlotError {
        SlotError::Step { step: self.step, slot, detail: self.detail }
    }
}

impl<T, E: std::fmt::Display> Step<T> for Result<T, E> {
    fn step(self, step: &'static str) -> Result<T, StepFailure> {
        self.map_err(|error| StepFailure { step, detail: error.to_string() })
    }
}
