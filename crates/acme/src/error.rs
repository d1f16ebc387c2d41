//! Why there is no certificate.

use std::{io, path::PathBuf, time::Duration};

use tarn_hook::HookError;
use tarn_tls::{AuthorityError, PairError};
use thiserror::Error;

use crate::AcmeStateError;

/// Says at which step a certificate came to nothing.
#[derive(Debug, Error)]
pub enum AcmeError {
    /// A file cannot be read or written.
    #[error("{step} {}", .path.display())]
    File {
        /// What was to be done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The state cannot be read or written.
    #[error(transparent)]
    State(#[from] AcmeStateError),
    /// There can be no connection at all.
    #[error("set up TLS to the authority")]
    Client {
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The authority refused, or was not reached.
    #[error("{step}")]
    Authority {
        /// What it was asked.
        step: &'static str,
        /// What it said.
        source: instant_acme::Error,
    },
    /// The authority offers no way of proof that we have.
    #[error("the authority does not take {kind} for {name}")]
    NoChallenge {
        /// The way that is configured.
        kind: &'static str,
        /// For which name.
        name: String,
    },
    /// The authority was not convinced.
    #[error("the authority did not find {name} to be ours by {kind}: {detail}")]
    NotProved {
        /// The way that is configured.
        kind: &'static str,
        /// Which name.
        name: String,
        /// What it saw.
        detail: String,
    },
    /// The operator's program failed.
    #[error("set the DNS record {name} by tls.acme.dns_command")]
    Hook {
        /// The record.
        name: String,
        /// Why it failed.
        source: HookError,
    },
    /// No answer to a challenge, key or request can be made.
    #[error("make {what}")]
    Make {
        /// Which.
        what: &'static str,
        /// Why not.
        source: rcgen::Error,
    },
    /// No answer to a challenge can be made.
    #[error(transparent)]
    Answer(#[from] AuthorityError),
    /// What was issued cannot be served with.
    #[error("use what was issued")]
    Unusable {
        /// Why not.
        source: PairError,
    },
    /// The authority left names out.
    #[error("what was issued is not for all names that were ordered")]
    Lacking,
    /// It all took too long.
    #[error("there was no certificate within {} s", .after.as_secs())]
    Slow {
        /// The deadline.
        after: Duration,
    },
    /// A task of ours panicked.
    #[error("a task of the order panicked")]
    Panicked,
}

/// Writes an error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(below) = cause {
        let next = below.to_string();
        // Some repeat what is below them.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = below.source();
    }
    text
}
