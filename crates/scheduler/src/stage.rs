//! How many stages a node keeps, as a pure function of what was lately suspended, captured and
//! restored. A stage is all of a sandbox but its memory: a restore into one is that much quicker.
//!
//! A stage belongs to one capture, because the files below it are that capture's. So what counts is
//! which capture is likely to be restored next.

use std::{cmp::Reverse, time::Duration};

use tarn_types::ByteSize;

use crate::prestart::{MEMORY_OF_ASKS, burst, room};

/// The numbers of the rule; all are configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageRule {
    /// The most of all captures together; 0 = none are made. Default: 8.
    pub most: u32,
    /// Memory that is left alone, at least. Default: 1 GiB.
    pub memory_reserve: ByteSize,
    /// The part of its memory that a node leaves alone at least, in percent. Default: 10.
    pub memory_reserve_percent: u64,
}

/// For how long a new snapshot is likely to be restored, and one that was restored to be again.
const SOON: Duration = Duration::from_secs(60);

/// One capture of memory that may be restored, and how long ago what happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StageDemand {
    /// That of a suspended sandbox, since its processes are gone.
    Suspended(Duration),
    /// A snapshot, since it was taken, and since each restore from it, the oldest first.
    Snapshot {
        /// Since it was taken, if that was under this server.
        taken: Option<Duration>,
        /// Since each restore.
        restored: Vec<Duration>,
    },
}

/// Returns how many stages a node should have of each capture, in the order given.
///
/// What happened last comes first. All together are no more than the rule and the memory allow;
/// `ready` is how many there are already: what they use is gone from `available`.
#[must_use]
pub fn stages(
    rule: &StageRule,
    demands: &[StageDemand],
    ready: u32,
    total: ByteSize,
    available: ByteSize,
) -> Vec<u32> {
    let mut order: Vec<usize> = (0..demands.len()).collect();
    order.sort_by_key(|&at| (demands[at].last(), Reverse(at)));
    let reserve = (rule.memory_reserve, rule.memory_reserve_percent);
    let mut left = rule.most.min(room(reserve, ready, total, available));
    let mut targets = vec![0; demands.len()];
    for at in order {
        targets[at] = demands[at].wanted().min(left);
        left -= targets[at];
    }
    targets
}

// === impl StageDemand ===

impl StageDemand {
    /// How many are worth having.
    fn wanted(&self) -> u32 {
        match self {
            Self::Suspended(since) => u32::from(*since <= MEMORY_OF_ASKS),
            Self::Snapshot { taken, restored } => match restored.last() {
                Some(last) if *last <= SOON || restored.len() > 1 => burst(restored),
                Some(_) => 0,
                None => u32::from(taken.is_some_and(|taken| taken <= SOON)),
            },
        }
    }

    /// How long ago something happened last.
    fn last(&self) -> Duration {
        match self {
            Self::Suspended(since) => *since,
            Self::Snapshot { taken, restored } => {
                restored.last().copied().or(*taken).unwrap_or(Duration::MAX)
            }
        }
    }
}

// === impl StageRule ===

impl Default for StageRule {
    fn default() -> Self {
        Self { most: 8, memory_reserve: ByteSize::from_mib(1024), memory_reserve_percent: 10 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1024;

    fn suspended(ago: u64) -> StageDemand {
        StageDemand::Suspended(Duration::from_secs(ago))
    }

    fn snapshot(taken: Option<u64>, restored: &[u64]) -> StageDemand {
        StageDemand::Snapshot {
            taken: taken.map(Duration::from_secs),
            restored: restored.iter().copied().map(Duration::from_secs).collect(),
        }
    }

    fn targets(demands: &[StageDemand], ready: u32, available_mib: u64) -> Vec<u32> {
        let mib = ByteSize::from_mib;
        stages(&StageRule::default(), demands, ready, mib(16 * GIB), mib(available_mib))
    }

    #[test]
    fn one_for_each_that_is_likely_and_as_many_as_came_at_once() {
        let table: &[(&str, StageDemand, u32)] = &[
            ("suspended just now", suspended(0), 1),
            ("suspended a while ago", suspended(600), 1),
            ("suspended long ago", suspended(601), 0),
            ("taken just now", snapshot(Some(0), &[]), 1),
            ("taken a while ago", snapshot(Some(61), &[]), 0),
            ("of an earlier server", snapshot(None, &[]), 0),
            ("restored just now", snapshot(None, &[5]), 1),
            ("restored once, a while ago", snapshot(Some(90), &[61]), 0),
            ("restored twice, apart", snapshot(Some(500), &[400, 300]), 1),
            ("restored at once", snapshot(Some(500), &[400, 300, 299, 298]), 3),
            ("long ago", snapshot(None, &[700, 700, 700]), 0),
            ("more than the rule allows", snapshot(None, &[1; 50]), 8),
        ];
        for (name, demand, expected) in table {
            assert_eq!(targets(std::slice::from_ref(demand), 0, 12 * GIB), [*expected], "{name}");
        }
    }

    #[test]
    fn what_happened_last_comes_first() {
        let demands =
            [suspended(30), snapshot(None, &[20; 6]), suspended(9), snapshot(Some(10), &[])];
        assert_eq!(targets(&demands, 0, 12 * GIB), [0, 6, 1, 1]);
        let many: Vec<_> = (0..12).map(suspended).collect();
        assert_eq!(targets(&many, 0, 12 * GIB), [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn memory_bounds_them() {
        let demands = [snapshot(None, &[1; 20])];
        // The reserve of 16 GiB is 1638 MiB.
        for (ready, available, expected) in
            [(0, 1600, 0), (8, 1600, 0), (0, 1700, 0), (0, 1767, 2), (3, 1767, 5), (8, 1640, 8)]
        {
            assert_eq!(targets(&demands, ready, available), [expected], "{ready} {available}");
        }
    }

    #[test]
    fn none_is_none() {
        let rule = StageRule { most: 0, ..StageRule::default() };
        let mib = ByteSize::from_mib(16 * GIB);
        assert_eq!(stages(&rule, &[suspended(0)], 0, mib, mib), [0]);
    }
}
