//! How much of its quota each project uses: pure bookkeeping, of which the table of live sandboxes
//! keeps one under its lock.
//!
//! A sandbox that is not suspended counts, from its create to its end; one that goes on counts from
//! the moment that is decided. What is accepted and not stored yet has a place that was promised,
//! so of any number of requests no more pass than there are places.

use std::collections::{HashMap, hash_map::Entry};

use tarn_lifecycle::status;
use tarn_types::{ProjectId, SandboxRecord, SandboxStatus, Target};

/// What the live sandboxes of each project use.
#[derive(Debug, Default)]
pub(crate) struct Usages {
    by_project: HashMap<ProjectId, Usage>,
}

/// What those of one project use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    /// Sandboxes that count.
    pub(crate) counted: u64,
    /// Places promised to such as will.
    pub(crate) promised: u64,
    /// Containers of pools that nobody has claimed.
    pub(crate) unclaimed: u64,
}

/// What a live sandbox is to a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Share {
    Nothing,
    Counted,
    Unclaimed,
}

// === impl Usages ===

impl Usages {
    /// Returns what a project uses.
    pub(crate) fn of(&self, project: &ProjectId) -> Usage {
        self.by_project.get(project).copied().unwrap_or_default()
    }

    /// Notes a change of a sandbox; `None` before it is there.
    pub(crate) fn change(&mut self, before: Option<&SandboxRecord>, after: &SandboxRecord) {
        let (old, new) = (before.map_or(Share::Nothing, share), share(after));
        if old == new {
            return;
        }
        self.edit(&after.project, |usage| {
            if let Some(number) = usage.of(old) {
                *number = number.saturating_sub(1);
            }
            if let Some(number) = usage.of(new) {
                *number += 1;
            }
        });
    }

    /// Promises places, all or none, if no more than `most` (0 = any number) are taken then.
    ///
    /// # Errors
    /// Returns how many are taken.
    pub(crate) fn promise(
        &mut self,
        project: &ProjectId,
        places: u32,
        most: u32,
    ) -> Result<(), u64> {
        let taken = self.of(project).taken();
        if most > 0 && taken.saturating_add(u64::from(places)) > u64::from(most) {
            return Err(taken);
        }
        self.edit(project, |usage| usage.promised += u64::from(places));
        Ok(())
    }

    /// Ends one promise: it was kept, or is no longer needed.
    pub(crate) fn end_promise(&mut self, project: &ProjectId) {
        self.edit(project, |usage| usage.promised = usage.promised.saturating_sub(1));
    }

    fn edit(&mut self, project: &ProjectId, change: impl FnOnce(&mut Usage)) {
        let mut entry = match self.by_project.entry(project.clone()) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => entry.insert_entry(Usage::default()),
        };
        change(entry.get_mut());
        if *entry.get() == Usage::default() {
            entry.remove();
        }
    }
}

// === impl Usage ===

impl Usage {
    /// Returns how many places are taken, or about to be.
    pub(crate) fn taken(self) -> u64 {
        self.counted + self.promised
    }

    /// Says whether a pool may start one more container in store, if there may be `most` (0 = any
    /// number) sandboxes: containers that nobody has claimed only take what nobody else needs.
    pub(crate) fn has_room_in_store(self, most: u32) -> bool {
        most == 0 || self.taken() + self.unclaimed < u64::from(most)
    }

    fn of(&mut self, share: Share) -> Option<&mut u64> {
        match share {
            Share::Nothing => None,
            Share::Counted => Some(&mut self.counted),
            Share::Unclaimed => Some(&mut self.unclaimed),
        }
    }
}

/// Says whether a sandbox counts.
pub(crate) fn counts(record: &SandboxRecord) -> bool {
    share(record) == Share::Counted
}

fn share(record: &SandboxRecord) -> Share {
    let rests =
        status(record) == SandboxStatus::Suspended && record.intent.target == Target::Suspended;
    if record.end.is_some() || rests {
        Share::Nothing
    } else if record.is_unclaimed() {
        Share::Unclaimed
    } else {
        Share::Counted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn project(number: u8) -> ProjectId {
        ProjectId::from_random([number; 16])
    }

    #[test]
    fn promises_are_all_or_none_and_end() {
        let mut usages = Usages::default();
        let a = project(1);
        assert_eq!(usages.promise(&a, 3, 3), Ok(()));
        assert_eq!(usages.promise(&a, 1, 3), Err(3));
        assert_eq!(usages.promise(&project(2), 4, 3), Err(0));
        assert_eq!(usages.promise(&a, u32::MAX, 0), Ok(()), "0 is without limit");
        for _ in 0..3 {
            usages.end_promise(&a);
        }
        assert_eq!(usages.of(&a).promised, u64::from(u32::MAX));
    }

    #[test]
    fn a_store_takes_what_is_left() {
        let usage = |counted, promised, unclaimed| Usage { counted, promised, unclaimed };
        assert!(usage(1, 0, 1).has_room_in_store(3));
        assert!(!usage(1, 0, 2).has_room_in_store(3));
        assert!(!usage(1, 1, 1).has_room_in_store(3));
        assert!(!usage(5, 0, 0).has_room_in_store(3));
        assert!(usage(5, 5, 5).has_room_in_store(0));
    }

    proptest! {
        #[test]
        fn no_more_is_promised_than_there_are_places(
            asked in prop::collection::vec((1_u32..5, any::<bool>()), 0..60), most in 1_u32..20,
        ) {
            let mut usages = Usages::default();
            let mut held = 0_u64;
            for (places, ends) in asked {
                if usages.promise(&project(1), places, most).is_ok() {
                    held += u64::from(places);
                }
                prop_assert!(held <= u64::from(most));
                if ends && held > 0 {
                    usages.end_promise(&project(1));
                    held -= 1;
                }
                prop_assert_eq!(usages.of(&project(1)).promised, held);
            }
            for _ in 0..held {
                usages.end_promise(&project(1));
            }
            prop_assert!(usages.by_project.is_empty(), "nobody is remembered for nothing");
        }
    }
}
