//! The one owner of child status.
//!
//! As PID 1 tarnd inherits every orphan of the sandbox, so only `waitpid(-1)` will do, and two
//! waiters would steal from each other. This task is the only one that waits; it hands each
//! status to the table, which ignores orphans. It cannot see a child before the table does:
//! starting one does not yield between `clone` and the entry in the table.

use std::{io, rc::Rc};

use tokio::signal::unix::{SignalKind, signal};

use super::{End, ProcessTable};
use crate::{clock::now_ms, sys};

/// Reaps until the daemon ends.
pub(crate) async fn run(table: Rc<ProcessTable>) -> io::Result<()> {
    let mut child_signals = signal(SignalKind::child())?;
    loop {
        // Several ends may share one signal.
        while let Some((pid, status)) = sys::reap() {
            table.set_ended(pid, End { status, at_ms: now_ms() });
        }
        if child_signals.recv().await.is_none() {
            return Ok(());
        }
    }
}
