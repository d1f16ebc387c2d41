//! What to do when a sandbox runs out of memory. Pure.
//!
//! The daemon inside is asked, through the node, to end the largest process. It can do so only
//! while it runs itself, and at the cgroup's limit nothing in the sandbox runs. Worse, the kernel
//! refuses there what is not a page of a program, such as the stack of a new thread, and a sentry
//! that cannot have a thread ends. So the limit is kept ahead of the demand by loans, again and
//! again, until the process is dead and they can be taken back.
//!
//! ```text
//!  calm ──demand ≥ soft──▶ pressed: announce, again while it lasts
//!    ▲                        │ ▲   +64 MiB when the limit is near, at most 8 times
//!    │ demand < soft,         ▼ │ room
//!    └─ loans taken back ◀─ stuck: announce, +64 MiB while it lasts, of the same 8, then +8 MiB
//!                             │        with each announcement
//!                             │ stuck for 2 s on end, or more than its own for 5 s
//!                             ▼
//!                           given up: the sandbox is ended
//! ```
//!
//! The numbers were measured with programs that take 1.5 GB/s: one loan and 24–55 ms from the
//! event to health for one program, up to seven loans and 440 ms for four at once.

use std::time::Duration;

use crate::limits::MemoryBounds;

/// What is lent at a time: 40 ms of a program's full speed.
pub(crate) const LOAN: u64 = 64 << 20;

const MOST_LOANS: u32 = 8;

/// What one gets that stands still with all loans used, each time that the end of a process is
/// asked for: whoever waits in the kernel for a page does not hear of its end before it has one.
const BREATH: u64 = 8 << 20;

/// How far ahead of the demand the limit is kept, as far as loans go. Found too late on a busy
/// machine, the limit is reached; this is the time to find out.
const AHEAD: u64 = LOAN;

/// How soon a sandbox that still stands still is lent more.
const STUCK_PAUSE: Duration = Duration::from_millis(2);

/// The same while it waits for the disk.
const WRITING_PAUSE: Duration = Duration::from_millis(10);

/// How often a sandbox under pressure is looked at, at first.
const PRESSED_PAUSE: Duration = Duration::from_millis(5);

/// The same, when nothing has come of it for a second.
const RESIGNED_PAUSE: Duration = Duration::from_millis(100);
const RESIGNED_AFTER: Duration = Duration::from_secs(1);

/// How long an announcement may take to show after a loan: by then the largest process should be
/// dead, and if the sandbox stands still again, another took what it left.
const LENT_SETTLE: Duration = Duration::from_millis(20);

/// The same when there was no loan: nothing can have changed inside.
const HOPELESS_SETTLE: Duration = Duration::from_millis(200);

/// The same while the sandbox runs; doubled each time, as there may be nothing to end.
const PRESSED_SETTLE: Duration = Duration::from_millis(100);
const MOST_SETTLE: Duration = Duration::from_secs(5);

/// Standing still this long, a sandbox is beyond saving.
const STUCK_LIMIT: Duration = Duration::from_secs(2);

/// The same where what is in the way is pages on their way to the disk, such as those of its image:
/// then the disk is slow, and nothing inside is to blame or to be ended.
const WRITING_LIMIT: Duration = Duration::from_secs(30);

/// How long room is left for the pages of an image that was just written. Most images are read at
/// once, by copies and restores, and what is pushed out is read from the disk again: 200 ms for
/// each GiB. Meanwhile the sandbox is looked at, since the alarm does not tell its own pages from
/// those.
const IMAGE_KEPT: Duration = Duration::from_secs(10);
const IMAGE_PAUSE: Duration = Duration::from_millis(40);

/// What is used of a loan must be back by then: it is the host's memory.
const LOAN_LIMIT: Duration = Duration::from_secs(5);

/// A sandbox's memory at one moment, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    /// All that is charged.
    pub(crate) usage: u64,
    /// What cannot be pushed out: all but the page cache.
    pub(crate) demand: u64,
    /// Everything waits for memory.
    pub(crate) stuck: bool,
}

/// One bout of pressure, from its alarm to its end.
#[derive(Debug, Default)]
pub(crate) struct Round {
    loans: u32,
    breaths: u32,
    /// When it first had more than its own.
    first_over: Option<Duration>,
    /// Since when it has stood still for want of memory.
    stuck_since: Option<Duration>,
    /// Since when it has stood still for the disk.
    writing_since: Option<Duration>,
    announced: Option<Duration>,
    announcements: u32,
    /// The loans at the last announcement.
    announced_loans: u32,
    /// It was lent room for an image, and has not needed it for itself.
    image: bool,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Ask for the end of the largest process.
    pub(crate) announce: bool,
    /// Move the limit.
    pub(crate) limit: Option<NewLimit>,
    /// And then.
    pub(crate) then: Then,
}

