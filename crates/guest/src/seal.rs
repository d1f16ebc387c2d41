//! Standing aside while the sandbox's memory is written down, and until it is known who goes on.
//!
//! ```text
//!            seal                 unseal: itself
//!   open ──────────▶ sealed ─────────────────────────────▶ open: held requests go on
//!                    requests     unseal: suspended, copy
//!                    are held ───────────────────────────▶ open, in the next era: connections
//!                                                          of an earlier one are dropped
//! ```
//!
//! What is held is a request whose head was read, one a connection, so the bounds on connections
//! bound it. Dropping a connection drops its future, and with that all it has under way: the
//! answer, both halves of a tunnel, the visit at a terminal, an upload and its file.
//!
//! The time from seal to unseal is none to the sandbox: for most of it it did not exist. gVisor's
//! monotonic clock jumps ahead by it, so limits that a user sets are measured by [`Seal::pass`].

use std::{cell::Cell, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::clock::{STEP, TOLERANCE};

/// Whether requests are begun, and for which connections.
pub(crate) struct Seal {
    state: watch::Sender<State>,
    booted: Instant,
}

/// The time between two unseals that end connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Era(u64);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    sealed_at: Option<Instant>,
    era: Era,
    /// How long it was sealed, all times before this one together.
    stood: Duration,
}

// === impl Seal ===

impl Default for Seal {
    fn default() -> Self {
        Self { state: watch::channel(State::default()).0, booted: Instant::now() }
    }
}

impl Seal {
    /// Holds requests from now on.
    pub(crate) fn close(&self) {
        self.state.send_modify(|state| {
            state.sealed_at.get_or_insert_with(Instant::now);
        });
    }

    /// Begins requests again, the held ones too.
    pub(crate) fn open(&self) {
        self.state.send_modify(State::open);
    }

    /// Begins requests again, but drops every connection so far except one.
    pub(crate) fn open_for(&self, survivor: &Cell<Era>) {
        self.state.send_modify(|state| {
            state.open();
            state.era.0 += 1;
            survivor.set(state.era);
        });
    }

    /// Returns whether requests are held.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.borrow().sealed_at.is_some()
    }

    /// Returns the era that a connection accepted now belongs to.
    pub(crate) fn era(&self) -> Era {
        self.state.borrow().era
    }

    /// Waits until requests are begun.
    pub(crate) async fn opened(&self) {
        self.reached(|state| state.sealed_at.is_none()).await;
    }

    /// Waits until a connection is to be dropped.
    pub(crate) async fn outlived(&self, era: &Cell<Era>) {
        self.reached(|state| state.era > era.get()).await;
    }

    /// Waits for a time that runs neither while requests are held nor while the sandbox stands
    /// still without that, as one does that is frozen: measured in steps, of which one that took
    /// much too long counts as what it was to take.
    pub(crate) async fn pass(&self, duration: Duration) {
        let mut end = self.unsealed_time().saturating_add(duration);
        loop {
            // The clock may have jumped, so the end of a sleep says little.
            self.opened().await;
            let now = self.unsealed_time();
            let left = end.saturating_sub(now);
            if left.is_zero() {
                return;
            }
            let step = left.min(STEP);
            sleep(step).await;
            let late = self.unsealed_time().saturating_sub(now.saturating_add(step));
            if late > TOLERANCE {
                end = end.saturating_add(late);
            }
        }
    }

    fn unsealed_time(&self) -> Duration {
        let state = *self.state.borrow();
        let until = state.sealed_at.unwrap_or_else(Instant::now);
        until.duration_since(self.booted).saturating_sub(state.stood)
    }

    async fn reached(&self, wanted: impl FnMut(&State) -> bool) {
        // An error would say that the sender is gone, and that is us.
        drop(self.state.subscribe().wait_for(wanted).await);
    }
}

// === impl State ===

impl State {
    fn open(&mut self) {
        if let Some(sealed_at) = self.sealed_at.take() {
            self.stood += sealed_at.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin};

    use tokio::time::{advance, timeout};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// Polls without letting time pass.
    async fn is_ready(wait: impl Future<Output = ()>) -> bool {
        timeout(Duration::ZERO, wait).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn requests_wait_while_it_is_sealed() {
        let seal = Seal::default();
        assert!(is_ready(seal.opened()).await && !seal.is_closed());
        seal.close();
        let mut held = pin!(seal.opened());
        assert!(!is_ready(held.as_mut()).await && seal.is_closed());
        seal.close();
        seal.open();
        assert!(is_ready(held).await && !seal.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn connections_end_with_their_era_except_the_one_that_ended_it() {
        let seal = Seal::default();
        let (old, survivor) = (Cell::new(seal.era()), Cell::new(seal.era()));
        seal.close();
        let sealed = Cell::new(seal.era());
        seal.open();
        for era in [&old, &survivor, &sealed] {
            assert!(!is_ready(seal.outlived(era)).await, "itself goes on");
        }
        seal.close();
        seal.open_for(&survivor);
        let new = Cell::new(seal.era());
        assert!(is_ready(seal.outlived(&old)).await && is_ready(seal.outlived(&sealed)).await);
        assert!(!is_ready(seal.outlived(&survivor)).await);
        assert!(!is_ready(seal.outlived(&new)).await);
        seal.open_for(&new);
        assert!(is_ready(seal.outlived(&survivor)).await, "it ends with the next one");
    }

    #[tokio::test(start_paused = true)]
    async fn time_stands_still_while_it_is_sealed() {
        let seal = Seal::default();
        let mut limit = pin!(seal.pass(secs(60)));
        assert!(timeout(secs(10), limit.as_mut()).await.is_err());
        for _ in 0..2 {
            seal.close();
            advance(HOUR).await;
            assert!(!is_ready(limit.as_mut()).await, "not before it is unsealed");
            seal.open();
        }
        let begun = Instant::now();
        limit.await;
        let took = begun.elapsed();
        assert!(took >= secs(49) && took <= secs(51), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_freeze_without_a_seal_is_no_time_either() {
        let seal = Seal::default();
        let mut limit = pin!(seal.pass(secs(60)));
        assert!(timeout(secs(10), limit.as_mut()).await.is_err());
        advance(HOUR).await;
        assert!(!is_ready(limit.as_mut()).await, "it stood still");
        let begun = Instant::now();
        limit.await;
        let took = begun.elapsed();
        assert!(took >= secs(29) && took <= secs(50), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_begins_under_seal_begins_with_the_unseal() {
        let seal = Seal::default();
        seal.close();
        let mut limit = pin!(seal.pass(secs(5)));
        assert!(timeout(HOUR, limit.as_mut()).await.is_err());
        seal.open();
        assert!(timeout(secs(4), limit.as_mut()).await.is_err());
        assert!(timeout(secs(2), limit).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_clock_is_kept() {
        let seal = Seal::default();
        for ms in [0, 1, 1500, 600_000] {
            let (begun, duration) = (Instant::now(), Duration::from_millis(ms));
            seal.pass(duration).await;
            let late = begun.elapsed() - duration;
            assert!(late < Duration::from_millis(5), "{ms}: {late:?} late");
        }
    }
}
