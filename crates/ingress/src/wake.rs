//! One wake for all the requests that wait for a sleeping sandbox.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tarn_types::SandboxId;
use tokio::time::Instant;

/// After how long a sandbox that still sleeps is woken again, while somebody waits for it: its
/// resume failed, or could not be asked for.
const AGAIN: Duration = Duration::from_secs(5);
const AGAIN_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Knows which sandboxes are being woken. Cheap to clone; clones share everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wakes(Arc<Mutex<HashMap<SandboxId, Wake>>>);

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
    /// Joins those who wait for a sandbox.
    pub(crate) fn join(&self, sandbox: &SandboxId) -> Waiter {
        let mut wakes = self.0.lock();
        let first = || Wake { waiters: 0, next: Instant::now() };
        wakes.entry(sandbox.clone()).or_insert_with(first).waiters += 1;
        Waiter { wakes: self.clone(), sandbox: sandbox.clone() }
    }
}

// === impl Waiter ===

impl Waiter {
    /// Says whose turn it is; the one whose turn it is has it for a while.
    pub(crate) fn turn(&self) -> Turn {
        let mut wakes = self.wakes.0.lock();
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
        if let Some(wake) = self.wakes.0.lock().get_mut(&self.sandbox) {
            wake.next = next;
        }
        next
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut wakes = self.wakes.0.lock();
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
        let wakes = Wakes::default();
        let waiters: Vec<_> = (0..50).map(|_| wakes.join(&sandbox(1))).collect();
        let turns = || waiters.iter().filter(|waiter| is_turn(waiter)).count();
        assert_eq!(turns(), 1);
        assert!(is_turn(&wakes.join(&sandbox(2))), "another sandbox is another turn");
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
        let wakes = Wakes::default();
        let (first, second) = (wakes.join(&sandbox(1)), wakes.join(&sandbox(1)));
        assert!(is_turn(&first));
        drop(first);
        assert!(!is_turn(&second));
        drop(second);
        assert!(wakes.0.lock().is_empty());
        assert!(is_turn(&wakes.join(&sandbox(1))));
    }
}