/// A limit to set, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NewLimit {
    /// A loan.
    Raised(u64),
    /// Back to what it was. May fail while too much is in use; judge again then.
    Restored(u64),
}

/// How a verdict ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Read and judge again after this long.
    Again(Duration),
    /// All is well, if the limit could be restored.
    Calm,
    /// End the sandbox.
    GiveUp,
}

// === impl Reading ===

impl Reading {
    /// Says whether there would be room if the page cache were written down.
    fn waits_for_disk(self, bounds: MemoryBounds) -> bool {
        self.demand < bounds.soft
    }
}

// === impl Round ===

impl Round {
    /// Decides by what was read `elapsed` after the round began.
    pub(crate) fn judge(
        &mut self,
        bounds: MemoryBounds,
        reading: Reading,
        elapsed: Duration,
    ) -> Verdict {
        if self.is_lost(bounds, reading, elapsed) {
            return Verdict { announce: false, limit: None, then: Then::GiveUp };
        }
        self.image &= !reading.stuck && reading.demand < bounds.soft && elapsed < IMAGE_KEPT;
        if self.image {
            return Verdict { announce: false, limit: None, then: Then::Again(IMAGE_PAUSE) };
        }
        if reading.stuck && reading.waits_for_disk(bounds) {
            let limit = self.lend(bounds);
            return Verdict { announce: false, limit, then: Then::Again(WRITING_PAUSE) };
        }
        if reading.stuck {
            return self.judge_stuck(bounds, elapsed);
        }
        if reading.demand >= bounds.soft {
            return self.judge_pressed(bounds, reading, elapsed);
        }
        let limit = (self.loans > 0).then_some(NewLimit::Restored(bounds.hard));
        Verdict { announce: false, limit, then: Then::Calm }
    }

    /// The first round after a restart of the server: a loan may be out that nobody remembers.
    pub(crate) fn inherited() -> Self {
        Self { loans: 1, first_over: Some(Duration::ZERO), ..Self::default() }
    }

    /// The first round after a pause: room may be lent for an image.
    pub(crate) fn after_pause() -> Self {
        Self { image: true, ..Self::inherited() }
    }

    /// Records that all loans are back.
    pub(crate) fn repaid(&mut self) {
        (self.loans, self.breaths) = (0, 0);
        self.first_over = None;
    }

    /// Says whether the sandbox has run out of memory since the round began.
    pub(crate) fn has_announced(&self) -> bool {
        self.announced.is_some()
    }

    fn is_lost(&mut self, bounds: MemoryBounds, reading: Reading, elapsed: Duration) -> bool {
        let has_lasted = |since: Duration, limit| elapsed.saturating_sub(since) >= limit;
        if reading.stuck {
            self.first_over.get_or_insert(elapsed);
            if reading.waits_for_disk(bounds) {
                self.stuck_since = None;
                return has_lasted(*self.writing_since.get_or_insert(elapsed), WRITING_LIMIT);
            }
            self.writing_since = None;
            return has_lasted(*self.stuck_since.get_or_insert(elapsed), STUCK_LIMIT);
        }
        (self.stuck_since, self.writing_since) = (None, None);
        reading.demand > bounds.hard
            && has_lasted(*self.first_over.get_or_insert(elapsed), LOAN_LIMIT)
    }

    fn judge_stuck(&mut self, bounds: MemoryBounds, elapsed: Duration) -> Verdict {
        let loan = self.lend(bounds);
        let announce = self.announce_after(HOPELESS_SETTLE, elapsed);
        let limit = loan.or_else(|| {
            self.breaths += u32::from(announce);
            announce.then(|| NewLimit::Raised(self.limit(bounds)))
        });
        Verdict { announce, limit, then: Then::Again(STUCK_PAUSE) }
    }

    fn judge_pressed(
        &mut self,
        bounds: MemoryBounds,
        reading: Reading,
        elapsed: Duration,
    ) -> Verdict {
        let is_near = reading.demand.saturating_add(AHEAD) > self.limit(bounds);
        let limit = if is_near { self.lend(bounds) } else { None };
        let doubled = PRESSED_SETTLE.saturating_mul(1 << self.announcements.min(8));
        let announce = self.announce_after(doubled.min(MOST_SETTLE), elapsed);
        let pause = if elapsed < RESIGNED_AFTER { PRESSED_PAUSE } else { RESIGNED_PAUSE };
        Verdict { announce, limit, then: Then::Again(pause) }
    }

