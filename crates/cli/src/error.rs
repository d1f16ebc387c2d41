//! Why a command failed, and with which code it exits.

use std::{io, path::PathBuf};

use thiserror::Error;

/// Says why a command failed, and what to do.
#[derive(Debug, Error)]
pub enum CliError {
    /// Nobody answers on the socket.
    #[error(
        "no tarn server runs over {}: start one with `tarn up`, or name its data directory with --data-dir or TARN_DATA_DIR",
        .data_dir.display()
    )]
    NotRunning {
        /// The data directory that was tried.
        data_dir: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The socket is another user's.
    #[error(
        "the socket {} belongs to another user: run this as the user that runs the server",
        .socket.display()
    )]
    NotAllowed {
        /// The socket.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The server said no.
    #[error("{message} ({code})")]
    Refused {
        /// The server's text.
        message: String,
        /// The server's code.
        code: String,
    },
    /// What was waited for came to nothing.
    #[error("{what}: {reason}")]
    CameToNothing {
        /// What was waited for.
        what: String,
        /// What the server says about it.
        reason: String,
    },
    /// The connection broke, or the answer made no sense.
    #[error("the server did not answer as it should: {reason}; its log may say more")]
    BadAnswer {
        /// What was wrong.
        reason: String,
    },
    /// The input could not be read.
    #[error("stdin cannot be read as text")]
    Input {
        /// What the kernel said.
        source: io::Error,
    },
    /// What should come by stdin would have to be typed.
    #[error("give the {what} on stdin, such as by `{example}`: a terminal would show it")]
    InputFromTerminal {
        /// What should come.
        what: &'static str,
        /// How it is given.
        example: &'static str,
    },
    /// Nothing came by stdin.
    #[error("stdin is empty, so there is no {what}; nothing was changed")]
    NoInput {
        /// What should have come.
        what: &'static str,
    },
    /// The output could not be written.
    #[error("stdout cannot be written")]
    Output {
        /// What the kernel said.
        source: io::Error,
    },
}

// === impl CliError ===

impl CliError {
    /// Returns the code to exit with: 1 = the server said no, 3 = no server, 4 = anything else.
    /// (0 is success and 2 is clap's, for a wrong command line.)
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } | Self::CameToNothing { .. } => 1,
            Self::NotRunning { .. } | Self::NotAllowed { .. } => 3,
            Self::BadAnswer { .. }
            | Self::Input { .. }
            | Self::InputFromTerminal { .. }
            | Self::NoInput { .. }
            | Self::Output { .. } => 4,
        }
    }
}
