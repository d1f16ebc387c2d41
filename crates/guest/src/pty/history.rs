//! The last output of a terminal, by position. Pure.

use std::collections::VecDeque;

/// How much is kept (spec 05 §4).
pub(crate) const HISTORY_BYTES: usize = 1 << 20;

/// The last bytes of a stream; each keeps its position in it for ever.
#[derive(Debug, Default)]
pub(crate) struct History {
    bytes: VecDeque<u8>,
    end: u64,
}

// === impl History ===

impl History {
    /// Returns the position of the oldest byte that is kept.
    pub(crate) fn start(&self) -> u64 {
        self.end - self.bytes.len() as u64
    }

    /// Returns the position after the newest byte.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Adds bytes; the oldest go.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.end += bytes.len() as u64;
        let kept = bytes.get(bytes.len().saturating_sub(HISTORY_BYTES)..).unwrap_or_default();
        let excess = (self.bytes.len() + kept.len()).saturating_sub(HISTORY_BYTES);
        self.bytes.drain(..excess);
        self.bytes.extend(kept);
    }

    /// Copies bytes from a position on; returns the position after them. One that is kept no more
    /// means the oldest that is.
    pub(crate) fn read(&self, from: u64, into: &mut [u8]) -> (usize, u64) {
        let from = from.max(self.start());
        let skip = usize::try_from(from - self.start()).unwrap_or(usize::MAX);
        let (first, second) = self.bytes.as_slices();
        let first_part = first.get(skip..).unwrap_or_default();
        let second_part = second.get(skip.saturating_sub(first.len())..).unwrap_or_default();
        let mut copied = 0;
        for part in [first_part, second_part] {
            let room = into.get_mut(copied..).unwrap_or_default();
            let count = part.len().min(room.len());
            if let (Some(room), Some(part)) = (room.get_mut(..count), part.get(..count)) {
                room.copy_from_slice(part);
            }
            copied += count;
        }
        (copied, from + copied as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_mebibyte_is_kept() {
        let mut history = History::default();
        for number in 0..40_u8 {
            history.push(&vec![number; 32 << 10]);
        }
        assert_eq!(history.end(), 40 * (32 << 10));
        assert_eq!(history.start(), history.end() - HISTORY_BYTES as u64);
        let mut out = vec![0; 10];
        assert_eq!(history.read(0, &mut out), (10, history.start() + 10));
        assert_eq!(out, [8; 10]);
        assert_eq!(history.read(history.end(), &mut out), (0, history.end()));
        history.push(&vec![7; 3 * HISTORY_BYTES]);
        assert_eq!(history.end() - history.start(), HISTORY_BYTES as u64);
        assert_eq!(history.end(), 40 * (32 << 10) + 3 * HISTORY_BYTES as u64);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn a_reader_that_keeps_up_misses_nothing(
            writes in prop::collection::vec((0_usize..200_000, 1_usize..70_000), 1..30),
        ) {
            let mut history = History::default();
            let (mut at, mut seen, mut sent) = (0, 0_u64, 0_u64);
            for (length, room) in writes {
                // Byte `n` of the stream is `n % 251`.
                let bytes: Vec<u8> =
                    (sent..sent + length as u64).map(|n| (n % 251) as u8).collect();
                history.push(&bytes);
                sent += length as u64;
                let mut buffer = vec![0; room];
                loop {
                    let (count, next) = history.read(at, &mut buffer);
                    if count == 0 {
                        break;
                    }
                    for (byte, n) in buffer[..count].iter().zip(at..) {
                        prop_assert_eq!(u64::from(*byte), n % 251);
                    }
                    (seen, at) = (seen + count as u64, next);
                }
            }
            prop_assert_eq!((seen, at), (sent, sent));
        }
    }
}
