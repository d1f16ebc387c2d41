//! The retained lines of one stream, oldest first.
//!
//! Text is kept in blocks of many lines, not in one allocation per line: a stream of short lines
//! comes by the hundred thousand a second. A block is freed when its last line is dropped, so a
//! ring holds at most one block more than it is charged for.

use std::collections::VecDeque;

/// What one line costs beside its text: a mark, and its share of a block.
const LINE_OVERHEAD_BYTES: usize = 16;

/// A block takes no further line beyond this much text or this many lines.
const BLOCK_TEXT_BYTES: usize = 64 << 10;
const BLOCK_LINES: usize = 4096;

/// One retained line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// Its place among the lines of both streams.
    pub(crate) sequence: u64,
    /// When it was read, ms since 1970.
    pub(crate) at_ms: u64,
    /// The text, without newline.
    pub(crate) text: &'a str,
}

/// Lines with a running index that never changes, though the oldest may be gone.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    blocks: VecDeque<Block>,
    first: u64,
    end: u64,
    bytes: usize,
}

/// Lines one after the other.
#[derive(Debug)]
struct Block {
    /// The index of its first line, dropped or not.
    first: u64,
    /// What the marks count from.
    sequence: u64,
    at_ms: u64,
    text: String,
    marks: Vec<Mark>,
}

/// Where a line ends in its block's text, and the rest of it, relative to the block.
#[derive(Clone, Copy, Debug)]
struct Mark {
    end: u32,
    sequence: u32,
    after_ms: u32,
}

// === impl Line ===

impl Line<'_> {
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

    /// Returns the index that the next line will have.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Returns the memory in use.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the line at an index, unless it was dropped or is yet to come.
    pub(crate) fn get(&self, index: u64) -> Option<Line<'_>> {
        if index < self.first || index >= self.end {
            return None;
        }
        let after = self.blocks.partition_point(|block| block.first <= index);
        let block = self.blocks.get(after.checked_sub(1)?)?;
        block.get(usize::try_from(index - block.first).ok()?)
    }

    /// Appends a line.
    pub(crate) fn push(&mut self, line: Line<'_>) {
        let mark = self.blocks.back().and_then(|block| block.mark(&line));
        let mark = mark.unwrap_or_else(|| {
            if let Some(full) = self.blocks.back_mut() {
                full.seal();
            }
            self.blocks.push_back(Block::new(self.end, &line));
            Mark::first(&line)
        });
        if let Some(block) = self.blocks.back_mut() {
            block.text.push_str(line.text);
            block.marks.push(mark);
        }
        self.end += 1;
        self.bytes += line.cost();
    }

    /// Drops all lines.
    pub(crate) fn clear(&mut self) {
        (self.blocks, self.first, self.bytes) = (VecDeque::new(), self.end, 0);
    }

    /// Drops the oldest lines until at most `max_bytes` are in use, but none from `keep` on.
    pub(crate) fn shrink_to(&mut self, max_bytes: usize, keep: u64) {
        while self.bytes > max_bytes && self.first < keep {
            // The oldest line is in the oldest block.
            let Some(block) = self.blocks.front() else { break };
            let at = usize::try_from(self.first - block.first).unwrap_or(usize::MAX);
            let Some(cost) = block.get(at).map(|line| line.cost()) else { break };
            self.bytes -= cost;
            self.first += 1;
            if block.end() <= self.first {
                self.blocks.pop_front();
            }
        }
        if self.blocks.is_empty() {
            self.blocks = VecDeque::new();
        }
    }
}

// === impl Block ===

impl Block {
    fn new(first: u64, line: &Line<'_>) -> Self {
        let Line { sequence, at_ms, .. } = *line;
        Self { first, sequence, at_ms, text: String::new(), marks: Vec::new() }
    }

    fn end(&self) -> u64 {
        self.first + self.marks.len() as u64
    }

