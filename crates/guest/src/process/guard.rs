//! The bound on the number of processes, second line.
//!
//! The first line is the kernel's, where it offers one ([`super::PidsGroup`]). This task is for
//! kernels that don't: one process too many on the host and the *whole sandbox* dies there, so
//! the tree that is the most numerous dies here first. It wins against accidents, not against a
//! bomb of root's on a busy machine, which leaves it no processor time to act in.

use std::{collections::HashMap, rc::Rc, time::Duration};

use super::{census::Origin, tree};
use crate::daemon::Daemon;

/// Without a bound in the kernel, a fork bomb makes a hundred processes in this time.
const INTERVAL_ALONE: Duration = Duration::from_millis(50);

/// With one, looking only keeps the census fresh; at 0.5 s it cost 0.25 % of a core in gVisor.
const INTERVAL_SECOND_LINE: Duration = Duration::from_secs(2);

/// Watches until the daemon ends; sleeps while the sandbox is empty.
pub(crate) async fn run(daemon: Rc<Daemon>, max_processes: usize) {
    // With a bound in the kernel, a full sandbox is told so by `fork`, and that is enough: only
    // processes that have left the group can be more, and the host has room for a few.
    let (interval, bound) = if daemon.has_pids_group() {
        (INTERVAL_SECOND_LINE, max_processes.saturating_add(max_processes / 4 + 16))
    } else {
        (INTERVAL_ALONE, max_processes)
    };
    loop {
        let count = look(&daemon);
        if count > bound {
            kill_most_numerous(&daemon, max_processes).await;
        } else if count == 0 && daemon.processes.running() == 0 {
            daemon.started.notified().await;
        }
        tokio::time::sleep(interval).await;
    }
}

/// Counts the processes, and learns of new ones.
fn look(daemon: &Daemon) -> usize {
    let mut census = daemon.census.borrow_mut();
    if daemon.has_pids_group() {
        return census.glance(&daemon.processes).processes;
    }
    census.refresh(&daemon.processes);
    census.guest_count()
}

async fn kill_most_numerous(daemon: &Rc<Daemon>, max_processes: usize) {
    let mut counts: HashMap<Origin, usize> = HashMap::new();
    daemon.census.borrow_mut().refresh(&daemon.processes);
    for (_, origin) in daemon.census.borrow().guests() {
        *counts.entry(origin).or_default() += 1;
    }
    let Some((origin, _)) = counts.into_iter().max_by_key(|(_, count)| *count) else { return };
    if let Origin::Started(handle) = origin
        && let Some(process) = daemon.processes.by_handle(handle)
    {
        process
            .note(&format!("[tarn: killed: more than {max_processes} processes in this sandbox]"));
    }
    tree::kill(daemon, origin).await;
}
