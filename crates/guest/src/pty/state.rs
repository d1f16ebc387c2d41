//! Where a terminal stands, and what time alone will do to it. Pure.
//!
//! ```text
//!             terminate                 program ended, output drained
//!    Live ───────────────▶ Terminating ─────────────────────────────▶ Ended: Terminated
//!     │ 300 s without a client: terminate                                     │ 60 s
//!     │ program ended, output drained                                         ▼
//!     └──────────────────────────────────────────▶ Ended: Exited ────────▶ forgotten
//! ```

use std::time::Duration;

use crate::process::{End, EndStatus};

/// A terminal that nobody looks at is ended after this (spec 05 §4).
pub(crate) const ABANDONED_AFTER: Duration = Duration::from_secs(300);

/// One that has ended is forgotten after this (spec 05 §4).
pub(crate) const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// The clients and the phase of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    phase: Phase,
    clients: usize,
}

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its program runs.
    Live,
    /// Its program runs, but was told to end.
    Terminating,
    /// Its program has ended, and all that it wrote is in the history.
    Ended(End, Cause),
}

/// Why a terminal ended, which is what its clients are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Its program ended by itself.
    Exited,
    /// It was told to end.
    Terminated,
}

/// What happens when nothing else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// It is ended, as nobody looks at it.
    Abandon,
    /// It is forgotten.
    Forget,
}

// === impl State ===

impl State {
    /// A program has just been started.
    pub(crate) fn new() -> Self {
        Self { phase: Phase::Live, clients: 0 }
    }

    /// Returns where it stands.
    pub(crate) fn phase(self) -> Phase {
        self.phase
    }

    /// Returns whether its program runs.
    pub(crate) fn is_alive(self) -> bool {
        match self.phase {
            Phase::Live | Phase::Terminating => true,
            Phase::Ended(..) => false,
        }
    }

    /// A client has come.
    pub(crate) fn attach(&mut self) {
        self.clients += 1;
    }

    /// A client has gone.
    pub(crate) fn detach(&mut self) {
        self.clients = self.clients.saturating_sub(1);
    }

    /// It is to end; returns whether that is news.
    pub(crate) fn terminate(&mut self) -> bool {
        match self.phase {
            Phase::Live => {
                self.phase = Phase::Terminating;
                true
            }
            Phase::Terminating | Phase::Ended(..) => false,
        }
    }

    /// Its program has ended.
    pub(crate) fn end(&mut self, end: End) {
        self.phase = match self.phase {
            Phase::Live => Phase::Ended(end, Cause::Exited),
            Phase::Terminating => Phase::Ended(end, Cause::Terminated),
            ended @ Phase::Ended(..) => ended,
        };
    }

    /// Returns what comes next if nothing else does, and after which time.
    pub(crate) fn expiry(self) -> Option<(Expiry, Duration)> {
        match self.phase {
            Phase::Live if self.clients == 0 => Some((Expiry::Abandon, ABANDONED_AFTER)),
            Phase::Live | Phase::Terminating => None,
            Phase::Ended(..) => Some((Expiry::Forget, FORGOTTEN_AFTER)),
        }
    }
}

/// Returns the exit code that clients are told: a shell's, so 128 + the signal.
pub(crate) fn exit_code(status: EndStatus) -> i32 {
    match status {
        EndStatus::Exited(code) => code,
        EndStatus::Signaled(signal) => 128 + signal,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const END: End = End { status: EndStatus::Exited(3), at_ms: 1 };

    #[test]
    fn a_terminal_without_a_client_expires_and_one_with_a_client_does_not() {
        let mut state = State::new();
        assert_eq!(state.expiry(), Some((Expiry::Abandon, ABANDONED_AFTER)));
        state.attach();
        state.attach();
        assert_eq!(state.expiry(), None);
        state.detach();
        assert_eq!(state.expiry(), None);
        state.detach();
        assert_eq!(state.expiry(), Some((Expiry::Abandon, ABANDONED_AFTER)));
        assert!(state.terminate() && !state.terminate());
        assert_eq!(state.expiry(), None);
        state.end(END);
        assert_eq!(state.phase(), Phase::Ended(END, Cause::Terminated));
        assert_eq!(state.expiry(), Some((Expiry::Forget, FORGOTTEN_AFTER)));
    }

    #[test]
    fn signals_are_told_as_shells_do() {
        assert_eq!(exit_code(EndStatus::Exited(7)), 7);
        assert_eq!(exit_code(EndStatus::Signaled(9)), 137);
    }

    proptest! {
        #[test]
        fn an_ended_terminal_stays_as_it_ended(events in prop::collection::vec(0_u8..4, 0..40)) {
            let mut state = State::new();
            let mut ended = None;
            for event in events {
                match event {
                    0 => state.attach(),
                    1 => state.detach(),
                    2 => prop_assert!(!state.terminate() || ended.is_none()),
                    _ => state.end(END),
                }
                if let Some(phase) = ended {
                    prop_assert_eq!(state.phase(), phase);
                }
                if !state.is_alive() {
                    ended = Some(state.phase());
                    prop_assert_eq!(state.expiry(), Some((Expiry::Forget, FORGOTTEN_AFTER)));
                }
            }
        }
    }
}