    /// Returns the mark for a further line, unless it needs a new block.
    fn mark(&self, line: &Line<'_>) -> Option<Mark> {
        let end = self.text.len() + line.text.len();
        if end > BLOCK_TEXT_BYTES || self.marks.len() >= BLOCK_LINES {
            return None;
        }
        Some(Mark {
            end: u32::try_from(end).ok()?,
            sequence: u32::try_from(line.sequence.checked_sub(self.sequence)?).ok()?,
            // The clock may be set back: then a new block counts from there.
            after_ms: u32::try_from(line.at_ms.checked_sub(self.at_ms)?).ok()?,
        })
    }

    fn get(&self, at: usize) -> Option<Line<'_>> {
        let mark = self.marks.get(at)?;
        let start = match at.checked_sub(1) {
            Some(before) => self.marks.get(before)?.end,
            None => 0,
        };
        Some(Line {
            sequence: self.sequence + u64::from(mark.sequence),
            at_ms: self.at_ms + u64::from(mark.after_ms),
            text: self.text.get(start as usize..mark.end as usize)?,
        })
    }

    /// Gives back what was reserved for lines that now go elsewhere.
    fn seal(&mut self) {
        self.text.shrink_to_fit();
        self.marks.shrink_to_fit();
    }
}

// === impl Mark ===

impl Mark {
    /// The mark of a block's first line, which is at most [`tarn_daemon_api::MAX_LINE_BYTES`].
    fn first(line: &Line<'_>) -> Self {
        let end = u32::try_from(line.text.len()).unwrap_or(u32::MAX);
        Self { end, sequence: 0, after_ms: 0 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(sequence: u64, text: &str) -> Line<'_> {
        Line { sequence, at_ms: 0, text }
    }

    #[test]
    fn the_oldest_lines_go_and_indexes_stay() {
        let mut ring = Ring::default();
        for number in 0..10 {
            ring.push(line(number, "xy"));
        }
        assert_eq!(ring.bytes(), 180);
        ring.shrink_to(53, u64::MAX);
        assert_eq!((ring.first(), ring.end(), ring.bytes()), (8, 10, 36));
        assert_eq!(ring.get(7), None);
        assert_eq!(ring.get(8), Some(line(8, "xy")));
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

    #[test]
    fn lines_keep_their_time_and_place_over_blocks_and_leaps() {
        let mut ring = Ring::default();
        let long = "y".repeat(tarn_daemon_api::MAX_LINE_BYTES);
        let texts = ["a", &long, "", "b", &long, &long];
        // A clock that is set back, forward by years, and a gap in the places.
        let stamps = [(0, 9), (1, 5), (2, 1 << 40), (1 << 33, 1 << 41), (1 << 34, 7), (1 << 35, 7)];
        for (text, (sequence, at_ms)) in texts.iter().zip(stamps) {
            ring.push(Line { sequence, at_ms, text });
        }
        for (index, (text, (sequence, at_ms))) in (0..).zip(texts.iter().zip(stamps)) {
            assert_eq!(ring.get(index), Some(Line { sequence, at_ms, text }), "{index}");
        }
    }

    #[test]
    fn memory_follows_the_charge() {
        let mut ring = Ring::default();
        for number in 0..100_000 {
            ring.push(line(number, "0123456789abcdef"));
        }
        ring.shrink_to(100_000, u64::MAX);
        let held: usize = ring
            .blocks
            .iter()
            .map(|block| block.text.capacity() + block.marks.capacity() * size_of::<Mark>())
            .sum();
        assert!(held < 100_000 + 3 * BLOCK_TEXT_BYTES, "{held}");
        ring.shrink_to(0, u64::MAX);
        assert_eq!((ring.blocks.capacity(), ring.bytes()), (0, 0));
        ring.push(line(1, "again"));
        assert_eq!(ring.get(100_000), Some(line(1, "again")));
        ring.clear();
        assert_eq!((ring.blocks.capacity(), ring.bytes()), (0, 0));
        assert_eq!((ring.first(), ring.end(), ring.get(100_000)), (100_001, 100_001, None));
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
            let held: usize = lines.map(|line| line.cost()).sum();
            prop_assert_eq!(ring.bytes(), held);
            prop_assert_eq!(ring.end(), texts.len() as u64);
            prop_assert!(ring.bytes() <= max || ring.first() >= keep.min(ring.end()));
        }
    }
}
