//! What the node reads of all output, as the real daemon tells it: numbered batches, each repeated
//! until it is acknowledged.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::Request;
use hyper::body::Incoming;
use parking_lot::Mutex;
use tarn_daemon_api::{LineFrame, OutputStream};
use tarn_guest_api::{LoggedLine, LoggedProcess, LogsRequest, LogsResponse};
use tokio::time::{Instant, timeout_at};

use super::{Daemon, body};
use crate::sim::{
    answer::{self, Answer},
    process::Process,
};

/// Where the node has read to.
#[derive(Debug, Default)]
pub(super) struct LogReader(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    number: u64,
    pending: Option<LogsResponse>,
    /// Lines read, by handle.
    read: BTreeMap<u64, usize>,
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
                return Ok(answer::json(200, &self.batch(0, Vec::new(), Vec::new())));
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
        state.pending = Some(self.batch(state.number, processes, lines));
        state.pending.clone()
    }

    fn batch(
        &self,
        batch: u64,
        processes: Vec<LoggedProcess>,
        lines: Vec<LoggedLine>,
    ) -> LogsResponse {
        LogsResponse { boot: format!("sim-{}", self.booted_at), batch, processes, lines }
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
