//! Watches one running sandbox: its end, and its memory.

use std::{io, time::Duration};

use tarn_runtime::{RuntimeEvent, RuntimeExit};
use tarn_task::Tasks;
use tarn_types::SandboxId;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tracing::{info, warn};

use crate::{
    cgroup::{MemoryAlarm, SandboxCgroup},
    limits::MemoryBounds,
    pressure::{LOAN, NewLimit, Round, Then},
    process::{self, Process},
};

/// How long the helpers of a dead sentry may take to follow it; they take milliseconds.
const SWEEP: Duration = Duration::from_secs(5);

/// How long lowering the limit may take: page cache must be written down and pushed out first.
const LOWERING: Duration = Duration::from_secs(5);
const LOWERING_PAUSE: Duration = Duration::from_millis(50);

/// How soon what could not be read is read again.
const READ_PAUSE: Duration = Duration::from_millis(100);

/// How often a sandbox without an alarm is looked at, and an alarm is tried for again.
const ALARM_PAUSE: Duration = Duration::from_secs(1);

/// Other bounds for the memory of a sandbox that is watched.
#[derive(Debug)]
pub(crate) struct Rebound {
    pub(crate) bounds: MemoryBounds,
    /// Who wants to know; without them nothing is changed.
    pub(crate) told: oneshot::Sender<Result<(), ReboundError>>,
}

/// Why the bounds stay what they were.
#[derive(Debug)]
pub(crate) enum ReboundError {
    /// So many bytes are needed, page cache aside.
    InUse(u64),
    /// The host refused.
    Host(io::Error),
}

/// Everything one watch needs.
pub(crate) struct Watch {
    pub(crate) id: SandboxId,
    pub(crate) sentry: Process,
    pub(crate) cgroup: SandboxCgroup,
    pub(crate) bounds: MemoryBounds,
    /// What the bounds are to be.
    pub(crate) wishes: mpsc::Receiver<Rebound>,
    /// Whether every process stands still.
    pub(crate) still: watch::Receiver<bool>,
    pub(crate) events: mpsc::Sender<RuntimeEvent>,
    pub(crate) tasks: Tasks,
}

/// Whether every process is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Still {
    Yes,
    No,
}

/// A round, and when it was first looked at: what it remembers is counted from then on.
#[derive(Debug, Default)]
struct Bout {
    round: Round,
    began: Option<Instant>,
}

/// How a bout of pressure ended.
enum RoundEnd {
    /// All that was lent is back.
    Calm,
    /// Not at all: every process is paused.
    Still,
    SentryEnded,
    Lost,
    /// Somebody wants other bounds, also while it lasts.
    Wish(Rebound),
}

// === impl Watch ===

impl Watch {
    /// Watches until the sandbox ends, and reports that; or until the server stops.
    ///
    /// May be aborted at any moment: then a loan may stay, which the next watch takes back.
    pub(crate) async fn run(mut self, first: Round) {
        let exit = tokio::select! {
            () = self.tasks.stopping() => return,
            exit = self.observe(first) => exit,
        };
        self.sweep().await;
        info!(sandbox.id = %self.id, ?exit, "sandbox ended by itself");
        let event = RuntimeEvent::Exited { id: self.id.clone(), exit };
        tokio::select! {
            () = self.tasks.stopping() => {}
            sent = self.events.send(event) => {
                if sent.is_err() {
                    warn!(sandbox.id = %self.id, "nobody listens to the end of the sandbox");
                }
            }
        }
    }

    async fn observe(&mut self, first: Round) -> RuntimeExit {
        // Nobody can want anything of one that was closed.
        let (_, closed) = mpsc::channel(1);
        let mut wishes = std::mem::replace(&mut self.wishes, closed);
        let mut alarm = self.set_alarm();
        let mut bout = Bout::of(first);
        loop {
            let end = tokio::select! {
                end = self.relieve(&mut bout, &mut alarm) => end,
                () = self.becomes(Still::Yes) => RoundEnd::Still,
                wish = next(&mut wishes) => RoundEnd::Wish(wish),
            };
            match end {
                RoundEnd::Calm => bout = Bout::default(),
                RoundEnd::Still => {}
                // The same bout goes on: what it has asked for, it remembers.
                RoundEnd::Wish(wish) => {
                    self.heed(wish, &bout.round, &mut alarm).await;
                    continue;
                }
                // At its limit a sentry is refused what it cannot do without, and gives up.
                RoundEnd::SentryEnded if bout.round.has_announced() => {
                    return RuntimeExit::OutOfMemory;
                }
                RoundEnd::SentryEnded => return self.cause(),
                RoundEnd::Lost => return self.end_out_of_memory().await,
            }
            tokio::select! {
                // An error means that the kernel knows the process no more.
                _ = self.sentry.ended() => return self.cause(),
                () = self.becomes(Still::Yes) => {
                    tokio::select! {
                        _ = self.sentry.ended() => return self.cause(),
                        () = self.stand_by(&mut alarm) => {}
                    }
                    // Whatever was lent meanwhile is taken back, in time.
                    bout = Bout::of(Round::after_pause());
                }
                wish = next(&mut wishes) => self.heed(wish, &bout.round, &mut alarm).await,
                () = self.ring(&mut alarm) => {}
            }
        }
    }

