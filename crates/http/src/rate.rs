//! How many requests a key may send: so many at once, then so many a second.
//!
//! The generic cell rate algorithm: of each key one time is kept, the one at which it will have
//! all its tokens again. Not a library: those that keep such a time keep their own clock, too, and
//! this is a dozen lines.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tarn_types::KeyId;
use tokio::time::Instant;

/// A limit of requests per key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// How many a second over time; at least 1.
    pub per_sec: u32,
    /// How many at once, after a silence; at least 1.
    pub burst: u32,
}

/// What keys have sent.
#[derive(Debug)]
pub(crate) struct Rates {
    limit: RateLimit,
    keys: Mutex<Keys>,
}

#[derive(Debug)]
struct Keys {
    /// When each has all its tokens again. Those that have need not be here.
    full_at: HashMap<KeyId, Instant>,
    /// At how many they are looked through for such.
    look_at: usize,
}

/// At how many keys they are first looked through.
const LOOK_FIRST: usize = 64;

// === impl RateLimit ===

impl RateLimit {
    /// Returns when the key has all its tokens again if it sends a request now, or how long it must
    /// wait before it may.
    fn judge(self, full_at: Option<Instant>, now: Instant) -> Result<Instant, Duration> {
        let token = Duration::from_secs(1) / self.per_sec.max(1);
        // So many tokens less than all are none.
        let most = token.saturating_mul(self.burst.max(1));
        let next = full_at.map_or(now, |at| at.max(now)) + token;
        let missing = next.duration_since(now).saturating_sub(most);
        if missing.is_zero() { Ok(next) } else { Err(missing) }
    }
}

// === impl Rates ===

impl Rates {
    pub(crate) fn new(limit: RateLimit) -> Self {
        let keys = Keys { full_at: HashMap::new(), look_at: LOOK_FIRST };
        Self { limit, keys: Mutex::new(keys) }
    }

    /// Notes a request of a valid key.
    ///
    /// # Errors
    /// Returns how long it must wait if there were too many.
    pub(crate) fn note(&self, key: &KeyId) -> Result<(), Duration> {
        let now = Instant::now();
        let mut keys = self.keys.lock();
        let next = self.limit.judge(keys.full_at.get(key).copied(), now)?;
        match keys.full_at.get_mut(key) {
            Some(full_at) => *full_at = next,
            None => keys.insert(key.clone(), next, now),
        }
        Ok(())
    }
}

// === impl Keys ===

impl Keys {
    /// Adds a key, and forgets those that were silent long enough once there are many.
    fn insert(&mut self, key: KeyId, full_at: Instant, now: Instant) {
        if self.full_at.len() >= self.look_at {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.look_at = self.full_at.len().saturating_mul(2).max(LOOK_FIRST);
        }
        self.full_at.insert(key, full_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> KeyId {
        KeyId::from_random([number; 16])
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_then_so_many_a_second() {
        let rates = Rates::new(RateLimit { per_sec: 4, burst: 3 });
        for _ in 0..3 {
            assert_eq!(rates.note(&key(1)), Ok(()));
        }
        let quarter = Duration::from_millis(250);
        assert_eq!(rates.note(&key(1)), Err(quarter));
        assert_eq!(rates.note(&key(1)), Err(quarter), "what is refused costs nothing");
        assert_eq!(rates.note(&key(2)), Ok(()), "each key has its own");
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(rates.note(&key(1)), Err(Duration::from_millis(150)));
        tokio::time::advance(Duration::from_millis(150)).await;
        assert_eq!(rates.note(&key(1)), Ok(()));
        assert_eq!(rates.note(&key(1)), Err(quarter));
        tokio::time::advance(Duration::from_secs(60)).await;
        for _ in 0..3 {
            assert_eq!(rates.note(&key(1)), Ok(()));
        }
        assert_eq!(rates.note(&key(1)), Err(quarter), "no more than a burst is saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn keys_that_are_silent_are_forgotten() {
        let rates = Rates::new(RateLimit { per_sec: 1, burst: 1 });
        for number in 0..=u8::MAX {
            let mut random = [0; 16];
            (random[0], random[1]) = (number / 36, number % 36);
            assert_eq!(rates.note(&KeyId::from_random(random)), Ok(()));
            tokio::time::advance(Duration::from_millis(500)).await;
        }
        let kept = rates.keys.lock().full_at.len();
        assert!(kept <= LOOK_FIRST, "{kept}");
    }
}
