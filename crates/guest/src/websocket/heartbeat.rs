//! When to ping a peer, and when to give it up. Pure.

use std::time::Duration;

use crate::clock::Passed;

/// Between two pings (spec 05 §4).
pub(crate) const INTERVAL: Duration = Duration::from_secs(30);

/// The state of one connection's pings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heartbeat {
    awaited: bool,
}

/// What the end of an interval was like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// The interval passed, and the connection could be read and written.
    Regular,
    /// The sandbox was frozen meanwhile, or nothing could pass because somebody does not read: a
    /// pong could not have come.
    Excused,
}

/// What to do at the end of an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Send a ping.
    Ping,
    /// Wait for another interval.
    Wait,
    /// The peer has gone.
    GiveUp,
}

// === impl Beat ===

impl Beat {
    /// Judges an interval. `held_up`: somebody's slowness has kept pongs from us, or pings from
    /// the peer.
    pub(crate) fn new(passed: Passed, held_up: bool) -> Self {
        match passed {
            Passed::Regular if !held_up => Self::Regular,
            Passed::Regular | Passed::Jumped => Self::Excused,
        }
    }
}

// === impl Heartbeat ===

impl Heartbeat {
    /// Notes a pong.
    pub(crate) fn pong(&mut self) {
        self.awaited = false;
    }

    /// Decides at the end of an interval.
    pub(crate) fn tick(&mut self, beat: Beat) -> Verdict {
        match (beat, self.awaited) {
            (Beat::Regular, true) => Verdict::GiveUp,
            // The ping that is out will do; a second one would only queue up behind it.
            (Beat::Excused, true) => Verdict::Wait,
            (Beat::Regular | Beat::Excused, false) => {
                self.awaited = true;
                Verdict::Ping
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_given_up_one_interval_after_a_ping_it_did_not_answer() {
        let mut heart = Heartbeat::default();
        assert_eq!(heart.tick(Beat::Regular), Verdict::Ping);
        heart.pong();
        assert_eq!(heart.tick(Beat::Regular), Verdict::Ping);
        assert_eq!(heart.tick(Beat::Regular), Verdict::GiveUp);
    }

    #[test]
    fn a_freeze_gives_a_fresh_interval() {
        let mut heart = Heartbeat::default();
        assert_eq!(heart.tick(Beat::Regular), Verdict::Ping);
        assert_eq!(heart.tick(Beat::Excused), Verdict::Wait);
        assert_eq!(heart.tick(Beat::Excused), Verdict::Wait);
        heart.pong();
        assert_eq!(heart.tick(Beat::Regular), Verdict::Ping);
        assert_eq!(heart.tick(Beat::Excused), Verdict::Wait);
        assert_eq!(heart.tick(Beat::Regular), Verdict::GiveUp);
    }
}