    /// Changes the bounds for somebody, if it can be done now.
    async fn heed(&mut self, wish: Rebound, round: &Round, alarm: &mut Option<MemoryAlarm>) {
        let Rebound { bounds, told } = wish;
        if told.is_closed() {
            return;
        }
        let before = self.bounds;
        match self.rebound(bounds, round).await {
            Ok(()) => self.bounds = bounds,
            Err(refused) => {
                // What was lowered already goes back; raising always works.
                drop(self.set_bounds(before, round).await);
                // Who does not listen any more has given up as well.
                drop(told.send(Err(refused)));
                return;
            }
        }
        if told.send(Ok(())).is_err() {
            self.bounds = before;
            drop(self.set_bounds(before, round).await);
        }
        *alarm = self.set_alarm();
    }

    async fn rebound(&self, bounds: MemoryBounds, round: &Round) -> Result<(), ReboundError> {
        let reading = self.cgroup.memory().read().map_err(ReboundError::Host)?;
        if bounds.hard < self.bounds.hard && reading.demand >= bounds.soft {
            return Err(ReboundError::InUse(reading.demand));
        }
        let began = Instant::now();
        loop {
            match self.set_bounds(bounds, round).await {
                Ok(()) => return Ok(()),
                Err(error) if began.elapsed() >= LOWERING => return Err(ReboundError::Host(error)),
                Err(_busy) => tokio::time::sleep(LOWERING_PAUSE).await,
            }
        }
    }

    async fn set_bounds(&self, bounds: MemoryBounds, round: &Round) -> io::Result<()> {
        let (memory, limit) = (self.cgroup.memory(), round.limit(bounds));
        let set = self.tasks.spawn_blocking(move || memory.rebound(limit, bounds.hard)).await;
        set.map_err(io::Error::other)?
    }

    /// Watches a paused sandbox until it is resumed.
    ///
    /// Nothing inside takes memory, and nobody inside could give any back; what the sentry needs
    /// to write it down it gets.
    async fn stand_by(&self, alarm: &mut Option<MemoryAlarm>) {
        loop {
            let memory = self.cgroup.memory();
            let reading = memory.read();
            let is_unknown = reading.is_err() && memory.exists();
            if let Ok(reading) = reading
                && reading.stuck
                && let Err(error) = memory.set_limit(reading.usage.saturating_add(LOAN))
            {
                warn!(sandbox.id = %self.id, %error, "memory cannot be lent");
            }
            tokio::select! {
                () = self.becomes(Still::No) => return,
                () = self.ring(alarm) => {}
                () = tokio::time::sleep(READ_PAUSE), if is_unknown => {}
            }
        }
    }

    /// Resolves when it stands still, or no more.
    async fn becomes(&self, wanted: Still) {
        let mut still = self.still.clone();
        let reached = still.wait_for(|still| *still == (wanted == Still::Yes)).await.is_ok();
        if !reached {
            // Nobody can pause it any more.
            std::future::pending().await
        }
    }

    fn set_alarm(&self) -> Option<MemoryAlarm> {
        match self.cgroup.memory().alarm(self.bounds.soft) {
            Ok(alarm) => Some(alarm),
            Err(error) => {
                warn!(sandbox.id = %self.id, %error, "memory cannot be watched, and is looked at now and then: at its limit the sandbox will hang for a while");
                None
            }
        }
    }

    /// Waits until somebody should look: for the alarm, or where there is none for a while, and
    /// then tries for another. What happens before that is set is seen by who looks.
    ///
    /// Cancel safe; the while begins anew.
    async fn ring(&self, alarm: &mut Option<MemoryAlarm>) {
        if let Some(set) = alarm {
            let Err(error) = set.ring().await else { return };
            warn!(sandbox.id = %self.id, %error, "the memory's alarm is broken");
            // A broken alarm would ring without end.
            *alarm = None;
        }
        tokio::time::sleep(ALARM_PAUSE).await;
        if let Ok(set) = self.cgroup.memory().alarm(self.bounds.soft) {
            info!(sandbox.id = %self.id, "memory is watched again");
            *alarm = Some(set);
        }
    }

