//! Data keys that a key service has opened, for a while, so that it is not asked for each sandbox.

use std::collections::HashMap;

use parking_lot::Mutex;
use tarn_seal::Key;
use tarn_store::DataKeyRecord;
use tarn_types::{ProjectId, UnixMillis};

/// How many are kept at a time; each is a project's.
const MOST: usize = 1024;

/// Opened data keys. They are wiped when they go.
#[derive(Debug)]
pub(super) struct OpenedKeys {
    kept_millis: u64,
    keys: Mutex<HashMap<ProjectId, Opened>>,
}

#[derive(Debug)]
struct Opened {
    /// What it was opened from: one that was sealed anew is opened anew.
    wrapped: Vec<u8>,
    key: Key,
    at: UnixMillis,
}

// === impl OpenedKeys ===

impl OpenedKeys {
    pub(super) fn new(kept_secs: u64) -> Self {
        Self { kept_millis: kept_secs.saturating_mul(1000), keys: Mutex::default() }
    }

    /// Returns the key of a record, if it was opened lately.
    pub(super) fn find(&self, record: &DataKeyRecord, now: UnixMillis) -> Option<Key> {
        let mut keys = self.keys.lock();
        let opened = keys.get(&record.project)?;
        if !self.is_fresh(opened, now) {
            keys.remove(&record.project);
            return None;
        }
        (opened.wrapped == record.wrapped).then(|| opened.key.clone())
    }

    /// Keeps a key; the one that was opened first makes room.
    pub(super) fn keep(&self, record: &DataKeyRecord, key: &Key, now: UnixMillis) {
        if self.kept_millis == 0 {
            return;
        }
        let mut keys = self.keys.lock();
        keys.retain(|_project, opened| self.is_fresh(opened, now));
        if keys.len() >= MOST
            && let Some(first) = keys.iter().min_by_key(|(_, opened)| opened.at)
        {
            let first = first.0.clone();
            keys.remove(&first);
        }
        let opened = Opened { wrapped: record.wrapped.clone(), key: key.clone(), at: now };
        keys.insert(record.project.clone(), opened);
    }

    pub(super) fn clear(&self) {
        self.keys.lock().clear();
    }

    /// A clock that was set back makes none last longer.
    fn is_fresh(&self, opened: &Opened, now: UnixMillis) -> bool {
        now >= opened.at && now.millis_since(opened.at) < self.kept_millis
    }
}

#[cfg(test)]
mod tests {
    use tarn_task::{Entropy, SeededEntropy};
    use zeroize::Zeroizing;

    use super::*;

    fn record(project: u16, wrapped: u8) -> DataKeyRecord {
        let entropy: &dyn Entropy = &SeededEntropy::new(u64::from(project));
        let project = ProjectId::from_random(entropy.bytes());
        DataKeyRecord { project, wrapping: "kms:k".to_owned(), wrapped: vec![wrapped] }
    }

    fn key(byte: u8) -> Key {
        Key::new(Zeroizing::new([byte; 32]))
    }

    #[test]
    fn a_key_is_found_for_a_while_and_only_as_it_was_sealed() {
        let opened = OpenedKeys::new(10);
        let at = |secs| UnixMillis(1_000_000).plus_secs(secs);
        opened.keep(&record(1, 1), &key(7), at(0));
        for (what, record, now, is_found) in [
            ("at once", record(1, 1), at(0), true),
            ("in time", record(1, 1), at(9), true),
            ("sealed anew", record(1, 2), at(9), false),
            ("of another project", record(2, 1), at(9), false),
            ("too late", record(1, 1), at(10), false),
            ("and gone", record(1, 1), at(5), false),
        ] {
            let found = opened.find(&record, now);
            assert_eq!(found.map(|key| key.bytes()[0]), is_found.then_some(7), "{what}");
        }
        opened.keep(&record(1, 1), &key(7), at(100));
        assert!(opened.find(&record(1, 1), at(50)).is_none(), "the clock was set back");
        opened.keep(&record(1, 1), &key(7), at(100));
        opened.clear();
        assert!(opened.find(&record(1, 1), at(100)).is_none());
        let never = OpenedKeys::new(0);
        never.keep(&record(1, 1), &key(7), at(0));
        assert!(never.find(&record(1, 1), at(0)).is_none());
    }

    #[test]
    fn there_are_never_more_than_the_bound() {
        let opened = OpenedKeys::new(1_000_000);
        for number in 0..1100 {
            opened.keep(&record(number, 1), &key(1), UnixMillis(i64::from(number)));
        }
        assert_eq!(opened.keys.lock().len(), MOST);
        let now = UnixMillis(1100);
        assert!(opened.find(&record(75, 1), now).is_none(), "the oldest made room");
        assert!(opened.find(&record(76, 1), now).is_some());
    }
}
