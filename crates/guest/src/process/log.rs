//! What the node reads of all output, to persist it (spec 08 §3).
//!
//! A reader like any follower, with one cursor a process: it adds nothing where output comes in,
//! slows no process, and is told what it missed. Batches are numbered, and the one that is not
//! acknowledged is repeated byte for byte, so a line is stored at least once and can be recognised.
//!
//! A process that is forgotten leaves its unread lines in a small queue ([`Departed`]), so that
//! many short commands lose nothing between two calls of the node.
//!
//! A sandbox made from another's memory would hand over lines of the other, which that one has
//! handed over or will. So it forgets what was there when it learnt that it is a copy: the last
//! lines of before, and those that its processes wrote since, in the few milliseconds between.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use tarn_daemon_api::OutputStream;
use tarn_guest_api::{
    LOG_BATCH_BYTES, LoggedLine, LoggedProcess, LogsRequest, LogsResponse, MAX_LOG_WAIT_MS,
    MAX_LOGGED_COMMAND_BYTES,
};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::{
    Process, ProcessTable,
    output::{Cursor, Item, Output, Selection},
};
use crate::clock::now_ms;

/// What a line costs beside its text.
const LINE_OVERHEAD_BYTES: usize = 48;

/// The bytes of lines that forgotten processes may leave unread.
const DEPARTED_BYTES: usize = 1 << 20;

/// How long lines are gathered at most.
const MAX_GATHER_MS: u64 = 1000;

/// The one reader of all output.
#[derive(Default)]
pub(crate) struct LogReader {
    arrived: Rc<Notify>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// The number of the last batch that was made.
    number: u64,
    /// That batch, until it is acknowledged.
    pending: Option<Bytes>,
    /// Where each listed process was read to.
    cursors: BTreeMap<u64, Cursor>,
    departed: Departed,
}

/// The unread lines of forgotten processes, oldest first.
#[derive(Default)]
struct Departed {
    processes: BTreeMap<u64, LoggedProcess>,
    lines: VecDeque<LoggedLine>,
    bytes: usize,
}

/// A batch while it is filled.
struct Batch {
    processes: BTreeMap<u64, LoggedProcess>,
    /// With what each line is sorted by: its time, made monotonic within its process.
    lines: Vec<(u64, LoggedLine)>,
    /// The newest of those of each process.
    newest: BTreeMap<u64, u64>,
    room: usize,
}

/// Answers a call of the node: the unacknowledged batch, else the next one, else that there was
/// nothing. Dropping the future loses nothing.
pub(crate) async fn poll(table: &ProcessTable, boot: &str, request: LogsRequest) -> Bytes {
    let log = &table.log;
    log.acknowledge(request.ack);
    let deadline = Instant::now() + Duration::from_millis(request.wait_ms.min(MAX_LOG_WAIT_MS));
    loop {
        // Before the look, so that a line that comes meanwhile is not missed.
        let arrived = log.arrived.notified();
        if let Some(pending) = log.state.borrow().pending.clone() {
            return pending;
        }
        if log.has_unread(table) {
            break;
        }
        if timeout_at(deadline, arrived).await.is_err() {
            return encode(boot, 0, Batch::new());
        }
    }
    if request.wait_ms > 0 {
        tokio::time::sleep(Duration::from_millis(request.gather_ms.min(MAX_GATHER_MS))).await;
    }
    log.next_batch(table, boot)
}

// === impl LogReader ===

impl LogReader {
    /// Returns what a process rings when it has something new.
    pub(crate) fn bell(&self) -> Rc<Notify> {
        Rc::clone(&self.arrived)
    }

    /// Keeps the unread lines of a process that is forgotten, as far as there is room.
    pub(crate) fn forget(&self, process: &Process) {
        let state = &mut *self.state.borrow_mut();
        let mut cursor = state.cursors.remove(&process.handle()).unwrap_or_else(start);
        state.departed.take_in(process, &mut cursor);
    }

    /// Forgets every line so far, and counts batches anew.
    pub(crate) fn forget_all(&self, table: &ProcessTable) {
        let end = |process: &Rc<Process>| {
            (process.handle(), process.output.borrow().end(Selection::Both))
        };
        let cursors = table.all().iter().map(end).collect();
        self.state.replace(State { cursors, ..State::default() });
    }

    fn acknowledge(&self, number: u64) {
        let mut state = self.state.borrow_mut();
        if number == state.number {
            state.pending = None;
        }
    }

    fn has_unread(&self, table: &ProcessTable) -> bool {
        let state = self.state.borrow();
        let unread = |process: &Rc<Process>| {
            let cursor = state.cursors.get(&process.handle());
            is_unread(&process.output.borrow(), cursor)
        };
        !state.departed.lines.is_empty() || table.all().iter().any(unread)
    }

    /// Makes the next batch and keeps it until it is acknowledged. Another caller may have made it
    /// while this one gathered.
    fn next_batch(&self, table: &ProcessTable, boot: &str) -> Bytes {
        let state = &mut *self.state.borrow_mut();
        if let Some(pending) = &state.pending {
            return pending.clone();
        }
        let batch = state.fill(&table.all());
        if batch.lines.is_empty() {
            return encode(boot, 0, batch);
        }
        state.number += 1;
        let bytes = encode(boot, state.number, batch);
        state.pending = Some(bytes.clone());
        bytes
    }
}

// === impl State ===

