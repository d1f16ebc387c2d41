//! What processes printed: taken from nodes, kept for a while, shown to whose it is (spec 08 §3).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};
use tarn_node_api::{LogSink, LogSinkError};
use tarn_store::{
    StoreError,
    log::{
        LogAppended, LogFilter, LogPlace, LogProcessRecord, LogQuery, LogRecord, LogStart, cost,
    },
};
use tarn_types::{LogBatch, ProjectId, SandboxId, SandboxRef};

use crate::{Control, ControlError};

/// What to read of a sandbox's lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogAsk {
    /// Which lines.
    pub filter: LogFilter,
    /// From where on.
    pub start: LogStart,
    /// How many at most, over all pages; `None` = all.
    pub most: Option<u64>,
}

/// A page of lines, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogView {
    /// Whose lines they are.
    pub sandbox: SandboxId,
    /// The lines.
    pub entries: Vec<LogEntry>,
    /// Where it goes on, if there is more.
    pub next: Option<LogPlace>,
    /// How long lines are kept, in days.
    pub retention_days: u32,
}

/// A line and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Names the line for ever, and the same at each reading.
    pub uuid: String,
    /// The line.
    pub record: LogRecord,
}

/// How much was taken since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogCounts {
    /// Lines stored.
    pub lines: u64,
    /// Bytes they are charged for.
    pub bytes: u64,
    /// Lines that sandboxes could not hold until they were read.
    pub dropped_by_sandbox: u64,
    /// Lines that went because of a cap of the store.
    pub dropped_by_store: u64,
    /// Batches that could not be stored when they came.
    pub failures: u64,
}

/// Counts what was taken.
#[derive(Debug, Default)]
pub(crate) struct LogCounters {
    lines: AtomicU64,
    bytes: AtomicU64,
    dropped_by_sandbox: AtomicU64,
    dropped_by_store: AtomicU64,
    failures: AtomicU64,
    /// Whether the last batch failed: the log says when that changes, not each time.
    failing: AtomicBool,
}

// === impl Control ===

impl Control {
    /// Returns a page of what a sandbox's processes printed, archived and forgotten ones included
    /// while their lines are kept.
    ///
    /// # Errors
    /// Fails when the project has none of that id or name.
    pub async fn log_read(
        &self,
        project: &ProjectId,
        sandbox: &SandboxRef,
        ask: LogAsk,
    ) -> Result<LogView, ControlError> {
        let sandbox = self.find_logged(project, sandbox).await?;
        let LogAsk { filter, start, most } = ask;
        let query = LogQuery { sandbox, filter, start, most };
        let page = self.0.parts.logs.log_read(&query).await?;
        let LogQuery { sandbox, .. } = query;
        let entry = |record: LogRecord| LogEntry { uuid: uuid(&sandbox, record.sequence), record };
        Ok(LogView {
            entries: page.records.into_iter().map(entry).collect(),
            next: page.next,
            retention_days: self.0.config.log_retention_days,
            sandbox,
        })
    }

    /// Returns the processes of a sandbox that have lines.
    ///
    /// # Errors
    /// Fails when the project has none of that id or name.
    pub async fn log_process_list(
        &self,
        project: &ProjectId,
        sandbox: &SandboxRef,
    ) -> Result<Vec<LogProcessRecord>, ControlError> {
        let sandbox = self.find_logged(project, sandbox).await?;
        Ok(self.0.parts.logs.log_process_list(&sandbox).await?)
    }

    /// Returns how much was taken since the start.
    #[must_use]
    pub fn log_counts(&self) -> LogCounts {
        self.0.log_counters.now()
    }

    /// Finds a sandbox by its record, or, when that is gone already, by its lines.
    async fn find_logged(
        &self,
        project: &ProjectId,
        sandbox: &SandboxRef,
    ) -> Result<SandboxId, ControlError> {
        let refused = match self.find(project, sandbox).await {
            Ok(record) => return Ok(record.id.clone()),
            Err(refused) => refused,
        };
        let (ControlError::SandboxNotFound(_), SandboxRef::Id(id)) = (&refused, sandbox) else {
            return Err(refused);
        };
        if self.is_unclaimed(id).await? {
            return Err(refused);
        }
        match self.0.parts.logs.log_owner(id).await {
            Ok(owner) if owner == *project => Ok(id.clone()),
            Ok(_) | Err(StoreError::NotFound { .. }) => Err(refused),
            Err(failed) => Err(failed.into()),
        }
    }
}

#[async_trait]
impl LogSink for Control {
    async fn store(&self, batch: &LogBatch) -> Result<(), LogSinkError> {
        let appended = self.0.parts.logs.log_append(batch, self.0.parts.clock.now()).await;
        self.0.log_counters.note(batch, &appended);
        appended.map(drop).map_err(|failed| LogSinkError { detail: failed.to_string() })
    }
}

// === impl LogCounters ===

impl LogCounters {
    fn note(&self, batch: &LogBatch, appended: &Result<LogAppended, StoreError>) {
        let add = |counter: &AtomicU64, more: u64| {
            counter.fetch_add(more, Ordering::Relaxed);
        };
        match appended {
            Ok(LogAppended::Repeated) => {}
            Ok(LogAppended::Stored { cut_lines }) => {
                let dropped = batch.lines.iter().map(|line| line.dropped).sum();
                add(&self.lines, batch.lines.len() as u64);
                add(&self.bytes, cost(batch));
                add(&self.dropped_by_sandbox, dropped);
                add(&self.dropped_by_store, *cut_lines);
            }
            Err(_) => add(&self.failures, 1),
        }
        match appended {
            Ok(_) if self.failing.swap(false, Ordering::Relaxed) => {
                tracing::info!("the output of processes is stored again");
            }
            Err(error) if !self.failing.swap(true, Ordering::Relaxed) => {
                tracing::warn!(
                    error = %error,
                    "the output of processes cannot be stored; sandboxes hold what they can, and \
                     the rest is dropped and counted"
                );
            }
            Ok(_) | Err(_) => {}
        }
    }

    fn now(&self) -> LogCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LogCounts {
            lines: get(&self.lines),
            bytes: get(&self.bytes),
            dropped_by_sandbox: get(&self.dropped_by_sandbox),
            dropped_by_store: get(&self.dropped_by_store),
            failures: get(&self.failures),
        }
    }
}

/// Names a line: a UUID of version 8 (RFC 9562 §5.8) made from its place.
fn uuid(sandbox: &SandboxId, sequence: u64) -> String {
    let digest = Sha256::new().chain_update(sandbox.as_str()).chain_update(sequence.to_be_bytes());
    let digest = digest.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let [a, b, c, d, e] = [0..4, 4..6, 6..8, 8..10, 10..16].map(|part| hex(&bytes[part]));
    format!("{a}-{b}-{c}-{d}-{e}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_keeps_its_name() {
        let sandbox = SandboxId::from_random([1; 21]);
        let name = uuid(&sandbox, 1);
        assert_eq!(name, uuid(&sandbox, 1));
        assert_ne!(name, uuid(&sandbox, 2));
        assert_ne!(name, uuid(&SandboxId::from_random([2; 21]), 1));
        let parts: Vec<_> = name.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12], "{name}");
        assert_eq!(name.as_bytes()[14], b'8');
    }
}
