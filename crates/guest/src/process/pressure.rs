//! Ending the largest process when memory has run out.
//!
//! The node calls this while it lends the sandbox memory it does not have; at the limit the
//! kernel would kill the *whole* sandbox. So nothing is spawned and little is allocated, and a
//! second call never takes a second victim while the first still dies.

use std::{cell::Cell, rc::Rc, time::Duration};

use nix::unistd::Pid;
use tarn_guest_api::KilledProcess;

use super::{
    MemoryVerdict,
    census::{Origin, resident_bytes},
};
use crate::{daemon::Daemon, sys};

/// How long an answer waits for the victim's death.
const MAX_WAIT: Duration = Duration::from_millis(100);
const POLL: Duration = Duration::from_millis(2);

/// The victim of the last call.
#[derive(Debug, Default)]
pub(crate) struct MemoryPressure {
    last: Cell<Option<KilledProcess>>,
}

/// Ends the largest process of the sandbox, and waits a moment for its death.
pub(crate) async fn relieve(daemon: &Rc<Daemon>) -> Option<KilledProcess> {
    let dying = daemon.pressure.last.get().filter(|last| is_alive(daemon, last.pid));
    let victim = match dying {
        Some(victim) => victim,
        None => kill_largest(daemon)?,
    };
    for _ in 0..MAX_WAIT.as_millis() / POLL.as_millis() {
        if !is_alive(daemon, victim.pid) {
            daemon.pressure.last.set(None);
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    Some(victim)
}

fn kill_largest(daemon: &Daemon) -> Option<KilledProcess> {
    let mut census = daemon.census.borrow_mut();
    census.refresh(&daemon.processes);
    let (rss_bytes, pid, origin) = census
        .guests()
        .filter_map(|(pid, origin)| Some((resident_bytes(pid)?, pid, origin)))
        .filter(|(rss_bytes, ..)| *rss_bytes > 0)
        .max_by_key(|(rss_bytes, ..)| *rss_bytes)?;
    sys::kill(pid, libc::SIGKILL).ok()?;
    let victim = KilledProcess { pid: pid.as_raw(), rss_bytes };
    daemon.pressure.last.set(Some(victim));
    mark(daemon, pid, origin);
    Some(victim)
}

/// Tells the process that was started, or the one that the victim descends from.
fn mark(daemon: &Daemon, pid: Pid, origin: Origin) {
    let Origin::Started(handle) = origin else { return };
    let Some(process) = daemon.processes.by_handle(handle) else { return };
    let verdict =
        if process.pid() == pid { MemoryVerdict::Killed } else { MemoryVerdict::DescendantKilled };
    process.set_memory_verdict(verdict);
}

fn is_alive(daemon: &Daemon, pid: i32) -> bool {
    daemon.census.borrow_mut().is_alive(Pid::from_raw(pid))
}
