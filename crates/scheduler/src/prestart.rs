//! How many sandboxes a node starts before anybody asks, as pure functions of what was asked for.
//!
//! A start costs a machine the same whenever it happens; one made before the request costs the
//! request nothing. So a node keeps as many of a shape as were lately asked for at once.

use std::time::Duration;

use tarn_types::ByteSize;

/// The numbers of the rule; all are configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrestartRule {
    /// How many of the default shape are kept whatever is asked for. Default: 4.
    pub kept: u32,
    /// The most of all shapes together; 0 = none are made. Default: 32.
    pub most: u32,
    /// Memory that is left alone, at least. Default: 1 GiB.
    pub memory_reserve: ByteSize,
    /// The part of its memory that a node leaves alone at least, in percent. Default: 10.
    pub memory_reserve_percent: u64,
}

/// For how long a request counts.
pub const MEMORY_OF_ASKS: Duration = Duration::from_secs(600);

/// Requests within this time count as made at once: about what a refill of a few takes.
const AT_ONCE: Duration = Duration::from_secs(2);

/// How many times as long as a build took nothing is built after it, while nobody asks: so a sixth
/// of what is free goes into what nobody waits for, and running sandboxes feel a sixth of it.
const PAUSE_TIMES: u32 = 5;

/// On a busy machine a build takes long by itself.
const MOST_PAUSE: Duration = Duration::from_secs(2);

/// What one that waits may come to cost, with what the next start takes.
const MEMORY_EACH: ByteSize = ByteSize::from_mib(64);

/// One shape that sandboxes were asked for in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// Whether it is the shape of a request that says nothing.
    pub default: bool,
    /// How long ago each request was, the oldest first.
    pub asked: Vec<Duration>,
}

/// Returns how many of each shape a node should have ready, in the order given.
///
/// The default shape comes first, then whatever was asked for most; all together are no more than
/// the rule and the memory allow. `ready` is how many it has already: what they use is gone from
/// `available`.
#[must_use]
pub fn prestart(
    rule: &PrestartRule,
    demands: &[Demand],
    ready: u32,
    total: ByteSize,
    available: ByteSize,
) -> Vec<u32> {
    let wanted: Vec<u32> = demands.iter().map(|demand| wanted(rule, demand)).collect();
    let mut order: Vec<usize> = (0..demands.len()).collect();
    order.sort_by_key(|&at| (!demands[at].default, std::cmp::Reverse(wanted[at])));
    let reserve = (rule.memory_reserve, rule.memory_reserve_percent);
    let mut left = rule.most.min(room(reserve, ready, total, available));
    let mut targets = vec![0; demands.len()];
    for at in order {
        targets[at] = wanted[at].min(left);
        left -= targets[at];
    }
    targets
}

/// Returns for how long nothing is built after a build that took so long and that nobody waited
/// for. While requests come, as fast as can be.
#[must_use]
pub fn pause(took: Duration, since_ask: Option<Duration>) -> Duration {
    match since_ask {
        Some(since) if since <= AT_ONCE => Duration::ZERO,
        Some(_) | None => (took * PAUSE_TIMES).min(MOST_PAUSE),
    }
}

/// Returns how many of one shape are worth having.
fn wanted(rule: &PrestartRule, demand: &Demand) -> u32 {
    let burst = burst(&demand.asked);
    if demand.default {
        return burst.max(rule.kept);
    }
    // One request alone may stay the only one.
    if recent(&demand.asked).count() < 2 { 0 } else { burst }
}

/// Returns the most requests that came at once.
pub(crate) fn burst(asked: &[Duration]) -> u32 {
    let recent: Vec<Duration> = recent(asked).collect();
    let mut most = 0;
    let mut first = 0;
    for (last, &age) in recent.iter().enumerate() {
        while recent[first].saturating_sub(age) > AT_ONCE {
            first += 1;
        }
        most = most.max(last - first + 1);
    }
    u32::try_from(most).unwrap_or(u32::MAX)
}

fn recent(asked: &[Duration]) -> impl Iterator<Item = Duration> + '_ {
    asked.iter().copied().filter(|age| *age <= MEMORY_OF_ASKS)
}

/// Returns how many the memory allows above a reserve, of so much at least and so many percent,
/// those that are there included.
pub(crate) fn room(
    (least, percent): (ByteSize, u64),
    ready: u32,
    total: ByteSize,
    available: ByteSize,
) -> u32 {
    let reserve = least.max(ByteSize::from_bytes(total.bytes() / 100 * percent));
    if available < reserve {
        return 0;
    }
    let more = available.saturating_sub(reserve).bytes() / MEMORY_EACH.bytes();
    ready.saturating_add(u32::try_from(more).unwrap_or(u32::MAX))
}

// === impl PrestartRule ===

