//! What a build says while it runs: the log that clients follow, and the end of it for errors.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::mpsc;

/// How many of the last lines of a command an error repeats.
const TAIL_LINES: usize = 20;

/// The most bytes of a line that an error repeats.
const TAIL_LINE_BYTES: usize = 400;

/// How many lines wait for a reader that is slow; what comes beyond is left out of the log.
const BACKLOG_LINES: usize = 8192;

/// Takes what a build says. Clones are the same journal.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    lines: mpsc::Sender<String>,
    tail: Arc<Mutex<VecDeque<String>>>,
    lost: Arc<Mutex<usize>>,
}

// === impl Journal ===

impl Journal {
    /// Makes a journal and its reader.
    pub(crate) fn new() -> (Self, mpsc::Receiver<String>) {
        let (lines, reader) = mpsc::channel(BACKLOG_LINES);
        (Self { lines, tail: Arc::default(), lost: Arc::default() }, reader)
    }

    /// Says what is about to be done.
    pub(crate) fn note(&self, line: impl Into<String>) {
        self.tail.lock().clear();
        self.send(line.into());
    }

    /// Repeats a line of a command.
    pub(crate) fn output(&self, line: &str) {
        let mut tail = self.tail.lock();
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        let end = line.floor_char_boundary(TAIL_LINE_BYTES);
        tail.push_back(line[..end].to_owned());
        drop(tail);
        self.send(line.to_owned());
    }

    /// Returns the last lines of the command that runs, each with its newline in front.
    pub(crate) fn tail(&self) -> String {
        self.tail.lock().iter().flat_map(|line| ["\n", line]).collect()
    }

    fn send(&self, line: String) {
        let mut lost = self.lost.lock();
        if *lost > 0 && self.lines.capacity() > 1 {
            let note = format!("[tarn: {lost} lines are left out here]");
            // There is room for two, and nobody else sends meanwhile.
            if self.lines.try_send(note).is_ok() {
                *lost = 0;
            }
        }
        if self.lines.try_send(line).is_err() {
            *lost += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_reader_is_told_what_it_missed() {
        let (journal, mut reader) = Journal::new();
        for n in 0..BACKLOG_LINES + 3 {
            journal.output(&n.to_string());
        }
        for _ in 0..2 {
            reader.try_recv().expect("a line");
        }
        journal.output("next");
        let mut rest = Vec::new();
        while let Ok(line) = reader.try_recv() {
            rest.push(line);
        }
        let end: Vec<_> = rest.iter().rev().take(2).map(String::as_str).collect();
        assert_eq!(end, ["next", "[tarn: 3 lines are left out here]"]);
        assert!(journal.tail().ends_with("\nnext"));
        assert_eq!(journal.tail().matches('\n').count(), TAIL_LINES);
        journal.note("RUN");
        assert_eq!(journal.tail(), "");
    }
}
