//! One wake for all the requests that wait for a sleeping sandbox.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tarn_types::SandboxId;
use tokio::time::Instant;

/// After how long a sandbox that still sleeps is woken again, while somebody waits for it: its
/// resume failed, or could not be asked for.
const AGAIN: Duration = Duration::from_secs(5);
const AGAIN_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The part of all that may wait which may wait for one sandbox: whoever asks one that sleeps again
/// and again shall not fill the places of the others.
const SHARE: usize = 16;

/// Knows which sandboxes are being woken. Cheap to clone; clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Wakes {
    table: Arc<Mutex<HashMap<SandboxId, Wake>>>,
    /// How many may wait for one sandbox.
    each: usize,
}

#[derive(Debug)]
struct Wake {
    waiters: usize,
    next: Instant,
}

/// One who waits; the last one's end forgets the sandbox.
#[derive(Debug)]
pub(crate) struct Waiter {
    wakes: Wakes,
    sandbox: SandboxId,
}

/// What a waiter of a sleeping sandbox does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It wakes it. If that comes to nothing, it is time again then.
    Wake(Instant),
    /// Somebody else has; if that comes to nothing, it is time again then.
    Wait(Instant),
}

// === impl Wakes ===

impl Wakes {
    /// Makes room for so many who wait, for all sandboxes together.
    pub(crate) fn for_all(waiters: usize) -> Self {
        Self { table: Arc::default(), each: (waiters / SHARE).max(1) }
    }

    /// Joins those who wait for a sandbox; `None` when they are too many already.
    pub(crate) fn join(&self, sandbox: &SandboxId) -> Option<Waiter> {
        let mut wakes = self.table.lock();
        let first = || Wake { waiters: 0, next: Instant::now() };
        let wake = wakes.entry(sandbox.clone()).or_insert_with(first);
        if wake.waiters >= self.each {
            return None;
        }
        wake.waiters += 1;
        Some(Waiter { wakes: self.clone(), sandbox: sandbox.clone() })
    }
}

// === impl Waiter ===

impl Waiter {
    /// Says whose turn it is; the one whose turn it is has it for a while.
    pub(crate) fn turn(&self) -> Turn {
        let mut wakes = self.wakes.table.lock();
        let now = Instant::now();
        match wakes.get_mut(&self.sandbox) {
            Some(wake) if wake.next > now => Turn::Wait(wake.next),
            Some(wake) => {
                wake.next = now + AGAIN;
                Turn::Wake(wake.next)
            }
            None => Turn::Wake(now + AGAIN),
        }
    }

    /// Notes that the wake could not be asked for; returns when it is time again.
    pub(crate) fn failed(&self) -> Instant {
        let next = Instant::now() + AGAIN_AFTER_FAILURE;
        if let Some(wake) = self.wakes.table.lock().get_mut(&self.sandbox) {
            wake.next = next;
        }
        next
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut wakes = self.wakes.table.lock();
        let Some(wake) = wakes.get_mut(&self.sandbox) else { return };
        wake.waiters -= 1;
        if wake.waiters == 0 {
            wakes.remove(&self.sandbox);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(seed: u8) -> SandboxId {
        SandboxId::from_random([seed; 21])
    }

    fn is_turn(waiter: &Waiter) -> bool {
        match waiter.turn() {
            Turn::Wake(_) => true,
            Turn::Wait(_) => false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_many_has_the_turn_and_again_only_after_a_while() {
        let wakes = Wakes::for_all(16 * 50);
        let waiters: Vec<_> = (0..50).filter_map(|_| wakes.join(&sandbox(1))).collect();
        let turns = || waiters.iter().filter(|waiter| is_turn(waiter)).count();
        assert_eq!(turns(), 1);
        let other = wakes.join(&sandbox(2)).expect("there is room");
        assert!(is_turn(&other), "another sandbox is another turn");
        tokio::time::advance(AGAIN / 2).await;
        assert_eq!(turns(), 0);
        tokio::time::advance(AGAIN / 2).await;
        assert_eq!(turns(), 1);
        let next = waiters[0].failed();
        assert_eq!(next - Instant::now(), AGAIN_AFTER_FAILURE);
        tokio::time::advance(AGAIN_AFTER_FAILURE).await;
        assert_eq!(turns(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_who_waits_leaves_nothing() {
        let wakes = Wakes::for_all(16 * 50);
        let join = || wakes.join(&sandbox(1)).expect("there is room");
        let (first, second) = (join(), join());
        assert!(is_turn(&first));
        drop(first);
        assert!(!is_turn(&second));
        drop(second);
        assert!(wakes.table.lock().is_empty());
        assert!(is_turn(&join()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sixteenth_of_all_may_wait_for_one_sandbox() {
        for (all, each) in [(0, 1), (1, 1), (16, 1), (31, 1), (32, 2), (4096, 256)] {
            let wakes = Wakes::for_all(all);
            let mut waiters: Vec<_> = (0..each).map(|_| wakes.join(&sandbox(1))).collect();
            assert!(waiters.iter().all(Option::is_some), "{all}");
            assert!(wakes.join(&sandbox(1)).is_none(), "{all}");
            assert!(wakes.join(&sandbox(2)).is_some(), "{all}");
            drop(waiters.pop());
            assert!(wakes.join(&sandbox(1)).is_some(), "{all}: one has gone");
        }
    }
}
