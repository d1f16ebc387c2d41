//! Which slot is in which state. Pure: it decides, others act.
//!
//! ```text
//!            build            take             release
//! (nothing) ──────▶ Building ──────▶ Free ──────▶ Claimed ──────▶ Cleaning
//!     ▲                                ▲                              │
//!     │                                └──────── Refreshing ◀─────────┤
//!     └───────────────────────────────────────────────────────────────┘ enough are free
//! ```
//! After a start there are also slots `Found` on the host, to be adopted or removed.

use std::collections::{BTreeMap, BTreeSet};

use tarn_host::SlotId;
use tarn_types::SandboxId;

/// The state of a slot that the host has, or is about to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Left by an earlier life of this server; nobody asked for it yet.
    Found,
    /// Being built; nobody may have it yet.
    Building,
    /// Whole, closed, nobody's.
    Free,
    /// A sandbox's.
    Claimed,
    /// Being closed, or removed.
    Cleaning,
    /// Closed, and being made ready for another sandbox.
    Refreshing,
}

/// The states of all slots of a server.
#[derive(Debug)]
pub(crate) struct Book {
    spare: usize,
    maximum: u16,
    settled: bool,
    waiting: usize,
    /// The most that were claimed at once: in the last span of time, and in this one.
    busiest: [usize; 2],
    states: BTreeMap<SlotId, State>,
    /// Whose the claimed slots are. Only the owner ends a claim.
    owners: BTreeMap<SlotId, SandboxId>,
}

/// What a claim gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Take {
    /// This slot, which is the caller's now.
    Slot(SlotId),
    /// Nothing yet: one is on its way.
    Wait,
    /// Nothing: every slot has a sandbox.
    Exhausted,
}

/// What becomes of a slot whose sandbox is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Afterlife {
    /// It is made ready for another.
    Reuse,
    /// It is removed: enough are free.
    Remove,
}

// === impl Book ===

impl Book {
    /// Opens the book with the slots that the host has.
    pub(crate) fn new(spare: u16, maximum: u16, found: BTreeSet<SlotId>) -> Self {
        let states = found.into_iter().map(|slot| (slot, State::Found)).collect();
        let (spare, owners) = (usize::from(spare), BTreeMap::new());
        Self { spare, maximum, settled: false, waiting: 0, busiest: [0; 2], states, owners }
    }

    /// Returns the state of a slot, if there is such a slot.
    pub(crate) fn state(&self, slot: SlotId) -> Option<State> {
        self.states.get(&slot).copied()
    }

    /// Takes a free slot for a sandbox.
    pub(crate) fn take(&mut self, id: &SandboxId) -> Take {
        if let Some(slot) = self.first(State::Free) {
            self.claim(slot, id);
            return Take::Slot(slot);
        }
        let full = self.count(State::Claimed) >= usize::from(self.maximum);
        if full { Take::Exhausted } else { Take::Wait }
    }

    /// Counts a claim that waits for a slot.
    pub(crate) fn begin_wait(&mut self) {
        self.waiting += 1;
    }

    /// Counts a claim that waits no more.
    pub(crate) fn end_wait(&mut self) {
        self.waiting -= 1;
    }

    /// Takes a slot that was found, for the sandbox that lives in it. It may take it again.
    pub(crate) fn adopt(&mut self, slot: SlotId, id: &SandboxId) -> bool {
        if self.state(slot) == Some(State::Found) {
            self.claim(slot, id);
        }
        self.owners.get(&slot) == Some(id)
    }

    /// Gives up the adoption of a slot that turned out to be broken. After the time of adoption
    /// only a release does that.
    pub(crate) fn unadopt(&mut self, slot: SlotId) {
        if !self.settled {
            self.owners.remove(&slot);
            self.states.insert(slot, State::Found);
        }
    }

    /// Returns every slot that is some sandbox's.
    pub(crate) fn claimed(&self) -> BTreeSet<SlotId> {
        self.owners.keys().copied().collect()
    }

    /// Ends the time of adoption: returns the slots nobody asked for, which are being removed now.
    pub(crate) fn settle(&mut self) -> BTreeSet<SlotId> {
        self.settled = true;
        let left: BTreeSet<_> = self.all(State::Found).collect();
        for slot in &left {
            self.states.insert(*slot, State::Cleaning);
        }
        left
    }

