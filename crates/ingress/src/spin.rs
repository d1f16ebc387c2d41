//! When a lane looks again at once instead of going to sleep.
//!
//! Waking a thread that sleeps takes longer than what it then does for a short request. So where
//! the next bytes are likely to be there in a moment, a lane asks its poller again and again for
//! that moment. A lane does so for one caller at a time: with several there is always something to
//! do, and the processor that would be spent belongs to whom they wait for.
//!
//! ```text
//!   bytes written ──▶ Odds ──(one caller, mostly answered in time)──▶ look until then
//!   bytes read ─────▶ Odds    (so often, and so seldom: is it worth it?)
//! ```

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// How long is looked, at most, for what follows upon bytes that were written.
const MOMENT: Duration = Duration::from_micros(50);
/// How many writes in a row belong to one caller before it counts as the only one.
const ALONE: u8 = 16;
/// What the score has to be, and can be at most: one answer in time is worth a point.
const WORTH_IT: u8 = 4;
const BEST: u8 = 8;
/// What one that was not in time costs. At worst every fifth look is in vain, and lasts a moment.
const LATE: u8 = 4;
/// Between two looks nothing of ours takes that long: somebody else had the processor.
const DISPLACED: Duration = Duration::from_millis(1);
/// For how long the processor is left to others then.
const REST: Duration = Duration::from_millis(100);

/// Which end of a request bytes go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Sandbox,
}

/// Whether it is worth while to look. Knows no clock.
#[derive(Debug, Default)]
struct Odds {
    /// The connections that were written to last, and how often no other was.
    connections: [usize; 2],
    alone: u8,
    /// What the bytes that were written last are to bring.
    awaited: Option<(Side, Instant)>,
    /// How that went lately, by whom was written to.
    scores: [u8; 2],
    rests_until: Option<Instant>,
}

/// Looks, on one lane.
#[derive(Debug, Default)]
struct Spin {
    odds: RefCell<Odds>,
    until: Cell<Option<Instant>>,
    begins: Notify,
}

thread_local! {
    /// That of the lane whose thread this is.
    static SPIN: RefCell<Option<Rc<Spin>>> = const { RefCell::new(None) };
}

/// Makes this thread one that looks. Never resolves.
pub(crate) async fn run() {
    let spin = Rc::new(Spin::default());
    SPIN.set(Some(Rc::clone(&spin)));
    spin.run().await;
}

/// Notes that a connection of this lane was given bytes; `connection` tells it from others of its
/// side.
pub(crate) fn wrote(side: Side, connection: usize) {
    on_lane(|spin| spin.wrote(side, connection));
}

/// Notes that bytes came on a connection of this lane.
pub(crate) fn read() {
    on_lane(|spin| spin.odds.borrow_mut().read(Instant::now));
}

fn on_lane(what: impl FnOnce(&Spin)) {
    SPIN.with_borrow(|spin| spin.as_deref().map(what));
}

// === impl Odds ===

impl Odds {
    /// Returns until when to look.
    fn wrote(
        &mut self,
        side: Side,
        connection: usize,
        clock: impl FnOnce() -> Instant,
    ) -> Option<Instant> {
        let known = &mut self.connections[side as usize];
        if *known != connection {
            *known = connection;
            self.alone = 0;
            self.awaited = None;
        }
        if self.alone < ALONE {
            self.alone += 1;
            return None;
        }
        let now = clock();
        self.awaited = Some((side, now));
        if self.rests_until.is_some_and(|end| now < end) {
            return None;
        }
        (self.scores[side as usize] >= WORTH_IT).then(|| now + MOMENT)
    }

    fn read(&mut self, clock: impl FnOnce() -> Instant) {
        let Some((side, since)) = self.awaited.take() else { return };
        let score = &mut self.scores[side as usize];
        *score = if clock() <= since + MOMENT {
            (*score + 1).min(BEST)
        } else {
            score.saturating_sub(LATE)
        };
    }

    /// Notes when two looks were, one after the other.
    fn looked(&mut self, before: Instant, now: Instant) {
        if now > before + DISPLACED {
            self.rests_until = Some(now + REST);
        }
    }
}

// === impl Spin ===

impl Spin {
    fn wrote(&self, side: Side, connection: usize) {
        let until = self.odds.borrow_mut().wrote(side, connection, Instant::now);
        if until.is_some() && self.until.replace(until).is_none() {
            self.begins.notify_one();
        }
    }

