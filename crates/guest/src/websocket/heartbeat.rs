//! When to ping a peer, and when to give it up. Pure.

use std::time::Duration;

use crate::clock::Passed;

/// How long a peer may say nothing at all after a ping (spec 05 §4).
const PATIENCE: Duration = Duration::from_secs(30);

/// The state of one connection's pings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heartbeat {
    /// How long the peer has had for an answer to the oldest ping that is out; none if none is.
    unanswered: Option<Duration>,
}

/// What the end of an interval was like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// The interval passed, and the connection could be read.
    Regular,
    /// The sandbox was frozen meanwhile, or nothing was read as nobody takes it: a pong could not
    /// have come.
    Excused,
}

/// What to do at the end of an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Send a ping.
    Ping,
    /// The peer has gone.
    GiveUp,
}

// === impl Beat ===

impl Beat {
    /// Judges an interval. `held_up`: somebody's slowness has kept the peer's frames from us.
    pub(crate) fn new(passed: Passed, held_up: bool) -> Self {
        match passed {
            Passed::Regular if !held_up => Self::Regular,
            Passed::Regular | Passed::Jumped => Self::Excused,
        }
    }
}

// === impl Heartbeat ===

impl Heartbeat {
    /// Notes a sign of life of whatever kind: the pong of a slow peer comes after all that it sends
    /// before.
    pub(crate) fn heard(&mut self) {
        self.unanswered = None;
    }

    /// Decides at the end of an interval.
    pub(crate) fn tick(&mut self, interval: Duration, beat: Beat) -> Verdict {
        let waited = match (beat, self.unanswered) {
            (Beat::Regular, Some(waited)) => waited + interval,
            // It may go on like that for long. So the ping is repeated, as only what is sent shows
            // that nobody is there any more.
            (Beat::Excused, Some(_)) | (Beat::Regular | Beat::Excused, None) => Duration::ZERO,
        };
        if waited >= PATIENCE {
            return Verdict::GiveUp;
        }
        self.unanswered = Some(waited);
        Verdict::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Duration = Duration::from_secs(30);
    const QUICK: Duration = Duration::from_secs(5);

    #[test]
    fn a_peer_is_given_up_30_s_after_a_ping_that_nothing_followed() {
        for (interval, pings) in [(SLOW, 1), (QUICK, 6)] {
            let mut heart = Heartbeat::default();
            assert_eq!(heart.tick(interval, Beat::Regular), Verdict::Ping);
            heart.heard();
            for ping in 0..pings {
                assert_eq!(heart.tick(interval, Beat::Regular), Verdict::Ping, "{ping}");
            }
            assert_eq!(heart.tick(interval, Beat::Regular), Verdict::GiveUp);
        }
    }

    #[test]
    fn a_freeze_gives_all_the_time_again() {
        for (interval, pings) in [(SLOW, 0), (QUICK, 5)] {
            let mut heart = Heartbeat::default();
            for beat in [Beat::Regular, Beat::Excused, Beat::Excused] {
                assert_eq!(heart.tick(interval, beat), Verdict::Ping, "{beat:?}");
            }
            for ping in 0..pings {
                assert_eq!(heart.tick(interval, Beat::Regular), Verdict::Ping, "{ping}");
            }
            assert_eq!(heart.tick(interval, Beat::Regular), Verdict::GiveUp);
        }
    }
}
