//! What is wrong with a Dockerfile.

use thiserror::Error;

/// Says what is wrong with a Dockerfile, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("Dockerfile line {line}: {text}")]
pub struct DockerfileError {
    /// The line where the instruction begins, from 1.
    pub line: usize,
    /// What is wrong, and what to do.
    pub text: String,
}

// === impl DockerfileError ===

impl DockerfileError {
    pub(crate) fn new(line: usize, text: impl Into<String>) -> Self {
        Self { line, text: text.into() }
    }
}
