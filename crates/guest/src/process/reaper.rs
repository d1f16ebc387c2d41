//! The one owner of child status.
//!
//! As PID 1 tarnd inherits every orphan of the sandbox, so only `waitpid(-1)` will do, and two
//! waiters would steal from each other. This task is the only one that waits; it hands each
//! status to the table, which ignores orphans. It cannot see a child before the table does:
//! starting one does not yield between `clone` and the entry in the table.

use std::{io, rc::Rc, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

use super::{End, ProcessTable};
use crate::{clock::now_ms, sys};

/// A turn of reaping; then the others have theirs. Not a number of ends, because what is not reaped
/// stays in `/proc` and makes every look at it longer: the orphans of a fork bomb must not pile up.
const TURN: Duration = Duration::from_millis(10);

/// What a turn came to.
#[derive(PartialEq, Eq)]
enum Reaped {
    All,
    Some,
}

/// Reaps until the daemon ends.
pub(crate) async fn run(table: Rc<ProcessTable>) -> io::Result<()> {
    let mut child_signals = signal(SignalKind::child())?;
    loop {
        if reap(&table) == Reaped::Some {
            tokio::task::yield_now().await;
        } else if child_signals.recv().await.is_none() {
            return Ok(());
        }
    }
}

/// Several ends may share one signal.
fn reap(table: &ProcessTable) -> Reaped {
    let start = Instant::now();
    while let Some((pid, status)) = sys::reap() {
        table.set_ended(pid, End { status, at_ms: now_ms() });
        if start.elapsed() > TURN {
            return Reaped::Some;
        }
    }
    Reaped::All
}
