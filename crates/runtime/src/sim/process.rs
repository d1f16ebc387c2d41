//! The processes of a simulated sandbox: scripts that print, wait and end.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    fmt::Write as _,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tarn_daemon_api::{
    ExitFrame, ExitReason, LineFrame, OutputResponse, OutputStream, ProcessInfo, ProcessStatus,
    StartedFrame,
};
use tarn_task::Clock;
use tokio::sync::watch;

use super::{answer::Body, script::Act};

/// Finished processes that stay listed (spec 05 §2, retention).
const FINISHED_KEPT: usize = 256;

/// Every process of one sandbox, by pid.
#[derive(Debug, Default)]
pub(super) struct Processes {
    table: Mutex<Table>,
    /// Changes whenever a process does.
    activity: Arc<watch::Sender<()>>,
}

#[derive(Debug, Default)]
struct Table {
    started: u32,
    by_pid: BTreeMap<i32, Arc<Process>>,
}

/// One process.
#[derive(Debug)]
pub(super) struct Process {
    state: Mutex<State>,
    /// Changes whenever `state` does.
    changed: watch::Sender<()>,
    /// That of all processes together.
    activity: Arc<watch::Sender<()>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    info: ProcessInfo,
    rest: VecDeque<Act>,
    lines: Vec<LineFrame>,
    /// Set at the end, by whatever brought it.
    reason: Option<ExitReason>,
    /// When it goes on, in milliseconds since 1970, while it sleeps.
    wakes_at: u64,
    /// When its time is over, if it has a limit.
    killed_at: Option<u64>,
}

/// Every process of one sandbox, in a memory image.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct ProcessesImage {
    started: u32,
    processes: Vec<State>,
}

/// A process that was asleep in an image.
pub(super) struct Sleeper {
    pub(super) process: Arc<Process>,
    pub(super) nap: Duration,
    pub(super) limit: Option<Duration>,
}

/// What a process comes to after it ran as far as it could at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// It does nothing for so long.
    Asleep(Duration),
    /// It ended.
    Ended,
}

// === impl Processes ===

impl Processes {
    /// Makes the processes of an image.
    pub(super) fn new(image: ProcessesImage) -> Self {
        let processes = Self::default();
        let mut table = processes.table.lock();
        table.started = image.started;
        for state in image.processes {
            let pid = state.info.pid;
            table.by_pid.insert(pid, Arc::new(Process::new(state, &processes.activity)));
        }
        drop(table);
        processes
    }

    /// Returns what an image has of them.
    pub(super) fn image(&self) -> ProcessesImage {
        let table = self.table.lock();
        let processes = table.by_pid.values().map(|process| process.state.lock().clone());
        ProcessesImage { started: table.started, processes: processes.collect() }
    }

    /// Returns the processes that sleep, and for how long from now. The clock of those inside ran
    /// on while they were in an image.
    pub(super) fn sleepers(&self, clock: &dyn Clock) -> Vec<Sleeper> {
        let now = millis(clock);
        let left = |at: u64| Duration::from_millis(at.saturating_sub(now));
        self.running()
            .into_iter()
            .map(|process| {
                let (wakes_at, killed_at) = {
                    let state = process.state.lock();
                    (state.wakes_at, state.killed_at)
                };
                Sleeper { process, nap: left(wakes_at), limit: killed_at.map(left) }
            })
            .collect()
    }

