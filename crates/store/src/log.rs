//! Persisted output of processes: what a log store does, and the rules that all of them share.
//!
//! A store of its own beside [`Store`](crate::Store): it may lose the last moments in a crash of
//! the host, it may refuse for a while, and it never makes a sandbox wait. It keeps batches as they
//! came, and removes them as they came: the oldest of a sandbox beyond its cap, the oldest of all
//! beyond the total, and everything after the retention time.

mod memory;
mod page;

use async_trait::async_trait;
use tarn_types::{LogBatch, LogLevel, LogLine, LogProcess, ProjectId, SandboxId, UnixMillis};

use crate::StoreError;

pub use memory::MemoryLogStore;
pub use page::{PageBuilder, Progress, start_of_last};

/// Lines in one page at most (spec 08 §3).
pub const PAGE_LINES: usize = 1000;

/// Bytes of text after which a page ends, though more lines would be allowed.
pub const PAGE_BYTES: usize = 4 << 20;

/// Processes that are listed at most, those seen last.
pub const PROCESS_LIMIT: usize = 10_000;

/// What a line costs beside its text, and a process beside its command.
const LINE_COST: usize = 48;
const PROCESS_COST: usize = 128;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Bytes per sandbox; its newest batch stays whatever it costs.
    pub sandbox_bytes: u64,
    /// Bytes of all sandboxes together; beyond it the sandbox goes that was silent longest.
    pub total_bytes: u64,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogAppended {
    /// It is stored.
    Stored {
        /// Older lines, of whatever sandbox, that had to go for it.
        cut_lines: u64,
    },
    /// It was stored before.
    Repeated,
}

/// Which lines are meant. An empty list means any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogFilter {
    /// One of these levels.
    pub levels: Vec<LogLevel>,
    /// Of one of these processes.
    pub processes: Vec<u64>,
    /// With this text in the body.
    pub body: Option<String>,
}

/// Where a reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStart {
    /// Behind the line of this sequence; 0 is before the first.
    After(u64),
    /// So many matching lines before the end.
    Last(u64),
}

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    /// Whose lines.
    pub sandbox: SandboxId,
    /// Which of them.
    pub filter: LogFilter,
    /// From where on.
    pub start: LogStart,
    /// How many at most, over all pages; `None` = all.
    pub most: Option<u64>,
}

/// A line as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Its place among all lines of the sandbox, from 1; never used again.
    pub sequence: u64,
    /// The line.
    pub line: LogLine,
    /// Its process; `None` for a note on lines that the store let go.
    pub process: Option<LogProcess>,
}

/// Where the next page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPlace {
    /// Behind this line.
    pub after: u64,
    /// How many are still to come at most.
    pub most: Option<u64>,
}

/// Lines, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogPage {
    /// The lines.
    pub records: Vec<LogRecord>,
    /// Where it goes on, if there is more.
    pub next: Option<LogPlace>,
}

/// A process that has lines in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogProcessRecord {
    /// The process.
    pub process: LogProcess,
    /// When its first stored line was written.
    pub first_seen: UnixMillis,
    /// When its last stored line was written.
    pub last_seen: UnixMillis,
    /// How many of its lines are there.
    pub lines: u64,
}

/// Keeps the output of processes for a while.
#[async_trait]
pub trait LogStore: Send + Sync + 'static {
    /// Appends a batch at the end of its sandbox's lines, unless it was before.
    ///
    /// When it returns, the lines survive the death of the server.
    ///
    /// # Errors
    /// Fails only when the store does; nothing of the batch is stored then.
    async fn log_append(&self, batch: &LogBatch, at: UnixMillis)
    -> Result<LogAppended, StoreError>;

    /// Returns a page of a sandbox's lines; an empty one of a sandbox that has none.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn log_read(&self, query: &LogQuery) -> Result<LogPage, StoreError>;

    /// Returns the processes that have lines, in the order in which they were started; at most
    /// [`PROCESS_LIMIT`].
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn log_process_list(
        &self,
        sandbox: &SandboxId,
    ) -> Result<Vec<LogProcessRecord>, StoreError>;

    /// Returns whose lines those of a sandbox are.
    ///
    /// # Errors
    /// `NotFound` when the sandbox has none.
    async fn log_owner(&self, sandbox: &SandboxId) -> Result<ProjectId, StoreError>;

    /// Removes at most `limit` batches that were stored before `before`; returns how many.
    ///
    /// # Errors
    /// Fails only when the store does.
    async fn log_expire(&self, before: UnixMillis, limit: usize) -> Result<usize, StoreError>;
}

// === impl LogFilter ===

impl LogFilter {
    /// Says whether a line is meant.
    #[must_use]
    pub fn matches(&self, line: &LogLine) -> bool {
        (self.levels.is_empty() || self.levels.contains(&line.level))
            && (self.processes.is_empty() || self.processes.contains(&line.process))
            && self.matches_body(&line.body)
    }

    /// Says whether a note on lines that the store let go is meant: they may have been of any
    /// level and process.
    #[must_use]
    pub fn matches_cut(&self, note: &LogLine) -> bool {
        self.matches_body(&note.body)
    }

    fn matches_body(&self, body: &str) -> bool {
        self.body.as_ref().is_none_or(|part| body.contains(part.as_str()))
    }
}

/// Returns what a batch is charged for.
#[must_use]
pub fn cost(batch: &LogBatch) -> u64 {
    let lines = batch.lines.iter().map(|line| line.body.len() + LINE_COST).sum::<usize>();
    let processes = batch.processes.iter().map(|process| {
        let managed = [&process.managed_id, &process.managed_name];
        let managed: usize = managed.into_iter().flatten().map(String::len).sum();
        process.command.len() + managed + PROCESS_COST
    });
    (lines + processes.sum::<usize>()) as u64
}

/// Makes the note that stands in the place of lines that the store let go.
#[must_use]
pub fn cut_note(lines: u64, at: UnixMillis) -> LogLine {
    LogLine {
        process: 0,
        level: LogLevel::Warn,
        at,
        dropped: lines,
        body: LogLine::dropped_text(lines),
    }
}

/// Returns how many lines of each process a batch has, in the order of their numbers.
#[must_use]
pub fn counts(batch: &LogBatch) -> Vec<(u64, u64)> {
    let mut counts = std::collections::BTreeMap::new();
    for line in &batch.lines {
        *counts.entry(line.process).or_insert(0) += 1;
    }
    counts.into_iter().collect()
}
