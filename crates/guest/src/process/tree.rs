//! Killing everything that came from one start.
//!
//! The leader goes first, as its end is what callers wait for. The others are stopped before they
//! are killed: a fork bomb outruns any number of kills, but stopped processes fork nothing, so
//! rounds of "look, stop the new ones" end. Signals go to whole groups: one call reaches all who
//! are in it at that moment, where one process after the other is gone before its turn comes. Both
//! kernels deliver signals with some delay, so afterwards we look again until nobody is left.

use std::{collections::HashSet, rc::Rc, time::Duration};

use nix::unistd::{Pid, getpgid, getpgrp};

use super::census::Origin;
use crate::{daemon::Daemon, sys};

/// Rounds of stopping; a tree that still grows is killed as it is, and again.
const MAX_STOP_ROUNDS: usize = 32;

/// Glances at a tree that is larger than one; one that grows faster is looked at as it is.
const MAX_GLANCES: usize = 32;

/// Looking again: at first at once, then at leisure, for ten seconds in all.
const FIRST_CHECK: Duration = Duration::from_millis(1);
const LAST_CHECK: Duration = Duration::from_millis(100);
const MAX_CHECKS: usize = 110;

const SIGNALS_AT_ONCE: usize = 16;

/// Asks everything of an origin to end: its group, and those who have left the group.
pub(crate) fn terminate(daemon: &Daemon, origin: Origin, leader: Pid) {
    daemon.census.borrow_mut().forget_the_gone();
    let outside: Vec<Pid> = members(daemon, origin)
        .into_iter()
        .filter(|pid| getpgid(Some(*pid)).is_ok_and(|group| group != leader))
        .collect();
    // Gone already is fine, here and below.
    _ = sys::kill_group(leader, libc::SIGTERM);
    for pid in outside {
        _ = sys::kill(pid, libc::SIGTERM);
    }
}

/// Waits until nobody of an origin is left.
pub(crate) async fn wait_empty(daemon: &Daemon, origin: Origin) {
    let mut pause = FIRST_CHECK;
    while !members(daemon, origin).is_empty() {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_CHECK);
    }
}

/// Kills everything of an origin; returns when nobody is left, or after about ten seconds.
pub(crate) async fn kill(daemon: &Rc<Daemon>, origin: Origin) {
    kill_leader(daemon, origin).await;
    // A pid may have changed hands since it was looked at.
    forget_the_gone(daemon).await;
    stop_all(daemon, origin).await;
    let mut killed = HashSet::new();
    let mut pause = FIRST_CHECK;
    for _ in 0..MAX_CHECKS {
        let is_whole = look(daemon).await;
        let left = daemon.census.borrow().of(origin);
        // Its zombies are ours to reap as soon as their parents, which are of it too, are gone.
        if left.is_empty() && is_whole {
            return;
        }
        let new: Vec<Pid> = left.into_iter().filter(|pid| killed.insert(*pid)).collect();
        signal_groups(&new, libc::SIGKILL).await;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_CHECK);
    }
}

/// Before anybody is stopped: a group whose members stand still is hung up by the kernel when
/// their parents go, and that must not become the leader's end.
async fn kill_leader(daemon: &Daemon, origin: Origin) {
    let Origin::Started(handle) = origin else { return };
    let Some(leader) = daemon.processes.by_handle(handle).filter(|found| found.is_running()) else {
        return;
    };
    // Its children are known by their parent only as long as it is there.
    look(daemon).await;
    // Gone already is fine.
    _ = sys::kill(leader.pid(), libc::SIGKILL);
    // One call stops most of a fork bomb, which leaves time to look for the rest. The number is
    // the group's for sure only now: later the leader may have been reaped.
    _ = sys::kill_group(leader.pid(), libc::SIGSTOP);
    tokio::task::yield_now().await;
}

/// Signals the groups that these are in. A group is part of a session, and every start begins one
/// of its own, so nobody else is in it.
///
/// Lets others have their turn in between, the reaper above all: where processors are few, the
/// dying take theirs.
async fn signal_groups(pids: &[Pid], signal: i32) {
    let mut done = HashSet::from([getpgrp()]);
    for some in pids.chunks(SIGNALS_AT_ONCE) {
        for pid in some {
            // Gone already is fine, here and below.
            if let Ok(group) = getpgid(Some(*pid))
                && done.insert(group)
            {
                _ = sys::kill_group(group, signal);
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn stop_all(daemon: &Daemon, origin: Origin) {
    let mut stopped = HashSet::new();
    for _ in 0..MAX_STOP_ROUNDS {
        let is_whole = look(daemon).await;
        let found = daemon.census.borrow().of(origin);
        let new: Vec<Pid> = found.into_iter().filter(|pid| stopped.insert(*pid)).collect();
        // A single process needs no second look: the checks after its death find any child.
        if is_whole && (new.is_empty() || stopped.len() == 1) {
            return;
        }
        signal_groups(&new, libc::SIGSTOP).await;
    }
}

/// Learns of new processes, a few at a time: a bomb may have a thousand, and others wait. Says
/// whether all are known then.
async fn look(daemon: &Daemon) -> bool {
    for _ in 0..MAX_GLANCES {
        let glance = daemon.census.borrow_mut().glance(&daemon.processes);
        tokio::task::yield_now().await;
        if glance.is_whole {
            return true;
        }
    }
    false
}

/// Forgets whom a known pid does not mean any more, a few at a time.
async fn forget_the_gone(daemon: &Daemon) {
    let known = daemon.census.borrow().known_pids();
    for some in known.chunks(SIGNALS_AT_ONCE) {
        daemon.census.borrow_mut().forget_the_gone_of(some);
        tokio::task::yield_now().await;
    }
}

fn members(daemon: &Daemon, origin: Origin) -> Vec<Pid> {
    let mut census = daemon.census.borrow_mut();
    census.refresh(&daemon.processes);
    census.of(origin)
}