    /// Adds a process that has not done anything yet.
    pub(super) fn start(
        &self,
        command: &str,
        args: &[String],
        acts: Vec<Act>,
        clock: &dyn Clock,
    ) -> Arc<Process> {
        let mut table = self.table.lock();
        table.forget_oldest_finished();
        table.started += 1;
        // PID 1 is the daemon.
        let pid = i32::try_from(table.started).unwrap_or(i32::MAX - 1) + 1;
        let info = ProcessInfo {
            handle: Some(u64::from(table.started)),
            pid,
            status: ProcessStatus::Running,
            exit_code: None,
            signal: None,
            oom_killed: None,
            stdin_writable: false,
            command: command.to_owned(),
            args: args.to_vec(),
            started_at: millis(clock),
            ended_at: None,
            managed: None,
        };
        let state = State {
            info,
            rest: acts.into(),
            lines: Vec::new(),
            reason: None,
            wakes_at: 0,
            killed_at: None,
        };
        let process = Arc::new(Process::new(state, &self.activity));
        table.by_pid.insert(pid, Arc::clone(&process));
        process
    }

    /// Returns every process, oldest first.
    pub(super) fn list(&self) -> Vec<Arc<Process>> {
        self.table.lock().by_pid.values().cloned().collect()
    }

    /// Returns the process that `text`, a part of a path, names.
    pub(super) fn find(&self, text: &str) -> Option<Arc<Process>> {
        let pid = text.parse().ok()?;
        self.table.lock().by_pid.get(&pid).cloned()
    }

    /// Returns the processes that have not ended, newest first.
    pub(super) fn running(&self) -> Vec<Arc<Process>> {
        let mut running = self.list();
        running.retain(|process| !process.has_ended());
        running.reverse();
        running
    }

    /// Returns a receiver that is told of every new line.
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.activity.subscribe()
    }

    /// Returns how many were ever started.
    pub(super) fn started(&self) -> u32 {
        self.table.lock().started
    }
}

// === impl Table ===

impl Table {
    fn forget_oldest_finished(&mut self) {
        if self.by_pid.len() < FINISHED_KEPT {
            return;
        }
        let finished: Vec<_> =
            self.by_pid.iter().filter(|(_, p)| p.has_ended()).map(|(pid, _)| *pid).collect();
        for pid in finished.iter().rev().skip(FINISHED_KEPT - 1) {
            self.by_pid.remove(pid);
        }
    }
}

// === impl Process ===

impl Process {
    fn new(state: State, activity: &Arc<watch::Sender<()>>) -> Self {
        Self {
            state: Mutex::new(state),
            changed: watch::Sender::new(()),
            activity: Arc::clone(activity),
        }
    }

    /// Notes how long it may run from now.
    pub(super) fn set_limit(&self, limit: Duration, clock: &dyn Clock) {
        self.state.lock().killed_at = Some(later(clock, limit));
    }

    /// Returns what a list says of it.
    pub(super) fn info(&self) -> ProcessInfo {
        self.state.lock().info.clone()
    }

    /// Says whether it ended.
    pub(super) fn has_ended(&self) -> bool {
        self.state.lock().reason.is_some()
    }

    /// Runs it until it sleeps or ends.
    pub(super) fn advance(&self, clock: &dyn Clock) -> Pause {
        let pause = self.state.lock().advance(clock);
        self.changed.send_replace(());
        self.activity.send_replace(());
        pause
    }

    /// Ends it by a signal; does nothing when it has ended.
    pub(super) fn kill(&self, signal: i32, reason: ExitReason, clock: &dyn Clock) {
        self.state.lock().end(None, Some(signal), reason, clock);
        self.changed.send_replace(());
    }

    /// Resolves when it ended.
    pub(super) async fn ended(&self) {
        let mut changed = self.changed.subscribe();
        // The sender lives in `self`, so the channel cannot close while this waits.
        drop(changed.wait_for(|()| self.has_ended()).await);
    }

    /// Returns the lines after the first `read`.
    pub(super) fn lines_after(&self, read: usize) -> Vec<LineFrame> {
        self.state.lock().lines.get(read..).unwrap_or_default().to_vec()
    }

    /// Returns the retained output of one stream, or of both.
    pub(super) fn output(&self, stream: Option<OutputStream>) -> OutputResponse {
        let state = self.state.lock();
        let lines = state.lines.iter().filter(|line| stream.is_none() || line.stream == stream);
        let lines: Vec<_> = lines.map(|line| line.line.clone()).collect();
        OutputResponse { pid: state.info.pid, line_count: lines.len() as u64, lines }
    }