    async fn run(&self) {
        loop {
            self.begins.notified().await;
            let mut before = Instant::now();
            while let Some(until) = self.until.get() {
                // The runtime asks its poller, without waiting, and runs what that brings.
                tokio::task::yield_now().await;
                let now = Instant::now();
                self.odds.borrow_mut().looked(before, now);
                if now > until && self.until.get() == Some(until) {
                    self.until.set(None);
                }
                before = now;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: usize = 1;
    const SANDBOX: usize = 2;

    /// Odds with a clock of their own.
    struct Lane {
        odds: Odds,
        now: Instant,
    }

    impl Lane {
        fn new() -> Self {
            Self { odds: Odds::default(), now: Instant::now() }
        }

        fn wrote(&mut self, side: Side, connection: usize) -> bool {
            let now = self.now;
            let until = self.odds.wrote(side, connection, || now);
            assert!(until.is_none_or(|until| until == now + MOMENT), "{until:?}");
            until.is_some()
        }

        fn read(&mut self, after_us: u64) {
            self.now += Duration::from_micros(after_us);
            let now = self.now;
            self.odds.read(|| now);
        }

        /// One request; says at which of its ends the lane looks.
        fn request(
            &mut self,
            (client, sandbox): (usize, usize),
            (answer_us, next_us): (u64, u64),
        ) -> [bool; 2] {
            let at_sandbox = self.wrote(Side::Sandbox, sandbox);
            self.read(answer_us);
            let at_client = self.wrote(Side::Client, client);
            self.read(next_us);
            [at_sandbox, at_client]
        }

        /// What comes of so many requests of one caller.
        fn requests(&mut self, count: usize, times: (u64, u64)) -> [bool; 2] {
            (0..count).fold([false; 2], |_, _| self.request((CLIENT, SANDBOX), times))
        }
    }

    #[test]
    fn it_looks_where_one_caller_is_mostly_in_time() {
        let cases = [
            (4, (20, 20), [false, false], "not before it is known to be the only one"),
            (40, (20, 20), [true, true], "both in time"),
            (40, (400, 20), [false, true], "a sandbox that takes longer"),
            (40, (20, 5_000), [true, false], "a caller that thinks"),
            (40, (50, 51), [true, false], "the moment's own end"),
        ];
        for (count, times, looks, what) in cases {
            assert_eq!(Lane::new().requests(count, times), looks, "{what}");
        }
    }

    #[test]
    fn it_stops_where_one_of_five_is_late() {
        let mut lane = Lane::new();
        lane.requests(40, (20, 20));
        let mut looks = 0;
        for number in 0..1_000 {
            let answer = if number % 5 < 2 { 400 } else { 20 };
            looks += usize::from(lane.request((CLIENT, SANDBOX), (answer, 20))[0]);
        }
        assert!(looks < 10, "{looks}");
        assert_eq!(lane.requests(10, (20, 20)), [true, true], "it is good again");
    }

    #[test]
    fn it_does_not_look_for_one_of_several() {
        let mut lane = Lane::new();
        lane.requests(40, (20, 20));
        for number in 0..200 {
            let looks = lane.request((CLIENT + number % 2, SANDBOX), (20, 20));
            let known = number == 0;
            assert_eq!(looks, [known || number == 1, known], "after {number}");
        }
        for number in 0..200 {
            let looks = lane.request((CLIENT, SANDBOX + number % 2), (20, 20));
            assert_eq!(looks, [false, false], "after {number}");
        }
        assert_eq!(lane.requests(40, (20, 20)), [true, true], "alone again");
    }

    #[test]
    fn it_rests_when_somebody_else_wants_the_processor() {
        let mut lane = Lane::new();
        lane.requests(40, (20, 20));
        lane.odds.looked(lane.now, lane.now + DISPLACED);
        assert_eq!(lane.requests(1, (20, 20)), [true, true]);
        lane.odds.looked(lane.now, lane.now + Duration::from_millis(3));
        let rests_until = lane.now + Duration::from_millis(3) + REST;
        while lane.now + MOMENT * 2 < rests_until {
            assert_eq!(lane.requests(1, (20, 20)), [false, false]);
        }
        assert_eq!(lane.requests(4, (20, 20)), [true, true], "it has rested");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_lane_sees_what_comes_and_goes_to_sleep_again() {
        tokio::select! {
            () = run() => unreachable!("it never ends"),
            () = async {
                tokio::task::yield_now().await;
                let spin = SPIN.with_borrow(|spin| spin.clone()).expect("it runs");
                let looks = || spin.until.get().is_some();
                let begun = Instant::now();
                while !looks() {
                    wrote(Side::Client, CLIENT);
                    read();
                    assert!(begun.elapsed() < Duration::from_secs(20), "it never looks");
                }
                while looks() {
                    tokio::task::yield_now().await;
                    assert!(begun.elapsed() < Duration::from_secs(20), "it never sleeps");
                }
            } => {}
        }
    }

    #[test]
    fn what_is_no_lane_does_not_look() {
        for _ in 0..100 {
            wrote(Side::Client, CLIENT);
            read();
        }
        SPIN.with_borrow(|spin| assert!(spin.is_none()));
    }
}
