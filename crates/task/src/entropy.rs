//! Randomness as a seam.

use parking_lot::Mutex;

/// Fills buffers with random bytes.
pub trait Entropy: Send + Sync + 'static {
    /// Fills the whole buffer.
    fn fill(&self, buffer: &mut [u8]);
}

/// The kernel's generator; fit for secrets.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

/// A repeatable sequence from a seed; for tests and simulation, never for secrets.
#[derive(Debug)]
pub struct SeededEntropy(Mutex<u64>);

impl dyn Entropy + '_ {
    /// Returns an array of random bytes.
    #[must_use]
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }
}

// === impl OsEntropy ===

impl Entropy for OsEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        getrandom::fill(buffer).expect("the kernel's generator does not fail once it is seeded");
    }
}

// === impl SeededEntropy ===

impl SeededEntropy {
    /// Starts the sequence of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        // SplitMix64: public domain, one multiplication chain a step, good enough for test ids.
        let mut state = self.0.lock();
        for chunk in buffer.chunks_mut(8) {
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = *state;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^= word >> 31;
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_fixes_the_sequence() {
        let draw = |seed| {
            let entropy: &dyn Entropy = &SeededEntropy::new(seed);
            entropy.bytes::<21>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
