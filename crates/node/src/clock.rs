//! What happens to a sandbox as time passes: its limits, its idle time, and what is tried again.

use std::time::Duration;

use tarn_lifecycle::{Limit, limit};
use tarn_types::{EndCause, Generation, UnixMillis};
use tokio::time::Instant;

use crate::{
    adopt::seek_pause,
    ledger::{Durability, Entry, State},
    sandbox::{Past, SandboxTask},
    start::chain,
    suspend::Why,
};

/// How long the task sleeps at most before it looks at the wall clock again: limits are wall-clock
/// times, and that clock may jump.
const TICK: Duration = Duration::from_secs(2);

/// How long a failed clean-up rests before the next try.
const CLEAN_RETRY: Duration = Duration::from_secs(2);

/// How often a sandbox's idle time is written down.
const IDLE_SAVES: Duration = Duration::from_secs(20);

// === impl SandboxTask ===

impl SandboxTask {
    /// Looks at the clock, and for the sandbox where that is still to be found.
    pub(crate) async fn look(&mut self) {
        if let Past::Sought { tries, .. } = self.past {
            self.seek(tries).await;
        }
        let now = self.shared.parts.clock.now();
        if let Some(since) = self.entry.orphaned {
            if now >= since.plus_secs(self.shared.config.orphan_grace_secs) && !self.is_ended() {
                tracing::warn!(sandbox.id = %self.entry.id, "an orphaned sandbox is removed after its grace");
                self.end(EndCause::NodeLost).await;
                // Nobody will ever say so: there is no record of it.
                self.handle.want(|wanted| wanted.forget = Some(Generation(u64::MAX)));
            }
            return;
        }
        if !self.is_ended() && self.ends_at().is_some_and(|ends| now >= ends) {
            self.end(EndCause::TimedOut).await;
        }
        if self.unsaved {
            self.save(Durability::Synced).await;
        }
        if self.past == Past::Settled {
            self.let_go().await;
        }
        self.drop_warm_if_over().await;
        let State::Running { since } = self.entry.state else { return };
        match limit(&self.entry.launch, since) {
            Limit::SuspendsWhenIdle { secs }
                if self.is_idle(secs) && self.past == Past::Settled =>
            {
                tracing::info!(sandbox.id = %self.entry.id, timeout_secs = secs, "a sandbox is idle");
                self.suspend(self.entry.generation, Why::Idle { secs }).await;
            }
            Limit::SuspendsWhenIdle { .. } => self.save_idle().await,
            Limit::SuspendsAt(at) if now >= at && self.may_suspend() => {
                tracing::info!(sandbox.id = %self.entry.id, "a claimed sandbox is at its limit");
                self.suspend(self.entry.generation, Why::Limit).await;
            }
            Limit::None | Limit::EndsAt(_) | Limit::SuspendsAt(_) => {}
        }
    }

    /// Writes down from time to time how long it has been idle, for the next server.
    async fn save_idle(&mut self) {
        let idle = self.idle_ms().unwrap_or(0);
        let due = self.idle_saved.is_none_or(|at| at.elapsed() >= IDLE_SAVES);
        if due && idle != self.entry.idle_ms {
            self.idle_saved = Some(Instant::now());
            let entry = Entry { idle_ms: idle, ..self.entry.clone() };
            if self.adopted_at.is_none() {
                self.entry.idle_ms = idle;
            }
            if let Err(bad) = self.shared.write(entry, Durability::Written).await {
                tracing::warn!(sandbox.id = %self.entry.id, error = chain(&bad), "the idle time is not written down");
            }
        }
    }

    pub(crate) fn next_look(&self) -> Duration {
        match self.past {
            Past::Settled => {}
            Past::Sought { tries, .. } => return seek_pause(tries).min(self.until_end()),
            Past::HalfBuilt | Past::Unclean | Past::Dormant => return CLEAN_RETRY,
        }
        if self.entry.orphaned.is_some() || self.is_ended() {
            return TICK;
        }
        self.until_end().min(TICK)
    }

    fn until_end(&self) -> Duration {
        let now = self.shared.parts.clock.now();
        self.ends_at().map_or(Duration::MAX, |ends| Duration::from_millis(ends.millis_since(now)))
    }

    fn ends_at(&self) -> Option<UnixMillis> {
        let State::Running { since } = self.entry.state else { return None };
        match limit(&self.entry.launch, since) {
            Limit::EndsAt(at) => Some(at),
            Limit::None | Limit::SuspendsAt(_) | Limit::SuspendsWhenIdle { .. } => None,
        }
    }
}
