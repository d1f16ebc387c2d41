//! What a build says while it runs: the log that clients follow, and the end of it for errors.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::mpsc;

/// How many of the last lines of a command an error repeats.
const TAIL_LINES: usize = 20;

/// The most bytes of a line that an error repeats.
const TAIL_LINE_BYTES: usize = 400;

/// How many lines wait for a reader that is slow, and how many bytes; what comes beyond is left out
/// of the log.
const BACKLOG_LINES: usize = 8192;
const BACKLOG_BYTES: usize = 4 << 20;

/// The most bytes of a line of the log; of a longer one the end is left out.
const LINE_BYTES: usize = 64 << 10;

/// The most bytes of what is said about what is left out.
const NOTE_BYTES: usize = 64;

/// Takes what a build says. Clones are the same journal.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    lines: mpsc::Sender<String>,
    /// How many bytes wait.
    waiting: Arc<AtomicUsize>,
    tail: Arc<Mutex<VecDeque<String>>>,
    lost: Arc<Mutex<usize>>,
}

/// Returns what a build says.
#[derive(Debug)]
pub(crate) struct Lines {
    lines: mpsc::Receiver<String>,
    waiting: Arc<AtomicUsize>,
}

// === impl Journal ===

impl Journal {
    /// Makes a journal and its reader.
    pub(crate) fn new() -> (Self, Lines) {
        let (lines, reader) = mpsc::channel(BACKLOG_LINES);
        let waiting = Arc::<AtomicUsize>::default();
        let reader = Lines { lines: reader, waiting: Arc::clone(&waiting) };
        (Self { lines, waiting, tail: Arc::default(), lost: Arc::default() }, reader)
    }

    /// Says what is about to be done.
    pub(crate) fn note(&self, line: impl Into<String>) {
        self.tail.lock().clear();
        self.send(&line.into());
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
        self.send(line);
    }

    /// Returns the last lines of the command that runs, each with its newline in front.
    pub(crate) fn tail(&self) -> String {
        self.tail.lock().iter().flat_map(|line| ["\n", line]).collect()
    }

    fn send(&self, line: &str) {
        let line = shortened(line);
        let mut lost = self.lost.lock();
        // Nobody else sends meanwhile, and the reader only makes room.
        let bytes = self.waiting.load(Ordering::Relaxed) + line.len();
        let fits = if *lost == 0 {
            self.lines.capacity() > 0 && bytes <= BACKLOG_BYTES
        } else {
            self.lines.capacity() > 1 && bytes + NOTE_BYTES <= BACKLOG_BYTES
        };
        if !fits {
            *lost += 1;
            return;
        }
        if *lost > 0 {
            self.push(format!("[tarn: {lost} lines are left out here]"));
            *lost = 0;
        }
        self.push(line);
    }

    fn push(&self, line: String) {
        let bytes = line.len();
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
        // There is room for it, unless nobody reads any more.
        if self.lines.try_send(line).is_err() {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

// === impl Lines ===

impl Lines {
    /// Waits for the next line; `None` = nobody says anything any more.
    pub(crate) async fn recv(&mut self) -> Option<String> {
        let line = self.lines.recv().await;
        self.taken(line)
    }

    /// Returns the next line, if it is there.
    pub(crate) fn try_recv(&mut self) -> Option<String> {
        let line = self.lines.try_recv().ok();
        self.taken(line)
    }

    fn taken(&self, line: Option<String>) -> Option<String> {
        let bytes = line.as_ref().map_or(0, String::len);
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        line
    }
}

/// Leaves out the end of a line that is too long.
fn shortened(line: &str) -> String {
    if line.len() <= LINE_BYTES {
        return line.to_owned();
    }
    let end = line.floor_char_boundary(LINE_BYTES - NOTE_BYTES);
    format!("{} [tarn: {} bytes are left out here]", &line[..end], line.len() - end)
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
        while let Some(line) = reader.try_recv() {
            rest.push(line);
        }
        let end: Vec<_> = rest.iter().rev().take(2).map(String::as_str).collect();
        assert_eq!(end, ["next", "[tarn: 3 lines are left out here]"]);
        assert!(journal.tail().ends_with("\nnext"));
        assert_eq!(journal.tail().matches('\n').count(), TAIL_LINES);
        journal.note("RUN");
        assert_eq!(journal.tail(), "");
    }

    #[test]
    fn what_waits_is_bounded_in_bytes() {
        let (journal, mut reader) = Journal::new();
        let line = "x".repeat(LINE_BYTES);
        let fit = BACKLOG_BYTES / LINE_BYTES;
        for _ in 0..fit + 2 {
            journal.output(&line);
        }
        assert_eq!(journal.waiting.load(Ordering::Relaxed), BACKLOG_BYTES);
        // A short one must not overtake the note.
        journal.output("");
        reader.try_recv().expect("a line");
        journal.output("next");
        let rest: Vec<_> = std::iter::from_fn(|| reader.try_recv()).collect();
        assert_eq!(rest.len(), fit + 1);
        assert_eq!(rest[fit - 1..], ["[tarn: 3 lines are left out here]", "next"]);
        assert_eq!(journal.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_line_is_bounded() {
        for (line, expected) in [
            ("short".to_owned(), "short".to_owned()),
            ("x".repeat(LINE_BYTES), "x".repeat(LINE_BYTES)),
            (
                "é".repeat(LINE_BYTES),
                format!("{} [tarn: 65600 bytes are left out here]", "é".repeat(32_736)),
            ),
        ] {
            let (journal, mut reader) = Journal::new();
            journal.note(line);
            let said = reader.try_recv().expect("a line");
            assert!(said == expected && said.len() <= LINE_BYTES, "{}", &said[said.len() - 50..]);
        }
    }
}