    /// Returns its life as server-sent events: started, lines, exit (spec 05 §2.2).
    ///
    /// All that is there at once goes out in one piece.
    pub(super) fn events(self: Arc<Self>) -> Body {
        let changed = self.changed.subscribe();
        let first = Some((self, changed, Sent::default()));
        let pieces = stream::unfold(first, async |follower| {
            let (process, mut changed, mut sent) = follower?;
            loop {
                changed.mark_unchanged();
                let (text, ended) = process.state.lock().unsent(&mut sent);
                if !text.is_empty() {
                    let next = if ended { None } else { Some((process, changed, sent)) };
                    return Some((Ok::<_, Infallible>(Frame::data(Bytes::from(text))), next));
                }
                changed.changed().await.ok()?;
            }
        });
        StreamBody::new(pieces).boxed_unsync()
    }
}

/// How much of a process's events a follower has.
#[derive(Debug, Default)]
struct Sent {
    started: bool,
    lines: usize,
}

// === impl State ===

impl State {
    fn advance(&mut self, clock: &dyn Clock) -> Pause {
        while self.reason.is_none() {
            match self.rest.pop_front() {
                Some(Act::Print(stream, line)) => {
                    let timestamp = millis(clock);
                    self.lines.push(LineFrame { line, timestamp, stream: Some(stream) });
                }
                Some(Act::Sleep(duration)) => {
                    self.wakes_at = later(clock, duration);
                    return Pause::Asleep(duration);
                }
                Some(Act::Exit(code)) => self.end(Some(code), None, ExitReason::Exited, clock),
                None => self.end(Some(0), None, ExitReason::Exited, clock),
            }
        }
        Pause::Ended
    }

    fn end(
        &mut self,
        exit_code: Option<i32>,
        signal: Option<i32>,
        reason: ExitReason,
        clock: &dyn Clock,
    ) {
        if self.reason.is_some() {
            return;
        }
        self.reason = Some(reason);
        self.info.exit_code = exit_code;
        self.info.signal = signal;
        self.info.oom_killed = (reason == ExitReason::OomKilled).then_some(true);
        self.info.ended_at = Some(millis(clock));
        self.info.status = match reason {
            ExitReason::Exited => ProcessStatus::Exited,
            ExitReason::Signaled | ExitReason::TimedOut => ProcessStatus::Signaled,
            ExitReason::OomKilled => ProcessStatus::OomKilled,
        };
    }

    /// Writes the events that a follower does not have, and says whether those are the last.
    fn unsent(&self, sent: &mut Sent) -> (String, bool) {
        let mut text = String::new();
        if !sent.started {
            sent.started = true;
            event(
                &mut text,
                &StartedFrame {
                    handle: self.info.handle.unwrap_or_default(),
                    pid: self.info.pid,
                    started_at: self.info.started_at,
                },
            );
        }
        for line in &self.lines[sent.lines..] {
            event(&mut text, line);
        }
        sent.lines = self.lines.len();
        if let Some(reason) = self.reason {
            let ProcessInfo { exit_code, signal, oom_killed, .. } = self.info;
            event(&mut text, &ExitFrame { exit_code, signal, reason, oom_killed });
        }
        (text, self.reason.is_some())
    }
}

fn event(text: &mut String, frame: &impl Serialize) {
    let json = serde_json::to_string(frame).expect("wire types are plain data");
    // Writing to a `String` cannot fail.
    _ = write!(text, "data: {json}\n\n");
}

/// Returns a time from now in milliseconds since 1970.
fn later(clock: &dyn Clock, after: Duration) -> u64 {
    millis(clock).saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX))
}

fn millis(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.now().0).unwrap_or(0)
}
