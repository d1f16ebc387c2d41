//! When to try: pure, and the same before and after a restart.

use std::time::Duration;

use tarn_types::UnixMillis;

/// The first pause after a failure. A public authority lets a name fail five times an hour.
const FIRST_PAUSE_SECS: u64 = 5 * 60;
/// The longest pause that failures lead to.
const LONGEST_PAUSE_SECS: u64 = 6 * 3600;
/// The longest that an authority's "not before" is believed.
const LONGEST_ASKED_SECS: u64 = 24 * 3600;
/// How often a server that is started again and again may fail before that counts as failing.
const FREE_STARTS: u32 = 3;
/// How long one that is started after more failures waits at most: whoever put right what was
/// wrong is there and watches.
const START_PAUSE_SECS: u64 = 12 * 60;

/// The least time between two orders that are successes; less for certificates of a shorter life.
const LEAST_BETWEEN_MILLIS: u64 = 3600 * 1000;

/// What is served with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Issued {
    pub(crate) from: UnixMillis,
    pub(crate) until: UnixMillis,
    /// Whether it is for all names, and of the authority that is configured.
    pub(crate) fits: bool,
}

/// The time in which an authority wants a certificate to be renewed (RFC 9773).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) from: UnixMillis,
    pub(crate) until: UnixMillis,
}

/// Says when a certificate should be replaced: at two thirds of its life, or in the window that
/// its authority names, at a part of it that was drawn (in thousandths). No authority can have it
/// run to its end.
pub(crate) fn renewal(issued: Option<Issued>, window: Option<Window>, drawn: u16) -> UnixMillis {
    let Some(Issued { from, until, fits: true }) = issued else { return UnixMillis(0) };
    let life = until.millis_since(from);
    let Some(window) = window else { return from.plus_millis(life / 3 * 2) };
    let drawn = u64::from(drawn.min(1000));
    let length = window.until.millis_since(window.from);
    window.from.plus_millis(length / 1000 * drawn).min(from.plus_millis(life / 6 * 5))
}

/// Says before when there is no other order after one that was a success: a clock that goes wrong
/// can make each certificate look old at once, and authorities count them.
pub(crate) fn next_order(ordered_at: UnixMillis, issued: Option<Issued>) -> UnixMillis {
    let sixth = issued.map_or(u64::MAX, |issued| issued.until.millis_since(issued.from) / 6);
    ordered_at.plus_millis(sixth.min(LEAST_BETWEEN_MILLIS))
}

/// Says how long to wait after so many failures in a row, where the authority may have asked for
/// longer. A drawn part (in thousandths) keeps servers that failed together from coming together.
pub(crate) fn pause(failures: u32, asked: Option<Duration>, drawn: u16) -> Duration {
    let doubled = FIRST_PAUSE_SECS.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let pause = Duration::from_secs(doubled.min(LONGEST_PAUSE_SECS));
    let asked = asked.unwrap_or_default().min(Duration::from_secs(LONGEST_ASKED_SECS));
    let spread = pause / 4000 * u32::from(drawn.min(1000));
    pause.max(asked) + spread
}

/// Says when a server that was just started may try, after failures of its predecessor.
pub(crate) fn first_try(
    failures: u32,
    failed_at: UnixMillis,
    not_before: UnixMillis,
) -> UnixMillis {
    if failures <= FREE_STARTS {
        return UnixMillis(0);
    }
    not_before.min(failed_at.plus_secs(START_PAUSE_SECS))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600 * 1000;

    fn issued(from: i64, until: i64, fits: bool) -> Option<Issued> {
        Some(Issued { from: UnixMillis(from * DAY), until: UnixMillis(until * DAY), fits })
    }

    fn window(from: i64, until: i64) -> Option<Window> {
        Some(Window { from: UnixMillis(from * DAY), until: UnixMillis(until * DAY) })
    }

    #[test]
    fn a_certificate_is_replaced_in_time() {
        for (what, issued, window, drawn, expected) in [
            ("there is none", None, None, 0, 0),
            ("it is for other names", issued(100, 190, false), None, 0, 0),
            ("two thirds of 90 days", issued(100, 190, true), None, 0, 160),
            ("two thirds of 6 days", issued(100, 106, true), None, 999, 104),
            ("the window's begin", issued(100, 190, true), window(150, 160), 0, 150),
            ("the window's middle", issued(100, 190, true), window(150, 160), 500, 155),
            ("the window's end", issued(100, 190, true), window(150, 160), 1000, 160),
            ("drawn wrongly", issued(100, 190, true), window(150, 160), 9999, 160),
            ("at once: it is revoked", issued(100, 190, true), window(90, 91), 1000, 91),
            ("too late a window", issued(100, 190, true), window(189, 300), 0, 175),
            ("an empty window", issued(100, 190, true), window(150, 140), 700, 150),
            ("a window for none", None, window(150, 160), 0, 0),
            ("an empty life", issued(100, 90, true), None, 0, 100),
        ] {
            assert_eq!(renewal(issued, window, drawn), UnixMillis(expected * DAY), "{what}");
        }
    }

    #[test]
    fn a_wrong_clock_orders_no_certificate_after_the_other() {
        let hour = 3600 * 1000;
        for (what, issued, after) in [
            ("of 90 days", issued(100, 190, true), hour),
            ("of other names", issued(100, 190, false), hour),
            ("that is not shown", None, hour),
            ("without a life", issued(190, 100, true), 0),
        ] {
            assert_eq!(next_order(UnixMillis(7), issued), UnixMillis(7 + after), "{what}");
        }
        let (from, until) = (UnixMillis(0), UnixMillis(60_000));
        let short = Some(Issued { from, until, fits: true });
        assert_eq!(next_order(UnixMillis(7), short), UnixMillis(10_007), "of a minute");
    }

    #[test]
    fn failures_are_followed_by_longer_and_longer_pauses() {
        let asked = |secs| Some(Duration::from_secs(secs));
        for (failures, asked, drawn, secs) in [
            (1, None, 0, 300),
            (2, None, 0, 600),
            (3, None, 0, 1200),
            (7, None, 0, 19_200),
            (8, None, 0, 21_600),
            (u32::MAX, None, 0, 21_600),
            (0, None, 0, 300),
            (1, None, 1000, 375),
            (1, None, 9999, 375),
            (1, asked(10), 0, 300),
            (1, asked(3600), 0, 3600),
            (1, asked(3600), 1000, 3675),
            (8, asked(u64::MAX), 0, 86_400),
        ] {
            let pause = pause(failures, asked, drawn);
            assert_eq!(pause.as_secs(), secs, "{failures} {asked:?} {drawn}");
        }
    }

    #[test]
    fn five_failures_take_more_than_an_hour() {
        let pauses: u64 = (1..=4).map(|failures| pause(failures, None, 0).as_secs()).sum();
        assert!(pauses >= 3600, "{pauses}");
    }

    #[test]
    fn a_start_tries_at_once_but_not_again_and_again() {
        let at = |secs: u64| UnixMillis(0).plus_secs(secs);
        for (failures, failed, not_before, expected) in [
            (0, 0, 0, 0),
            (1, 1000, 1300, 0),
            (3, 1000, 2200, 0),
            (4, 1000, 3400, 1720),
            (4, 1000, 1500, 1500),
            (20, 1000, 90_000, 1720),
        ] {
            let first = first_try(failures, at(failed), at(not_before));
            assert_eq!(first, at(expected), "{failures} {failed} {not_before}");
        }
    }
}