impl Default for PrestartRule {
    fn default() -> Self {
        Self {
            kept: 4,
            most: 32,
            memory_reserve: ByteSize::from_mib(1024),
            memory_reserve_percent: 10,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1024;

    fn demand(default: bool, seconds_ago: &[f64]) -> Demand {
        let asked = seconds_ago.iter().map(|ago| Duration::from_secs_f64(*ago)).collect();
        Demand { default, asked }
    }

    fn targets(demands: &[Demand], ready: u32, available_mib: u64) -> Vec<u32> {
        let (total, available) = (16 * GIB, available_mib);
        let mib = ByteSize::from_mib;
        prestart(&PrestartRule::default(), demands, ready, mib(total), mib(available))
    }

    #[test]
    fn as_many_as_came_at_once() {
        let table: &[(&str, Demand, u32)] = &[
            ("nobody asked", demand(true, &[]), 4),
            ("nobody asked for another shape", demand(false, &[]), 0),
            ("once", demand(false, &[5.0]), 0),
            ("twice, apart", demand(false, &[50.0, 5.0]), 1),
            ("twice at once", demand(false, &[50.0, 49.0]), 2),
            ("twice, but too long ago", demand(false, &[700.0, 699.5]), 0),
            ("a burst long ago", demand(true, &[700.0; 20]), 4),
            ("a burst", demand(true, &[300.0; 20]), 20),
            ("a larger one before", demand(false, &[90.0, 90.0, 89.0, 30.0, 29.0]), 3),
            ("just within", demand(false, &[12.0, 11.0, 10.0]), 3),
            ("just not", demand(false, &[12.1, 11.0, 10.0]), 2),
            ("more than the rule allows", demand(true, &[1.0; 100]), 32),
        ];
        for (name, demand, expected) in table {
            assert_eq!(targets(std::slice::from_ref(demand), 0, 12 * GIB), [*expected], "{name}");
        }
    }

    #[test]
    fn the_default_shape_comes_first_and_all_share_the_bound() {
        let demands = [
            demand(false, &[9.0; 3]),
            demand(false, &[9.0; 20]),
            demand(true, &[9.0; 10]),
            demand(false, &[9.0; 4]),
        ];
        assert_eq!(targets(&demands, 0, 12 * GIB), [0, 20, 10, 2]);
    }

    #[test]
    fn memory_bounds_them() {
        let demands = [demand(true, &[9.0; 10])];
        // The reserve of 16 GiB is 1638 MiB.
        for (ready, available, expected) in
            [(0, 1600, 0), (10, 1600, 0), (0, 1700, 0), (0, 1767, 2), (3, 1767, 5), (10, 1640, 10)]
        {
            assert_eq!(targets(&demands, ready, available), [expected], "{ready} {available}");
        }
    }

    #[test]
    fn what_nobody_waits_for_is_built_at_a_sixth_of_the_pace_when_nobody_asks() {
        let millis = Duration::from_millis;
        for (took, since_ask, expected) in [
            (120, None, 600),
            (120, Some(2001), 600),
            (120, Some(2000), 0),
            (120, Some(0), 0),
            (5000, None, 2000),
        ] {
            let paused = pause(millis(took), since_ask.map(millis));
            assert_eq!(paused, millis(expected), "{took} {since_ask:?}");
        }
    }

    #[test]
    fn none_is_none() {
        let rule = PrestartRule { most: 0, ..PrestartRule::default() };
        let mib = ByteSize::from_mib(16 * GIB);
        assert_eq!(prestart(&rule, &[demand(true, &[1.0; 9])], 0, mib, mib), [0]);
    }

    /// A quiet minute, a burst of ten, a steady stream: what is ready follows with the demand and
    /// falls back when it has been forgotten.
    #[test]
    fn a_day_of_one_shape() {
        let mut asks: Vec<u64> = Vec::new();
        let mut ready = 4_u32;
        let (mut hits, mut misses) = (0, 0);
        let mut seen = Vec::new();
        // In tenths of a second.
        for now in 0..36_000_u64 {
            let arrivals = match now {
                600 | 1200 => 10,
                2000..4000 if now % 10 == 0 => 1,
                _ => 0,
            };
            for _ in 0..arrivals {
                asks.push(now);
                if ready > 0 {
                    ready -= 1;
                    hits += 1;
                } else {
                    misses += 1;
                }
            }
            let asked = asks.iter().map(|then| Duration::from_millis((now - then) * 100)).collect();
            let demand = Demand { default: true, asked };
            let target = targets(&[demand], ready, 12 * GIB)[0];
            // One each tenth of a second, either way.
            ready = if ready < target { ready + 1 } else { target.max(ready.saturating_sub(1)) };
            if [590, 1190, 3000, 9000, 11_000].contains(&now) {
                seen.push(target);
            }
        }
        assert_eq!(seen, [4, 10, 10, 4, 4]);
        assert_eq!((hits, misses), (4 + 10 + 200, 6));
    }
}
