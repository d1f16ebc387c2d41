//! Ending the largest process when memory has run out.
//!
//! The node calls this while it lends the sandbox memory it does not have; at the limit the
//! kernel would kill the *whole* sandbox. So nothing is spawned and little is allocated, and a
//! second call never takes a second victim while the first still dies. When it is dead its memory
//! is counted for a moment more: nobody is ended then who has little.

use std::{cell::Cell, rc::Rc, time::Duration};

use nix::unistd::Pid;
use tarn_guest_api::KilledProcess;
use tokio::time::Instant;

use super::{
    MemoryVerdict,
    census::{Origin, resident_bytes},
};
use crate::{daemon::Daemon, sys};

/// How long an answer waits for the victim's death.
const MAX_WAIT: Duration = Duration::from_millis(100);
const POLL: Duration = Duration::from_millis(2);

/// For how long after a death its memory may still be counted: in gVisor it took up to 44 ms.
const COMING_BACK: Duration = Duration::from_millis(150);

/// How long a call waits that ends nobody for that reason.
const PAUSE: Duration = Duration::from_millis(20);

/// The victim of the last call.
#[derive(Debug, Default)]
pub(crate) struct MemoryPressure {
    last: Cell<Option<KilledProcess>>,
    /// The last one whose death was seen, and when.
    dead: Cell<Option<(KilledProcess, Instant)>>,
}

/// Ends the largest process of the sandbox, and waits a moment for its death.
pub(crate) async fn relieve(daemon: &Rc<Daemon>) -> Option<KilledProcess> {
    let last = daemon.pressure.last.get();
    let dying = last.filter(|last| is_alive(daemon, last.pid));
    if let (Some(dead), None) = (last, dying) {
        note_death(daemon, dead);
    }
    let victim = match dying {
        Some(victim) => victim,
        None => match choose(daemon)? {
            Choice::End(pid, origin, victim) => {
                sys::kill(pid, libc::SIGKILL).ok()?;
                daemon.pressure.last.set(Some(victim));
                mark(daemon, pid, origin);
                victim
            }
            Choice::Wait(dead) => {
                tokio::time::sleep(PAUSE).await;
                return Some(dead);
            }
        },
    };
    for _ in 0..MAX_WAIT.as_millis() / POLL.as_millis() {
        if !is_alive(daemon, victim.pid) {
            note_death(daemon, victim);
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    Some(victim)
}

fn note_death(daemon: &Daemon, victim: KilledProcess) {
    daemon.pressure.last.set(None);
    daemon.pressure.dead.set(Some((victim, Instant::now())));
}

/// What a call comes to.
enum Choice {
    End(Pid, Origin, KilledProcess),
    /// Its memory is coming back.
    Wait(KilledProcess),
}

fn choose(daemon: &Daemon) -> Option<Choice> {
    let mut census = daemon.census.borrow_mut();
    census.refresh(&daemon.processes);
    let (rss_bytes, pid, origin) = census
        .guests()
        .filter_map(|(pid, origin)| Some((resident_bytes(pid)?, pid, origin)))
        .filter(|(rss_bytes, ..)| *rss_bytes > 0)
        .max_by_key(|(rss_bytes, ..)| *rss_bytes)?;
    match daemon.pressure.dead.get() {
        Some((dead, at)) if is_spared(rss_bytes, dead.rss_bytes, at.elapsed()) => {
            Some(Choice::Wait(dead))
        }
        Some(_) | None => {
            Some(Choice::End(pid, origin, KilledProcess { pid: pid.as_raw(), rss_bytes }))
        }
    }
}

/// Says whether the memory of one that has just died makes the end of another needless: it is
/// coming back, and the other has little beside it.
fn is_spared(rss_bytes: u64, dead_rss_bytes: u64, since_its_death: Duration) -> bool {
    since_its_death < COMING_BACK && rss_bytes < dead_rss_bytes / 4
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_small_are_spared_while_the_memory_of_a_large_one_comes_back() {
        let mib = |count: u64| count << 20;
        // (largest, the dead one, milliseconds since) -> spared
        let table = [
            (4, 345, 3, true),
            (4, 345, 149, true),
            (4, 345, 150, false),
            (86, 345, 3, true),
            (87, 345, 3, false),
            (345, 345, 0, false),
            (500, 345, 3, false),
            (4, 0, 3, false),
        ];
        for (rss, dead, since, expected) in table {
            let found = is_spared(mib(rss), mib(dead), Duration::from_millis(since));
            assert_eq!(found, expected, "{rss} MiB, {dead} MiB dead for {since} ms");
        }
    }
}
