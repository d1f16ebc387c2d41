//! One line on stderr that says for what and how long a command has been waiting.
//!
//! Only on a terminal: in a log it would be noise.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use tokio::time::Instant;

/// How long is slept between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// A line that is written over and over, and gone at the end.
#[derive(Debug)]
pub(crate) struct Progress {
    what: String,
    begun: Instant,
    shown: bool,
}

// === impl Progress ===

impl Progress {
    /// Begins to wait for something.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), begun: Instant::now(), shown: false }
    }

    /// Shows where things are, and returns after a pause.
    pub(crate) async fn pause(&mut self, status: &str) {
        let mut stderr = io::stderr();
        if stderr.is_terminal() {
            self.shown = true;
            let secs = self.begun.elapsed().as_secs();
            // A terminal that cannot be written to is no reason to give up.
            drop(write!(stderr, "\r\x1b[K{}: {status}, {secs} s", self.what));
            drop(stderr.flush());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            drop(write!(io::stderr(), "\r\x1b[K"));
        }
    }
}