    /// Returns the limit with all loans.
    pub(crate) fn limit(&self, bounds: MemoryBounds) -> u64 {
        let lent = LOAN * u64::from(self.loans) + BREATH * u64::from(self.breaths);
        bounds.hard.saturating_add(lent)
    }

    fn lend(&mut self, bounds: MemoryBounds) -> Option<NewLimit> {
        if self.loans >= MOST_LOANS {
            return None;
        }
        self.loans += 1;
        Some(NewLimit::Raised(self.limit(bounds)))
    }

    /// Says whether to announce, `settle` after the last time: sooner if a loan was needed since,
    /// as then something still grows.
    fn announce_after(&mut self, settle: Duration, elapsed: Duration) -> bool {
        let settle = if self.loans > self.announced_loans { LENT_SETTLE } else { settle };
        let due = self.announced.is_none_or(|last| elapsed.saturating_sub(last) >= settle);
        if due {
            self.announced = Some(elapsed);
            self.announcements += 1;
            self.announced_loans = self.loans;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const BOUNDS: MemoryBounds = MemoryBounds { soft: 284 * MIB, hard: 348 * MIB };

    /// At a time in ms: demand in MiB, stuck or not.
    type Step = (u64, u64, bool);

    /// Runs a round and writes each verdict as a word: `!` announce, `+N` limit raised by N MiB,
    /// `-` restored, then the pause in ms, `ok` or `END`.
    fn run(steps: &[Step]) -> Vec<String> {
        let mut round = Round::default();
        steps
            .iter()
            .map(|(millis, demand, stuck)| {
                let demand = demand * MIB;
                let reading = Reading { usage: demand, demand, stuck: *stuck };
                write(&round.judge(BOUNDS, reading, Duration::from_millis(*millis)))
            })
            .collect()
    }

    fn write(verdict: &Verdict) -> String {
        let announce = if verdict.announce { "!" } else { "" };
        let limit = match verdict.limit {
            Some(NewLimit::Raised(to)) => format!("+{}", (to - BOUNDS.hard) / MIB),
            Some(NewLimit::Restored(to)) => {
                assert_eq!(to, BOUNDS.hard);
                "-".to_owned()
            }
            None => String::new(),
        };
        let then = match verdict.then {
            Then::Again(pause) => pause.as_millis().to_string(),
            Then::Calm => "ok".to_owned(),
            Then::GiveUp => "END".to_owned(),
        };
        format!("{announce}{limit} {then}")
    }

    #[test]
    fn nothing_happens_below_the_soft_bound() {
        assert_eq!(run(&[(0, 283, false)]), [" ok"]);
    }

    #[test]
    fn pressure_is_announced_once_and_ends_with_the_process() {
        let steps = [(0, 290, false), (5, 330, false), (10, 20, false)];
        assert_eq!(run(&steps), ["!+64 5", " 5", "- ok"]);
    }

    #[test]
    fn the_limit_is_kept_ahead_of_what_grows() {
        let steps = [(0, 284, false), (5, 285, false), (10, 348, false), (15, 349, false)];
        assert_eq!(run(&steps), ["! 5", "+64 5", " 5", "+128 5"]);
        // Nor does that ever go further than the loans of one that stands still.
        let steps: Vec<Step> = (0..9).map(|n| (n, 340 + 64 * n, false)).collect();
        assert_eq!(run(&steps)[7..], ["+512 5", " 5"]);
    }

    #[test]
    fn what_needs_a_loan_is_announced_sooner() {
        let steps = [(0, 290, false), (10, 360, false), (20, 380, false), (40, 400, false)];
        assert_eq!(run(&steps), ["!+64 5", "+128 5", "! 5", " 5"]);
    }

    #[test]
    fn lasting_pressure_is_announced_ever_more_rarely() {
        let steps: Vec<Step> =
            [0, 50, 200, 300, 600, 1000, 1400, 9000].map(|t| (t, 290, false)).into();
        assert_eq!(run(&steps), ["!+64 5", " 5", "! 5", " 5", "! 5", " 100", "! 100", "! 100"]);
    }

    #[test]
    fn a_stuck_sandbox_is_lent_at_once_and_repays() {
        let steps = [(0, 348, true), (2, 360, false), (7, 380, false), (12, 20, false)];
        assert_eq!(run(&steps), ["!+64 2", "+128 5", " 5", "- ok"]);
    }

    #[test]
    fn loans_grow_to_eight_and_then_each_announcement_brings_a_breath() {
        let mut steps: Vec<Step> = (0..9).map(|n| (n * 2, 348 + 64 * n, true)).collect();
        steps.extend([(20, 860, true), (200, 860, true), (220, 860, true)]);
        assert_eq!(
            run(&steps),
            [
                "!+64 2", "+128 2", "+192 2", "+256 2", "+320 2", "+384 2", "+448 2", "+512 2",
                " 2", "!+520 2", " 2", "!+528 2",
            ]
        );
    }

    #[test]
    fn what_waits_for_a_slow_disk_is_lent_and_nothing_is_ended_for_it() {
        let steps = [(0, 200, true), (10, 200, true), (29_999, 283, true), (30_010, 200, false)];
        assert_eq!(run(&steps), ["+64 10", "+128 10", "+192 10", "- ok"]);
        assert_eq!(run(&[(0, 200, true), (30_000, 200, true)])[1], " END");
        // Until something inside wants more as well.
        assert_eq!(run(&[(0, 200, true), (1999, 290, true)])[1], "!+128 2");
        let steps = [(0, 200, true), (9000, 290, true), (10_999, 290, true), (11_000, 290, true)];
        assert_eq!(run(&steps)[1..], ["!+128 2", "!+192 2", " END"]);
    }

    #[test]
    fn two_seconds_stuck_are_the_end() {
        assert_eq!(run(&[(10, 348, true), (2009, 900, true)]), ["!+64 2", "!+128 2"]);
        assert_eq!(run(&[(10, 348, true), (2010, 900, true)])[1], " END");
    }

    #[test]
    fn standing_still_again_is_not_standing_still_so_long() {
        let steps = [(0, 348, true), (5, 300, false), (1990, 412, true), (3989, 412, true)];
        let still = [steps[3], (3990, 412, true)];
        assert_eq!(run(&steps)[3], "!+192 2");
        assert_eq!(run(&[&steps[..3], &still[1..]].concat())[3], " END");
    }

    #[test]
    fn a_loan_not_repaid_in_five_seconds_is_the_end() {
        let last = |millis, demand| run(&[(0, 348, true), (millis, demand, false)])[1].clone();
        assert_eq!(last(4999, 349), "!+128 100");
        assert_eq!(last(5000, 349), " END");
        // Within its own limit it may live; the loan goes back as soon as demand falls.
        assert_eq!(last(5000, 348), "! 100");
    }

    #[test]
    fn a_loan_that_is_not_used_need_not_be_back() {
        let steps = [(0, 300, false), (6000, 348, false), (6100, 349, false), (11_099, 349, false)];
        assert_eq!(run(&steps), ["!+64 5", "! 100", "!+128 100", "! 100"]);
        assert_eq!(run(&[&steps[..3], &[(11_100, 349, false)]].concat())[3], " END");
    }

    #[test]
    fn room_for_an_image_is_left_for_a_while_unless_it_is_needed() {
        let mut round = Round::after_pause();
        let mut judge = |demand: u64, stuck, millis| {
            let reading = Reading { usage: 500 * MIB, demand: demand * MIB, stuck };
            write(&round.judge(BOUNDS, reading, Duration::from_millis(millis)))
        };
        assert_eq!([judge(200, false, 0), judge(283, false, 9999)], [" 40", " 40"]);
        assert_eq!([judge(200, false, 10_000), judge(200, false, 10_001)], ["- ok", "- ok"]);
        for (demand, stuck, first) in [(284, false, "! 5"), (200, true, "+128 10")] {
            let mut round = Round::after_pause();
            let reading = |demand: u64, stuck| Reading { usage: 0, demand: demand * MIB, stuck };
            let verdict = round.judge(BOUNDS, reading(demand, stuck), Duration::ZERO);
            assert_eq!(write(&verdict), first, "{demand} {stuck}");
            let verdict = round.judge(BOUNDS, reading(200, false), Duration::from_millis(9));
            assert_eq!(write(&verdict), "- ok", "{demand} {stuck}");
        }
    }

    #[test]
    fn a_loan_that_could_not_be_taken_back_is_tried_again() {
        let mut round = Round::default();
        let at = |demand: u64, stuck| Reading { usage: 400 * MIB, demand: demand * MIB, stuck };
        round.judge(BOUNDS, at(348, true), Duration::ZERO);
        let restore = Some(NewLimit::Restored(BOUNDS.hard));
        assert_eq!(round.judge(BOUNDS, at(20, false), Duration::from_millis(9)).limit, restore);
        assert_eq!(round.judge(BOUNDS, at(20, false), Duration::from_millis(19)).limit, restore);
        round.repaid();
        assert_eq!(round.judge(BOUNDS, at(20, false), Duration::from_millis(29)).limit, None);
    }
}
