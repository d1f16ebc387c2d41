//! The key under which the outcome of a step is kept.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::Effect;

/// What is counted into every key: it changes when the same instruction comes to mean another
/// thing.
const VERSION: &str = "tarn-build-2";

/// Names the files that a chain of steps leads to. Equal keys mean equal files, as far as the
/// commands that were run are told the same things.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheKey([u8; 32]);

// === impl CacheKey ===

impl CacheKey {
    /// Returns the key of a base: what it is, and how large its disk is.
    #[must_use]
    pub fn base(identity: &str, disk_bytes: u64) -> Self {
        Self::of(&[VERSION.as_bytes(), identity.as_bytes(), &disk_bytes.to_le_bytes()])
    }

    /// Returns the key of what an effect makes of this. `content` names what is copied.
    #[must_use]
    pub fn then(self, effect: &Effect, content: Option<Self>) -> Self {
        // An effect is made of text, lists and numbers: it can always be written.
        let effect = serde_json::to_vec(effect).unwrap_or_default();
        let content = content.map(|key| key.0).unwrap_or_default();
        Self::of(&[&self.0, &effect, &content])
    }

    /// Returns the key of some parts.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// Returns its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
