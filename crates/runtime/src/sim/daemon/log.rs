//! What the node reads of all output, as the real daemon tells it: numbered batches, each repeated
//! until it is acknowledged.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::Request;
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tarn_daemon_api::{LineFrame, OutputStream};
use tarn_guest_api::{LoggedLine, LoggedProcess, LogsRequest, LogsResponse};
use tokio::time::{Instant, timeout_at};

use super::{Daemon, body};
use crate::sim::{
    answer::{self, Answer},
    process::{Process, Processes},
};

/// Where the node has read to.
#[derive(Debug)]
pub(super) struct LogReader(Mutex<LogImage>);

/// The same, as a memory image has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::sim) struct LogImage {
    boot: String,
    number: u64,
    pending: Option<LogsResponse>,
    /// Lines read, by handle.
    read: BTreeMap<u64, usize>,
}

// === impl LogReader ===

impl LogReader {
    pub(super) fn new(image: LogImage) -> Self {
        Self(Mutex::new(image))
    }

    pub(super) fn image(&self) -> LogImage {
        self.0.lock().clone()
    }

    /// Forgets the lines that were not read, and numbers those to come anew.
    pub(super) fn begin_anew(&self, boot: String, processes: &Processes) {
        let mut anew = LogImage::new(boot);
        for process in processes.list() {
            let handle = process.info().handle.unwrap_or_default();
            anew.read.insert(handle, process.lines_after(0).len());
        }
        *self.0.lock() = anew;
    }
}

// === impl LogImage ===

impl LogImage {
    pub(in crate::sim) fn new(boot: String) -> Self {
        Self { boot, number: 0, pending: None, read: BTreeMap::new() }
    }

    fn batch(
        &self,
        batch: u64,
        processes: Vec<LoggedProcess>,
        lines: Vec<LoggedLine>,
    ) -> LogsResponse {
        LogsResponse { boot: self.boot.clone(), batch, processes, lines }
    }
}

impl Daemon {
    pub(super) async fn logs(self: &Arc<Self>, request: Request<Incoming>) -> Answer {
        let request: LogsRequest = body(request).await?;
        let mut activity = self.processes.subscribe();
        let deadline = Instant::now() + Duration::from_millis(request.wait_ms);
        loop {
            activity.mark_unchanged();
            if let Some(batch) = self.next_batch(request.ack) {
                return Ok(answer::json(200, &batch));
            }
            // The sender lives in `self`, so the channel cannot close while this waits.
            if timeout_at(deadline, activity.changed()).await.is_err() {
                let nothing = self.log.0.lock().batch(0, Vec::new(), Vec::new());
                return Ok(answer::json(200, &nothing));
            }
        }
    }

    fn next_batch(&self, ack: u64) -> Option<LogsResponse> {
        let mut state = self.log.0.lock();
        if ack == state.number {
            state.pending = None;
        }
        if state.pending.is_some() {
            return state.pending.clone();
        }
        let (mut processes, mut lines) = (Vec::new(), Vec::new());
        for process in self.processes.list() {
            let described = describe(&process);
            let read = state.read.entry(described.handle).or_default();
            let fresh = process.lines_after(*read);
            if fresh.is_empty() {
                continue;
            }
            *read += fresh.len();
            lines.extend(fresh.into_iter().map(|line| logged(described.handle, line)));
            processes.push(described);
        }
        if lines.is_empty() {
            return None;
        }
        state.number += 1;
        state.pending = Some(state.batch(state.number, processes, lines));
        state.pending.clone()
    }
}

fn describe(process: &Process) -> LoggedProcess {
    let info = process.info();
    let words: Vec<_> = std::iter::once(info.command).chain(info.args).collect();
    LoggedProcess {
        handle: info.handle.unwrap_or_default(),
        pid: info.pid,
        command: words.join(" "),
        managed_id: None,
        managed_name: None,
    }
}

fn logged(handle: u64, line: LineFrame) -> LoggedLine {
    let stream = line.stream.unwrap_or(OutputStream::Stdout);
    LoggedLine { handle, stream, at_ms: line.timestamp, dropped: 0, text: line.line }
}
