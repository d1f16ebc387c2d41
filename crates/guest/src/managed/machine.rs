//! The life of a managed process, as a pure state machine: events in, effects out.
//!
//! ```text
//!                started              ended, no restart
//!   Starting ─────────────▶ Running ────────────────────────▶ Stopped
//!    ▲  ▲  │ failed           │ ended with a restart, unwell,   ▲  │ restart asked
//!    │  │  ▼                  ▼ stop or restart asked           │  ▼
//!    │ BackingOff ◀──────── Ending ─────────────────────────────┘ Starting
//!    │                        │
//!    └────────────────────────┘
//! ```
//!
//! A run is started only when the one before has ended and nobody of its tree is left, so there
//! are never two. Whatever was armed in one phase (a pause, a check, a kill) is cancelled by the
//! driver when the phase changes; only the wait for the end of the run goes on.

use std::time::Duration;

use tarn_daemon_api::{HealthStatus, ManagedConfig, ManagedExit, ManagedStatus};

use super::{
    health::{Health, Verdict},
    policy::{Outcome, Restarts},
};

/// A moment, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Now {
    /// Since some moment in the past; never goes back.
    pub(super) elapsed: Duration,
    /// The time of day, ms since 1970; only for stamps.
    pub(super) wall_ms: u64,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The asked start worked.
    Started,
    /// The asked start did not; why.
    StartFailed(String),
    /// The run has ended.
    Ended(ManagedExit),
    /// Nobody of the run's tree is left, or nothing more can be done about it.
    Cleared,
    /// The pause is over.
    BackoffOver,
    /// A check is done.
    Checked(Check),
    /// A caller wants it to end.
    StopAsked,
    /// A caller wants a new run.
    RestartAsked,
    /// The sandbox is ending.
    Retired,
}

/// What a check came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// Well.
    Passed,
    /// Not well; why.
    Failed(String),
    /// The sandbox stood still meanwhile, so a failure says nothing.
    Void,
}

/// What the driver has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Start a run; answer with [`Event::Started`] or [`Event::StartFailed`] at once.
    Start,
    /// Check after this time; answer with [`Event::Checked`].
    Check(Duration),
    /// End the run's whole tree; answer with [`Event::Cleared`].
    Clear(Manner),
    /// Answer with [`Event::BackoffOver`] after this time.
    Backoff(Duration),
}

/// How a tree is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// It is asked, and killed only after a while.
    Gentle,
    /// It is killed.
    Hard,
}

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// [`Effect::Start`] is being performed.
    Starting,
    /// A run is there, and left alone. Exits: it ends, it is found unwell, a caller asks.
    Running {
        /// Since then.
        since: Duration,
    },
    /// The tree of a run is being ended. Exits: run and tree are gone.
    Ending {
        /// What comes then.
        goal: Goal,
        /// Whether the run itself has ended.
        ended: bool,
        /// Whether its tree is known to be gone.
        cleared: bool,
    },
    /// Nothing is there. Exits: the pause is over, a caller asks.
    BackingOff(Pause),
    /// No run is there, and none will be but by request.
    Stopped,
}

/// What follows an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// Nothing.
    Stop,
    /// A run that a caller asked for.
    Restart,
    /// A run that the policy asks for, after the pause.
    Recover(Pause),
}

/// The time until a run that the policy asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pause {
    until: Duration,
    /// The same as a stamp.
    until_ms: u64,
}

/// A managed process.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    phase: Phase,
    restarts: Restarts,
    health: Health,
    /// From the start of a run to its first check, and between two.
    check_delays: Option<(Duration, Duration)>,
    restart_count: u32,
    last_exit: Option<ManagedExit>,
    last_error: Option<String>,
}

// === impl Machine ===