    /// Goes through one bout of pressure, if there is one.
    async fn relieve(&self, bout: &mut Bout, alarm: &mut Option<MemoryAlarm>) -> RoundEnd {
        let mut has_warned = false;
        loop {
            let elapsed = bout.elapsed();
            let round = &mut bout.round;
            let memory = self.cgroup.memory();
            let reading = match memory.read() {
                Ok(reading) => reading,
                // Without a group there is no sandbox: its end is noticed elsewhere.
                Err(_gone) if !memory.exists() => return RoundEnd::Calm,
                Err(error) => {
                    if !has_warned {
                        warn!(sandbox.id = %self.id, %error, "memory cannot be read, and is tried again");
                    }
                    has_warned = true;
                    if self.ends_within(READ_PAUSE).await {
                        return RoundEnd::SentryEnded;
                    }
                    continue;
                }
            };
            let verdict = round.judge(self.bounds, reading, elapsed);
            if verdict.announce {
                self.announce(reading.usage);
            }
            let moved = match verdict.limit {
                Some(limit) => self.move_limit(limit, round).await,
                None => Ok(()),
            };
            let pause = match verdict.then {
                Then::Again(pause) => pause,
                Then::Calm if moved.is_ok() => return RoundEnd::Calm,
                Then::Calm => Duration::from_millis(10),
                Then::GiveUp => return RoundEnd::Lost,
            };
            tokio::select! {
                _ = self.sentry.ended() => return RoundEnd::SentryEnded,
                // It may reach its limit while it is not looked at.
                () = self.ring(alarm) => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Waits, and says whether the sandbox has ended meanwhile.
    async fn ends_within(&self, pause: Duration) -> bool {
        tokio::time::timeout(pause, self.sentry.ended()).await.is_ok()
    }

    /// Does not wait for room: whoever is that far behind learns of lasting pressure again.
    fn announce(&self, usage: u64) {
        info!(sandbox.id = %self.id, usage_bytes = usage, "sandbox is out of memory");
        let event = RuntimeEvent::MemoryPressure { id: self.id.clone() };
        if self.events.try_send(event).is_err() {
            warn!(sandbox.id = %self.id, "nobody takes the memory pressure");
        }
    }

    async fn move_limit(&self, limit: NewLimit, round: &mut Round) -> io::Result<()> {
        match limit {
            NewLimit::Raised(bytes) => {
                let raised = self.cgroup.memory().set_limit(bytes);
                if let Err(error) = &raised {
                    warn!(sandbox.id = %self.id, %error, "memory cannot be lent");
                }
                raised
            }
            NewLimit::Restored(bytes) => {
                // Pushing out page cache takes a while.
                let memory = self.cgroup.memory();
                let lowered = self.tasks.spawn_blocking(move || memory.set_limit(bytes)).await;
                lowered.map_err(io::Error::other)??;
                round.repaid();
                Ok(())
            }
        }
    }

    /// Waits until the sentry's helpers have followed it, so that who hears of the end finds
    /// nothing running.
    async fn sweep(&self) {
        let swept = tokio::time::timeout(SWEEP, process::end_all(&self.cgroup)).await;
        if !matches!(swept, Ok(Ok(()))) {
            warn!(sandbox.id = %self.id, ?swept, "some of its processes are still there");
        }
    }

    async fn end_out_of_memory(&self) -> RuntimeExit {
        warn!(sandbox.id = %self.id, "sandbox could not be saved from running out of memory");
        if let Err(error) = self.sentry.kill() {
            warn!(sandbox.id = %self.id, %error, "sandbox cannot be killed");
        }
        // An error means that the kernel knows the process no more.
        drop(self.sentry.ended().await);
        RuntimeExit::OutOfMemory
    }

    fn cause(&self) -> RuntimeExit {
        if self.cgroup.memory().has_killed() {
            RuntimeExit::OutOfMemory
        } else {
            RuntimeExit::Died("sentry_ended")
        }
    }
}

// === impl Bout ===

impl Bout {
    fn of(round: Round) -> Self {
        Self { round, began: None }
    }

    /// Returns how long ago it was first looked at.
    fn elapsed(&mut self) -> Duration {
        self.began.get_or_insert_with(Instant::now).elapsed()
    }
}

/// Waits for a wish; for ever when nobody can have one any more.
async fn next(wishes: &mut mpsc::Receiver<Rebound>) -> Rebound {
    match wishes.recv().await {
        Some(wish) => wish,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
