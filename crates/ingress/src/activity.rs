//! What goes on between clients and each sandbox, for idle limits (spec 01 §7).
//!
//! A request counts from when it was let in, also while its sandbox sleeps, to the last byte of its
//! answer; a WebSocket or tunnel to its end. Counting costs one short lock when a request begins
//! and none when it ends.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU32, Ordering::SeqCst},
    },
};

use parking_lot::Mutex;
use tarn_route_api::{Activity, ActivityGauge};
use tarn_task::Clock;
use tarn_types::{SandboxId, UnixMillis};

/// After how many seconds without anything a sandbox is forgotten: beyond every limit that plans
/// have (spec 01 §7). A longer limit counts from the start of the sandbox then.
const FORGET_AFTER_SECS: u64 = 7 * 24 * 3600;
/// How many sandboxes are known before the first look for some to forget.
const FIRST_LOOK: usize = 1024;

/// Counts what goes through the ingress, by sandbox.
pub struct ActivityLog {
    clock: Arc<dyn Clock>,
    known: Mutex<Known>,
}

struct Known {
    sandboxes: HashMap<SandboxId, Arc<Traffic>>,
    /// At how many sandboxes the idle ones are looked for: twice what the last look left, so that
    /// a look costs each request a bounded share.
    look_at: usize,
}

/// What goes on with one sandbox.
#[derive(Debug)]
struct Traffic {
    open: AtomicU32,
    last: AtomicI64,
}

/// One request, stream or socket that is open; it ends when this is dropped.
pub(crate) struct ActivityGuard {
    clock: Arc<dyn Clock>,
    traffic: Arc<Traffic>,
}

// === impl ActivityLog ===

impl ActivityLog {
    /// Makes a log that knows nothing yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let known = Known { sandboxes: HashMap::new(), look_at: FIRST_LOOK };
        Self { clock, known: Mutex::new(known) }
    }

    /// Notes that something begins.
    pub(crate) fn begin(&self, sandbox: &SandboxId) -> ActivityGuard {
        let now = self.clock.now();
        let mut known = self.known.lock();
        let traffic = if let Some(traffic) = known.sandboxes.get(sandbox) {
            Arc::clone(traffic)
        } else {
            known.forget_idle(now);
            let traffic =
                Arc::new(Traffic { open: AtomicU32::new(0), last: AtomicI64::new(now.0) });
            known.sandboxes.insert(sandbox.clone(), Arc::clone(&traffic));
            traffic
        };
        // Under the lock, so that nobody forgets it in between.
        traffic.open.fetch_add(1, SeqCst);
        drop(known);
        traffic.touch(now);
        ActivityGuard { clock: Arc::clone(&self.clock), traffic }
    }
}

impl ActivityGauge for ActivityLog {
    fn activity(&self, sandbox: &SandboxId) -> Option<Activity> {
        let traffic = Arc::clone(self.known.lock().sandboxes.get(sandbox)?);
        // First whether something is open: what ends after that is counted as open, not as older
        // than it is.
        let open = traffic.open.load(SeqCst);
        Some(Activity { open, last: UnixMillis(traffic.last.load(SeqCst)) })
    }
}

impl fmt::Debug for ActivityLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActivityLog").finish_non_exhaustive()
    }
}

// === impl Known ===

impl Known {
    fn forget_idle(&mut self, now: UnixMillis) {
        if self.sandboxes.len() < self.look_at {
            return;
        }
        self.sandboxes.retain(|_, traffic| {
            let last = UnixMillis(traffic.last.load(SeqCst));
            traffic.open.load(SeqCst) > 0 || last.plus_secs(FORGET_AFTER_SECS) > now
        });
        self.look_at = (self.sandboxes.len() * 2).max(FIRST_LOOK);
    }
}

// === impl Traffic ===

impl Traffic {
    fn touch(&self, now: UnixMillis) {
        self.last.fetch_max(now.0, SeqCst);
    }
}

// === impl ActivityGuard ===

impl Drop for ActivityGuard {
    fn drop(&mut self) {
        // The time first: whoever sees nothing open must see when it ended.
        self.traffic.touch(self.clock.now());
        self.traffic.open.fetch_sub(1, SeqCst);
    }
}

impl fmt::Debug for ActivityGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActivityGuard").field("traffic", &self.traffic).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tarn_task::ManualClock;

    use super::*;

    fn sandbox(seed: u8) -> SandboxId {
        SandboxId::from_random([seed; 21])
    }

    fn log() -> (Arc<ManualClock>, ActivityLog) {
        let clock = Arc::new(ManualClock::at(UnixMillis(1_000)));
        (Arc::clone(&clock), ActivityLog::new(clock))
    }

    #[test]
    fn what_is_open_and_when_something_began_or_ended() {
        let (clock, log) = log();
        assert_eq!(log.activity(&sandbox(1)), None);
        let seen = |open, last| Some(Activity { open, last: UnixMillis(last) });
        let first = log.begin(&sandbox(1));
        clock.advance_millis(10);
        let second = log.begin(&sandbox(1));
        assert_eq!(log.activity(&sandbox(1)), seen(2, 1_010));
        clock.advance_millis(10);
        drop(first);
        assert_eq!(log.activity(&sandbox(1)), seen(1, 1_020));
        clock.advance_millis(10);
        drop(second);
        clock.advance_millis(10);
        assert_eq!(log.activity(&sandbox(1)), seen(0, 1_030));
        assert_eq!(log.activity(&sandbox(2)), None);
    }

    #[test]
    fn only_what_was_idle_for_long_is_forgotten() {
        let (clock, log) = log();
        let distinct = |n: usize| {
            let mut random = [0; 21];
            for (place, byte) in random.iter_mut().zip(n.to_le_bytes()) {
                *place = byte % 32;
            }
            random[8] = u8::try_from(n / 32 % 32).expect("small");
            random[9] = u8::try_from(n / 1024 % 32).expect("small");
            SandboxId::from_random(random)
        };
        let open = log.begin(&distinct(0));
        for n in 1..FIRST_LOOK {
            drop(log.begin(&distinct(n)));
        }
        let millis = i64::try_from(FORGET_AFTER_SECS * 1000).expect("a week");
        clock.advance_millis(millis - 1);
        drop(log.begin(&distinct(FIRST_LOOK)));
        assert_eq!(log.known.lock().sandboxes.len(), FIRST_LOOK + 1, "nobody was idle so long");
        clock.advance_millis(1);
        log.known.lock().look_at = 0;
        drop(log.begin(&distinct(FIRST_LOOK + 1)));
        let known = log.known.lock();
        assert_eq!(known.sandboxes.len(), 3, "the open one, the one before, and this one");
        assert_eq!(known.look_at, FIRST_LOOK);
        drop(known);
        drop(open);
    }
}