impl Machine {
    /// Makes one whose first run is being started.
    pub(super) fn new(config: &ManagedConfig) -> Self {
        let check = config.health_check.as_ref();
        let delays = check.map(|check| {
            let initial = Duration::from_millis(check.initial_delay_ms);
            (initial, Duration::from_millis(check.interval_ms))
        });
        Self {
            phase: Phase::Starting,
            restarts: Restarts::new(config.restart),
            health: Health::new(check.map(|check| check.failure_threshold)),
            check_delays: delays,
            restart_count: 0,
            last_exit: None,
            last_error: None,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    pub(super) fn restart_count(&self) -> u32 {
        self.restart_count
    }

    pub(super) fn health_status(&self) -> HealthStatus {
        self.health.status()
    }

    pub(super) fn health_failures(&self) -> u32 {
        self.health.failures()
    }

    pub(super) fn last_exit(&self) -> Option<ManagedExit> {
        self.last_exit
    }

    pub(super) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// Takes an event in; one that comes too late for its phase changes nothing.
    pub(super) fn step(&mut self, event: Event, now: Now) -> Vec<Effect> {
        match event {
            Event::Started => self.on_started(now),
            Event::StartFailed(cause) => self.on_start_failed(cause, now),
            Event::Ended(exit) => self.on_ended(exit, now),
            Event::Cleared => self.on_cleared(now),
            Event::BackoffOver => self.on_backoff_over(),
            Event::Checked(check) => self.on_checked(check, now),
            Event::StopAsked => self.on_stop_asked(),
            Event::RestartAsked => self.on_restart_asked(),
            Event::Retired => self.on_retired(),
        }
    }

    fn on_started(&mut self, now: Now) -> Vec<Effect> {
        match self.phase {
            Phase::Starting => {
                self.phase = Phase::Running { since: now.elapsed };
                self.health.renew();
                self.check_delays.map(|(initial, _)| Effect::Check(initial)).into_iter().collect()
            }
            Phase::Running { .. }
            | Phase::Ending { .. }
            | Phase::BackingOff(_)
            | Phase::Stopped => vec![],
        }
    }

    fn on_start_failed(&mut self, cause: String, now: Now) -> Vec<Effect> {
        match self.phase {
            Phase::Starting => {
                self.last_error = Some(cause);
                match self.restarts.after(Outcome::Failure, Duration::ZERO) {
                    Some(pause) => self.back_off(Pause::new(pause, now), now),
                    None => self.stop(),
                }
            }
            Phase::Running { .. }
            | Phase::Ending { .. }
            | Phase::BackingOff(_)
            | Phase::Stopped => vec![],
        }
    }

    fn on_ended(&mut self, exit: ManagedExit, now: Now) -> Vec<Effect> {
        match self.phase {
            Phase::Running { since } => {
                self.last_exit = Some(exit);
                let outcome =
                    if exit.exit_code == Some(0) { Outcome::Success } else { Outcome::Failure };
                match self.restarts.after(outcome, now.elapsed.saturating_sub(since)) {
                    // What it left behind could hold the port that the next run needs.
                    Some(pause) => {
                        let goal = Goal::Recover(Pause::new(pause, now));
                        self.phase = Phase::Ending { goal, ended: true, cleared: false };
                        vec![Effect::Clear(Manner::Hard)]
                    }
                    None => self.stop(),
                }
            }
            Phase::Ending { goal, ended: false, cleared } => {
                self.last_exit = Some(exit);
                self.phase = Phase::Ending { goal, ended: true, cleared };
                if cleared { self.arrive(goal, now) } else { vec![] }
            }
            Phase::Ending { ended: true, .. }
            | Phase::Starting
            | Phase::BackingOff(_)
            | Phase::Stopped => vec![],
        }
    }

    fn on_cleared(&mut self, now: Now) -> Vec<Effect> {
        match self.phase {
            Phase::Ending { goal, ended: true, .. } => self.arrive(goal, now),
            // The run is a zombie, whose end is about to be told, or can't be killed.
            Phase::Ending { goal, ended: false, .. } => {
                self.phase = Phase::Ending { goal, ended: false, cleared: true };
                vec![]
            }
            Phase::Starting | Phase::Running { .. } | Phase::BackingOff(_) | Phase::Stopped => {
                vec![]
            }
        }
    }

    fn on_backoff_over(&mut self) -> Vec<Effect> {
        match self.phase {
            Phase::BackingOff(_) => self.recover(),
            Phase::Starting | Phase::Running { .. } | Phase::Ending { .. } | Phase::Stopped => {
                vec![]
            }
        }
    }

    fn on_checked(&mut self, check: Check, now: Now) -> Vec<Effect> {
        let Phase::Running { since } = self.phase else { return vec![] };
        match check {
            Check::Passed => self.health.passed(),
            Check::Void => {}
            Check::Failed(cause) => {
                let verdict = self.health.failed();
                let times = self.health.failures();
                self.last_error = Some(format!("health check failed ({times} in a row): {cause}"));
                if verdict == Verdict::Condemned {
                    let ran = now.elapsed.saturating_sub(since);
                    let goal = match self.restarts.after(Outcome::Failure, ran) {
                        Some(pause) => Goal::Recover(Pause::new(pause, now)),
                        None => Goal::Stop,
                    };
                    self.phase = Phase::Ending { goal, ended: false, cleared: false };
                    return vec![Effect::Clear(Manner::Hard)];
                }
            }
        }
        self.check_delays.map(|(_, interval)| Effect::Check(interval)).into_iter().collect()
    }

    fn on_stop_asked(&mut self) -> Vec<Effect> {
        match self.phase {
            Phase::Running { .. } => self.end_gently(Goal::Stop),
            Phase::Ending { ended, cleared, .. } => {
                self.phase = Phase::Ending { goal: Goal::Stop, ended, cleared };
                vec![]
            }
            // A start is answered before anything else is taken in.
            Phase::Starting => vec![],
            Phase::BackingOff(_) | Phase::Stopped => self.stop(),
        }
    }

    fn on_restart_asked(&mut self) -> Vec<Effect> {
        self.restarts.renew();
        match self.phase {
            Phase::Running { .. } => self.end_gently(Goal::Restart),
            Phase::Ending { ended, cleared, .. } => {
                self.phase = Phase::Ending { goal: Goal::Restart, ended, cleared };
                vec![]
            }
            Phase::BackingOff(_) => self.restart(),
            // Of a run that ended by itself others may be left.
            Phase::Stopped => {
                self.phase = Phase::Ending { goal: Goal::Restart, ended: true, cleared: false };
                vec![Effect::Clear(Manner::Hard)]
            }
            Phase::Starting => vec![],
        }
    }

    fn on_retired(&mut self) -> Vec<Effect> {
        self.restarts.close();
        match self.phase {
            // Whoever ends the sandbox ends the run, too.
            Phase::Running { .. } => vec![],
            Phase::Ending { .. } | Phase::Starting | Phase::BackingOff(_) | Phase::Stopped => {
                self.on_stop_asked()
            }
        }
    }

    fn end_gently(&mut self, goal: Goal) -> Vec<Effect> {
        self.phase = Phase::Ending { goal, ended: false, cleared: false };
        vec![Effect::Clear(Manner::Gentle)]
    }

    fn arrive(&mut self, goal: Goal, now: Now) -> Vec<Effect> {
        match goal {
            Goal::Stop => self.stop(),
            Goal::Restart => self.restart(),
            Goal::Recover(pause) => self.back_off(pause, now),
        }
    }

    fn back_off(&mut self, pause: Pause, now: Now) -> Vec<Effect> {
        self.phase = Phase::BackingOff(pause);
        vec![Effect::Backoff(pause.until.saturating_sub(now.elapsed))]
    }

    fn recover(&mut self) -> Vec<Effect> {
        self.restarts.spend();
        self.restart()
    }

    fn restart(&mut self) -> Vec<Effect> {
        self.restart_count = self.restart_count.saturating_add(1);
        self.phase = Phase::Starting;
        vec![Effect::Start]
    }

    fn stop(&mut self) -> Vec<Effect> {
        self.phase = Phase::Stopped;
        vec![]
    }
}

// === impl Pause ===

impl Pause {
    fn new(pause: Duration, now: Now) -> Self {
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        Self {
            until: now.elapsed.saturating_add(pause),
            until_ms: now.wall_ms.saturating_add(pause_ms),
        }
    }
}

// === impl Phase ===

impl Phase {
    /// Returns whether a run is there or will be without a request, so that its name is taken.
    pub(super) fn is_live(self) -> bool {
        !matches!(self, Self::Stopped)
    }

    /// Returns when a run is started by the policy, ms since 1970.
    pub(super) fn next_restart_at_ms(self) -> Option<u64> {
        match self {
            Self::Ending { goal: Goal::Recover(pause), ended: true, .. }
            | Self::BackingOff(pause) => Some(pause.until_ms),
            Self::Ending { .. } | Self::Starting | Self::Running { .. } | Self::Stopped => None,
        }
    }

    /// Returns the word on the wire.
    pub(super) fn status(self) -> ManagedStatus {
        match self {
            Self::Running { .. } | Self::Ending { ended: false, .. } => ManagedStatus::Running,
            Self::Ending { goal: Goal::Recover(_), ended: true, .. } | Self::BackingOff(_) => {
                ManagedStatus::BackingOff
            }
            // One that stops is `running` until the last of its tree is gone: the name is taken.
            Self::Ending { goal: Goal::Stop, ended: true, .. } => ManagedStatus::Running,
            Self::Starting | Self::Ending { goal: Goal::Restart, ended: true, .. } => {
                ManagedStatus::Starting
            }
            Self::Stopped => ManagedStatus::Stopped,
        }
    }
}

#[cfg(test)]
mod tests;
