//! So many entries and no more: what is alike within a while is one, and the oldest give way. Pure.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use tarn_types::UnixMillis;

/// For how long after the first of them attempts that are alike are one entry.
pub(super) const MERGED_MS: u64 = 60_000;

/// Entries of one kind, oldest first. `K` is what makes two attempts alike.
#[derive(Debug)]
pub(super) struct Ring<K> {
    most: usize,
    entries: VecDeque<Item<K>>,
    /// The newest entry of each kind that there is.
    newest: HashMap<K, u64>,
    /// The number of the oldest entry that there is.
    first: u64,
}

/// Attempts that are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item<K> {
    pub(super) key: K,
    pub(super) first: UnixMillis,
    pub(super) last: UnixMillis,
    pub(super) count: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
}

// === impl Ring ===

impl<K: Clone + Eq + Hash> Ring<K> {
    pub(super) fn new(most: usize) -> Self {
        Self { most, entries: VecDeque::new(), newest: HashMap::new(), first: 0 }
    }

    /// Notes an attempt; returns the number of its entry.
    pub(super) fn note(&mut self, key: K, at: UnixMillis) -> u64 {
        if let Some(number) = self.newest.get(&key).copied()
            && let Some(item) = self.item(number)
            && at.millis_since(item.first) < MERGED_MS
        {
            item.count += 1;
            item.last = item.last.max(at);
            return number;
        }
        if self.entries.len() >= self.most {
            self.drop_oldest();
        }
        let number = self.first + self.entries.len() as u64;
        self.newest.insert(key.clone(), number);
        let item = Item { key, first: at, last: at, count: 1, sent: 0, received: 0 };
        self.entries.push_back(item);
        number
    }

    /// Returns the entry of a number, unless it has given way.
    pub(super) fn item(&mut self, number: u64) -> Option<&mut Item<K>> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(at)
    }

    pub(super) fn items(&self) -> impl Iterator<Item = (u64, &Item<K>)> {
        (self.first..).zip(&self.entries)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns how many entries gave way to newer ones.
    pub(super) fn dropped(&self) -> u64 {
        self.first
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.entries.pop_front() else { return };
        if self.newest.get(&oldest.key) == Some(&self.first) {
            self.newest.remove(&oldest.key);
        }
        self.first += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_alike_within_a_minute_is_one_entry() {
        let mut ring = Ring::new(10);
        for (key, at, expected) in
            [('a', 0, 0), ('b', 10, 1), ('a', 59_999, 0), ('a', 60_000, 2), ('a', 60_001, 2)]
        {
            assert_eq!(ring.note(key, UnixMillis(at)), expected, "{key} at {at}");
        }
        let shown: Vec<_> = ring
            .items()
            .map(|(_, item)| (item.key, item.first.0, item.last.0, item.count))
            .collect();
        assert_eq!(shown, [('a', 0, 59_999, 2), ('b', 10, 10, 1), ('a', 60_000, 60_001, 2)]);
        assert_eq!(ring.dropped(), 0);
    }

    #[test]
    fn the_oldest_give_way_and_are_counted() {
        let mut ring = Ring::new(2);
        for key in ['a', 'b', 'c'] {
            ring.note(key, UnixMillis(0));
        }
        assert_eq!((ring.len(), ring.dropped()), (2, 1));
        assert!(ring.item(0).is_none() && ring.item(1).is_some());
        assert_eq!(ring.note('a', UnixMillis(1)), 3, "it is not the one that gave way");
    }

    #[test]
    fn a_clock_that_is_set_back_starts_no_new_entry_and_ends_none() {
        let mut ring = Ring::new(2);
        assert_eq!(ring.note('a', UnixMillis(100_000)), 0);
        assert_eq!(ring.note('a', UnixMillis(1)), 0);
        assert_eq!(ring.items().next().map(|(_, item)| item.last.0), Some(100_000));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_without_being_counted(
            notes in proptest::collection::vec((0..20_u8, 0..200_000_i64), 0..300)
        ) {
            let mut ring = Ring::new(7);
            let mut given = 0;
            for (key, at) in &notes {
                let before: u64 = ring.items().map(|(_, item)| item.count).sum();
                let number = ring.note(*key, UnixMillis(*at));
                let after: u64 = ring.items().map(|(_, item)| item.count).sum();
                given += before + 1 - after;
                prop_assert_eq!(ring.item(number).map(|item| item.key), Some(*key));
                prop_assert!(ring.len() <= 7 && ring.newest.len() <= 7);
            }
            let kept: u64 = ring.items().map(|(_, item)| item.count).sum();
            prop_assert_eq!(kept + given, notes.len() as u64);
            prop_assert!(ring.dropped() <= given);
        }
    }
}
