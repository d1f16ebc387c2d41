//! A failed step on the host: what was done, on what, and what the host said.

use std::{
    io,
    path::{Path, PathBuf},
};

use tarn_host::{CaptureError, LayerError};
use tarn_types::ErrorClass;
use thiserror::Error;

/// Says which step on the host failed.
#[derive(Debug, Error)]
#[error("{step} {path}")]
pub struct HostStepError {
    /// What was being done, such as "mount".
    pub step: &'static str,
    /// On what.
    pub path: PathBuf,
    /// What the host said.
    #[source]
    pub source: io::Error,
}

/// Names the step when the host refuses it.
pub(crate) trait StepContext<T> {
    /// Turns the host's answer into an error that names the step and its object.
    fn step(self, step: &'static str, path: &Path) -> Result<T, HostStepError>;
}

// === impl HostStepError ===

impl HostStepError {
    /// Makes an error of a step from what the host said.
    pub(crate) fn new(step: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self { step, path: path.to_owned(), source: source.into() }
    }

    /// Sorts the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        ErrorClass::Internal
    }
}

impl From<HostStepError> for LayerError {
    fn from(error: HostStepError) -> Self {
        Self::Step { step: error.step, path: error.path, source: error.source }
    }
}

impl From<HostStepError> for CaptureError {
    fn from(error: HostStepError) -> Self {
        Self::Step { step: error.step, path: error.path, source: error.source }
    }
}

impl<T, E: Into<io::Error>> StepContext<T> for Result<T, E> {
    fn step(self, step: &'static str, path: &Path) -> Result<T, HostStepError> {
        self.map_err(|source| HostStepError::new(step, path, source))
    }
}

/// Writes an error with its causes, for a log line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