    /// Says whether the time of adoption is over.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled
    }

    /// Decides which slots to build now, and notes them as being built: for those who wait, and
    /// while nothing else happens also the spare ones.
    pub(crate) fn plan_builds(&mut self, calm: bool) -> Vec<SlotId> {
        let spare = if calm && self.is_short() { self.spare } else { 0 };
        let wanted = match (self.waiting + spare).checked_sub(self.coming()) {
            Some(wanted) if self.settled => wanted,
            Some(_) | None => return Vec::new(),
        };
        let unused: Vec<SlotId> = (1..=self.maximum)
            .map(SlotId)
            .filter(|slot| !self.states.contains_key(slot))
            .take(wanted)
            .collect();
        self.states.extend(unused.iter().map(|slot| (*slot, State::Building)));
        unused
    }

    /// Says whether spare slots are missing: half of them, so that a steady coming and going reuses
    /// slots instead of building and removing them. None is missing where no more may be.
    pub(crate) fn is_short(&self) -> bool {
        self.settled
            && self.states.len() < usize::from(self.maximum)
            && self.coming() < self.waiting + self.spared()
    }

    /// Begins another span of time: what was claimed before the last one is forgotten.
    pub(crate) fn turn(&mut self) {
        self.busiest = [self.busiest[1], self.owners.len()];
    }

    /// Chooses a free slot that is one too many, because who waited for it has gone, or it is long
    /// since so many were claimed, and notes that it is being removed.
    pub(crate) fn plan_removal(&mut self) -> Option<SlotId> {
        if self.coming() <= self.kept() {
            return None;
        }
        let surplus = self.all(State::Free).last()?;
        self.states.insert(surplus, State::Cleaning);
        Some(surplus)
    }

    /// Notes that a slot is whole and closed.
    pub(crate) fn ready(&mut self, slot: SlotId) {
        self.states.insert(slot, State::Free);
    }

    /// Notes that a slot is not there any more.
    pub(crate) fn gone(&mut self, slot: SlotId) {
        self.states.remove(&slot);
    }

    /// Ends a sandbox's claim. Says no for a slot that is not this sandbox's.
    pub(crate) fn release(&mut self, slot: SlotId, id: &SandboxId) -> bool {
        let owned = self.owners.get(&slot) == Some(id);
        if owned {
            self.owners.remove(&slot);
            self.states.insert(slot, State::Cleaning);
        }
        owned
    }

    /// Decides what becomes of a slot that is being cleaned, and notes it.
    pub(crate) fn afterlife(&mut self, slot: SlotId) -> Afterlife {
        if self.coming() >= self.kept() {
            return Afterlife::Remove;
        }
        self.states.insert(slot, State::Refreshing);
        Afterlife::Reuse
    }

    /// Counts the slots in a state.
    pub(crate) fn count(&self, state: State) -> usize {
        self.all(state).count()
    }

    /// Counts the slots that are free or will be.
    fn coming(&self) -> usize {
        [State::Free, State::Building, State::Refreshing]
            .into_iter()
            .map(|state| self.count(state))
            .sum()
    }

    /// Counts the slots that may be free: what was needed at once lately may be needed again, and
    /// to build a slot takes many times as long as to reuse one. Enough for none to be missing in
    /// the next such burst, or each would build the spare ones beside those who wait.
    fn kept(&self) -> usize {
        let [before, now] = self.busiest;
        let burst = before.max(now) + self.spared();
        self.spare.max(burst.saturating_sub(self.owners.len())) + self.waiting
    }

    /// Counts the spare slots without which some are missing.
    fn spared(&self) -> usize {
        self.spare.div_ceil(2)
    }

    fn claim(&mut self, slot: SlotId, id: &SandboxId) {
        self.states.insert(slot, State::Claimed);
        self.owners.insert(slot, id.clone());
        self.busiest[1] = self.busiest[1].max(self.owners.len());
    }

    fn first(&self, state: State) -> Option<SlotId> {
        self.all(state).next()
    }

    fn all(&self, state: State) -> impl Iterator<Item = SlotId> {
        self.states.iter().filter(move |(_, known)| **known == state).map(|(slot, _)| *slot)
    }
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
