//! The model of a log store in memory, said in the simplest way.

use std::collections::BTreeMap;

use async_trait::async_trait;
use parking_lot::Mutex;
use tarn_types::{LogBatch, LogLine, ProjectId, SandboxId, UnixMillis};

use super::{
    LogAppended, LogLimits, LogPage, LogProcessRecord, LogQuery, LogStart, LogStore, PROCESS_LIMIT,
    PageBuilder, Progress, cost, cut_note, start_of_last,
};
use crate::StoreError;

/// Keeps lines in memory, for tests and for comparison with real stores.
#[derive(Debug)]
pub struct MemoryLogStore {
    limits: LogLimits,
    logs: Mutex<BTreeMap<SandboxId, Log>>,
}

/// The lines of one sandbox.
#[derive(Debug)]
struct Log {
    project: ProjectId,
    boot: String,
    batch: u64,
    next: u64,
    appended_at: UnixMillis,
    cut_lines: u64,
    cut_at: UnixMillis,
    chunks: Vec<Chunk>,
    processes: BTreeMap<u64, LogProcessRecord>,
}

/// The lines of one batch.
#[derive(Debug)]
struct Chunk {
    first: u64,
    stored_at: UnixMillis,
    cost: u64,
    lines: Vec<LogLine>,
}

// === impl MemoryLogStore ===

impl MemoryLogStore {
    /// Makes an empty store.
    #[must_use]
    pub fn new(limits: LogLimits) -> Self {
        Self { limits, logs: Mutex::default() }
    }

    /// Lets the oldest batches go that are over a limit; returns how many lines that were.
    fn cut(&self, logs: &mut BTreeMap<SandboxId, Log>, sandbox: &SandboxId) -> u64 {
        let mut lines = 0;
        if let Some(log) = logs.get_mut(sandbox) {
            while log.cost() > self.limits.sandbox_bytes && log.chunks.len() > 1 {
                lines += log.cut_oldest();
            }
        }
        while logs.values().map(Log::cost).sum::<u64>() > self.limits.total_bytes {
            let others = logs.iter_mut().filter(|(id, log)| {
                let least = if *id == sandbox { 1 } else { 0 };
                log.chunks.len() > least
            });
            let oldest =
                others.min_by_key(|(id, log)| (*id == sandbox, log.appended_at, (*id).clone()));
            let Some((_, oldest)) = oldest else { break };
            lines += oldest.cut_oldest();
        }
        lines
    }
}

impl Default for MemoryLogStore {
    /// Makes one that keeps everything.
    fn default() -> Self {
        Self::new(LogLimits { sandbox_bytes: u64::MAX, total_bytes: u64::MAX })
    }
}

#[async_trait]
impl LogStore for MemoryLogStore {
    async fn log_append(
        &self,
        batch: &LogBatch,
        at: UnixMillis,
    ) -> Result<LogAppended, StoreError> {
        tokio::task::yield_now().await;
        let logs = &mut *self.logs.lock();
        let log = logs.entry(batch.sandbox.clone()).or_insert_with(|| Log::new(batch));
        if log.boot == batch.boot && batch.number <= log.batch {
            return Ok(LogAppended::Repeated);
        }
        log.boot.clone_from(&batch.boot);
        log.batch = batch.number;
        log.appended_at = at;
        log.append(batch, at);
        Ok(LogAppended::Stored { cut_lines: self.cut(logs, &batch.sandbox) })
    }

    async fn log_read(&self, query: &LogQuery) -> Result<LogPage, StoreError> {
        tokio::task::yield_now().await;
        let logs = self.logs.lock();
        let Some(log) = logs.get(&query.sandbox) else { return Ok(LogPage::default()) };
        let first = log.chunks.first().map_or(log.next, |chunk| chunk.first);
        let (after, most) = match query.start {
            LogStart::After(after) => (after, query.most),
            LogStart::Last(count) => {
                let newest_first = log.lines().collect::<Vec<_>>().into_iter().rev();
                let mut wanted = count;
                let after = start_of_last(&query.filter, &mut wanted, newest_first);
                // With as many as asked the note on those before is not one of them.
                let start = if wanted == 0 { first - 1 } else { 0 };
                (after.unwrap_or(start), Some(count))
            }
        };
        let mut page = PageBuilder::new(query, most);
        let mut progress = Progress::More;
        if log.cut_lines > 0 && first - 1 > after {
            progress = page.push_cut(first - 1, cut_note(log.cut_lines, log.cut_at));
        }
        for (sequence, line) in log.lines().filter(|(sequence, _)| *sequence > after) {
            if progress == Progress::Full {
                break;
            }
            progress = page.push(sequence, line.clone());
        }
        let mut page = page.finish();
        for record in &mut page.records {
            let known = log.processes.get(&record.line.process);
            record.process = known.map(|known| known.process.clone());
        }
        Ok(page)
    }

