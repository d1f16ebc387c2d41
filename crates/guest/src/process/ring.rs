//! The retained lines of one stream, oldest first.

use std::collections::VecDeque;

/// What one line costs beside its text, so that a million empty lines are not free.
const LINE_OVERHEAD_BYTES: usize = 48;

/// One retained line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Its place among the lines of both streams.
    pub(crate) sequence: u64,
    /// When it was read, ms since 1970.
    pub(crate) at_ms: u64,
    /// The text, without newline.
    pub(crate) text: Box<str>,
}

/// Lines with a running index that never changes, though the oldest may be gone.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    lines: VecDeque<Line>,
    first: u64,
    bytes: usize,
}

// === impl Line ===

impl Line {
    /// Returns the memory that it is charged for.
    pub(crate) fn cost(&self) -> usize {
        self.text.len() + LINE_OVERHEAD_BYTES
    }
}

// === impl Ring ===

impl Ring {
    /// Returns the index of the oldest line still here, which is how many were dropped.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Returns the memory in use.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the line at an index, unless it was dropped or is yet to come.
    pub(crate) fn get(&self, index: u64) -> Option<&Line> {
        let offset = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.lines.get(offset)
    }

    /// Appends a line.
    pub(crate) fn push(&mut self, line: Line) {
        self.bytes += line.cost();
        self.lines.push_back(line);
    }

    /// Drops the oldest lines until at most `max_bytes` are in use, but none from `keep` on.
    pub(crate) fn shrink_to(&mut self, max_bytes: usize, keep: u64) {
        while self.bytes > max_bytes && self.first < keep {
            let Some(line) = self.lines.pop_front() else { break };
            self.bytes -= line.cost();
            self.first += 1;
        }
        if self.lines.len() < self.lines.capacity() / 4 {
            self.lines.shrink_to(self.lines.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Ring {
        /// The index that the next line will have.
        fn end(&self) -> u64 {
            self.first + self.lines.len() as u64
        }
    }

    fn line(sequence: u64, text: &str) -> Line {
        Line { sequence, at_ms: 0, text: text.into() }
    }

    #[test]
    fn the_oldest_lines_go_and_indexes_stay() {
        let mut ring = Ring::default();
        for number in 0..10 {
            ring.push(line(number, "xy"));
        }
        assert_eq!(ring.bytes(), 500);
        ring.shrink_to(149, u64::MAX);
        assert_eq!((ring.first(), ring.end(), ring.bytes()), (8, 10, 100));
        assert_eq!(ring.get(7), None);
        assert_eq!(ring.get(8), Some(&line(8, "xy")));
        assert_eq!(ring.get(10), None);
    }

    #[test]
    fn kept_lines_stay_whatever_they_cost() {
        let mut ring = Ring::default();
        for number in 0..10 {
            ring.push(line(number, ""));
        }
        ring.shrink_to(0, 4);
        assert_eq!((ring.first(), ring.end()), (4, 10));
    }

    proptest! {
        #[test]
        fn bytes_are_the_sum_of_the_costs(
            texts in prop::collection::vec("[a-z]{0,9}", 0..40),
            max in 0_usize..900,
            keep in 0_u64..50,
        ) {
            let mut ring = Ring::default();
            for (sequence, text) in (0..).zip(&texts) {
                ring.push(line(sequence, text));
                ring.shrink_to(max, keep);
            }
            let lines = (ring.first()..ring.end()).filter_map(|at| ring.get(at));
            let held: usize = lines.map(Line::cost).sum();
            prop_assert_eq!(ring.bytes(), held);
            prop_assert_eq!(ring.end(), texts.len() as u64);
            prop_assert!(ring.bytes() <= max || ring.first() >= keep.min(ring.end()));
        }
    }
}