impl State {
    /// Every process with unread lines gets an equal share, then the first ones what is left.
    fn fill(&mut self, processes: &[Rc<Process>]) -> Batch {
        let mut batch = Batch::new();
        self.departed.give(&mut batch);
        let cursors = &mut self.cursors;
        let unread: Vec<_> = processes
            .iter()
            .filter(|process| is_unread(&process.output.borrow(), cursors.get(&process.handle())))
            .collect();
        let share = batch.room / unread.len().max(1);
        for most in [share, usize::MAX] {
            for process in &unread {
                let cursor = cursors.entry(process.handle()).or_insert_with(start);
                batch.take(process, cursor, most);
            }
        }
        batch
    }
}

// === impl Departed ===

impl Departed {
    fn take_in(&mut self, process: &Process, cursor: &mut Cursor) {
        let output = process.output.borrow();
        let mut lost = None;
        while let Some(item) = output.next(cursor) {
            let line = logged(process, &item);
            match &mut lost {
                None if self.bytes < DEPARTED_BYTES => self.push(process, line),
                None => lost = Some(LoggedLine { dropped: line.dropped.max(1), ..line }),
                Some(lost) => lost.dropped += line.dropped.max(1),
            }
        }
        let Some(mut lost) = lost else { return };
        // One note stands for all that came too late, or many processes would fill the queue.
        if let Some(last) = self.lines.back_mut().filter(|last| last.dropped > 0) {
            self.bytes -= cost(last);
            last.dropped += lost.dropped;
            last.text = dropped_text(last.dropped);
            self.bytes += cost(last);
        } else {
            lost.text = dropped_text(lost.dropped);
            self.push(process, lost);
        }
    }

    fn push(&mut self, process: &Process, line: LoggedLine) {
        self.processes.entry(process.handle()).or_insert_with(|| describe(process));
        self.bytes += cost(&line);
        self.lines.push_back(line);
    }

    fn give(&mut self, batch: &mut Batch) {
        while batch.room > 0 {
            let Some(line) = self.lines.pop_front() else { break };
            self.bytes -= cost(&line);
            if let Some(process) = self.processes.get(&line.handle) {
                batch.processes.entry(line.handle).or_insert_with(|| process.clone());
            }
            batch.push(line);
        }
        if self.lines.is_empty() {
            self.processes.clear();
        }
    }
}

// === impl Batch ===

impl Batch {
    fn new() -> Self {
        Self {
            processes: BTreeMap::new(),
            lines: Vec::new(),
            newest: BTreeMap::new(),
            room: LOG_BATCH_BYTES,
        }
    }

    /// Takes a process's lines until `most` bytes or the batch's room are used; at least one.
    fn take(&mut self, process: &Process, cursor: &mut Cursor, most: usize) {
        let output = process.output.borrow();
        let mut used = 0;
        while self.room > 0 && (used < most || used == 0) {
            let Some(item) = output.next(cursor) else { break };
            self.processes.entry(process.handle()).or_insert_with(|| describe(process));
            let line = logged(process, &item);
            used += cost(&line);
            self.push(line);
        }
    }

    fn push(&mut self, line: LoggedLine) {
        self.room = self.room.saturating_sub(cost(&line));
        let newest = self.newest.entry(line.handle).or_default();
        *newest = line.at_ms.max(*newest);
        self.lines.push((*newest, line));
    }
}

fn encode(boot: &str, number: u64, mut batch: Batch) -> Bytes {
    // Stable, so the lines of one process stay in their order.
    batch.lines.sort_by_key(|(key, _)| *key);
    let response = LogsResponse {
        boot: boot.to_owned(),
        batch: number,
        processes: batch.processes.into_values().collect(),
        lines: batch.lines.into_iter().map(|(_, line)| line).collect(),
    };
    serde_json::to_vec(&response).expect("plain data serialises").into()
}

fn start() -> Cursor {
    Cursor::new(Selection::Both)
}

fn is_unread(output: &Output, cursor: Option<&Cursor>) -> bool {
    output.next(&mut cursor.cloned().unwrap_or_else(start)).is_some()
}

fn logged(process: &Process, item: &Item<'_>) -> LoggedLine {
    let (stream, at_ms, dropped) = match item {
        Item::Line(line, stream) => (*stream, line.at_ms, 0),
        Item::Dropped { count, at_ms, stream } => (*stream, *at_ms, *count),
    };
    // What was dropped to the last line has no next one to take the time from.
    let at_ms = if at_ms == 0 { now_ms() } else { at_ms };
    let text = item.text().into_owned();
    LoggedLine { handle: process.handle(), stream, at_ms, dropped, text }
}

fn dropped_text(count: u64) -> String {
    Item::Dropped { count, at_ms: 0, stream: OutputStream::Stdout }.text().into_owned()
}

fn cost(line: &LoggedLine) -> usize {
    line.text.len() + LINE_OVERHEAD_BYTES
}

fn describe(process: &Process) -> LoggedProcess {
    let managed = process.run_of().map(|managed| managed.info());
    LoggedProcess {
        handle: process.handle(),
        pid: process.pid().as_raw(),
        command: command_line(process.command(), process.args()),
        managed_id: managed.as_ref().map(|managed| managed.id.clone()),
        managed_name: managed.and_then(|managed| managed.name),
    }
}

/// The words of a command with spaces between, cut between characters.
fn command_line(command: &str, args: &[String]) -> String {
    let mut line = String::new();
    for word in std::iter::once(command).chain(args.iter().map(String::as_str)) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word[..word.floor_char_boundary(MAX_LOGGED_COMMAND_BYTES)]);
        if line.len() > MAX_LOGGED_COMMAND_BYTES {
            line.truncate(line.floor_char_boundary(MAX_LOGGED_COMMAND_BYTES));
            break;
        }
    }
    line
}

#[cfg(test)]
mod tests;