    async fn log_process_list(
        &self,
        sandbox: &SandboxId,
    ) -> Result<Vec<LogProcessRecord>, StoreError> {
        tokio::task::yield_now().await;
        let logs = self.logs.lock();
        let Some(log) = logs.get(sandbox) else { return Ok(Vec::new()) };
        let mut records: Vec<_> = log.processes.values().cloned().collect();
        let surplus = records.len().saturating_sub(PROCESS_LIMIT);
        records.drain(..surplus);
        Ok(records)
    }

    async fn log_owner(&self, sandbox: &SandboxId) -> Result<ProjectId, StoreError> {
        tokio::task::yield_now().await;
        let logs = self.logs.lock();
        let log = logs.get(sandbox).ok_or(StoreError::NotFound { what: "log" })?;
        Ok(log.project.clone())
    }

    async fn log_expire(&self, before: UnixMillis, limit: usize) -> Result<usize, StoreError> {
        tokio::task::yield_now().await;
        let mut logs = self.logs.lock();
        let mut removed = 0;
        for log in logs.values_mut() {
            let old = log.chunks.iter().take_while(|chunk| chunk.stored_at < before).count();
            let old = old.min(limit - removed);
            for _ in 0..old {
                log.remove_oldest();
                // What was cut was older still.
                log.cut_lines = 0;
            }
            removed += old;
        }
        logs.retain(|_, log| !log.chunks.is_empty() || log.appended_at >= before);
        Ok(removed)
    }
}

// === impl Log ===

impl Log {
    fn new(batch: &LogBatch) -> Self {
        Self {
            project: batch.project.clone(),
            boot: String::new(),
            batch: 0,
            next: 1,
            appended_at: UnixMillis(0),
            cut_lines: 0,
            cut_at: UnixMillis(0),
            chunks: Vec::new(),
            processes: BTreeMap::new(),
        }
    }

    fn cost(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.cost).sum()
    }

    fn append(&mut self, batch: &LogBatch, at: UnixMillis) {
        if batch.lines.is_empty() {
            return;
        }
        for line in &batch.lines {
            let described = batch.processes.iter().find(|process| process.id == line.process);
            let Some(process) = described else { continue };
            let fresh = || LogProcessRecord {
                process: process.clone(),
                first_seen: line.at,
                last_seen: line.at,
                lines: 0,
            };
            let known = self.processes.entry(process.id).or_insert_with(fresh);
            known.process = process.clone();
            known.first_seen = known.first_seen.min(line.at);
            known.last_seen = known.last_seen.max(line.at);
            known.lines += 1;
        }
        let (first, lines) = (self.next, batch.lines.clone());
        self.next += lines.len() as u64;
        self.chunks.push(Chunk { first, stored_at: at, cost: cost(batch), lines });
    }

    fn remove_oldest(&mut self) -> Chunk {
        let chunk = self.chunks.remove(0);
        for line in &chunk.lines {
            if let Some(process) = self.processes.get_mut(&line.process) {
                process.lines -= 1;
            }
        }
        self.processes.retain(|_, process| process.lines > 0);
        chunk
    }

    fn cut_oldest(&mut self) -> u64 {
        let chunk = self.remove_oldest();
        let lines = chunk.lines.len() as u64;
        self.cut_lines += lines;
        self.cut_at = chunk.lines.last().map_or(self.cut_at, |line| line.at);
        lines
    }

    fn lines(&self) -> impl Iterator<Item = (u64, &LogLine)> {
        self.chunks.iter().flat_map(|chunk| (chunk.first..).zip(&chunk.lines))
    }
}
