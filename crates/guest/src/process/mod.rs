//! The processes of the sandbox.
//!
//! Everything here lives on tarnd's one thread, so a process is plain shared state without locks:
//! the reaper alone learns how it ended, one collector per stream alone reads its pipes, and
//! everybody else looks on through [`Process::subscribe`].

pub(crate) mod census;
mod collect;
pub(crate) mod guard;
mod line;
pub(crate) mod log;
pub(crate) mod output;
mod pids_group;
pub(crate) mod pressure;
pub(crate) mod reaper;
mod ring;
pub(crate) mod start;
mod stdin;
mod table;
pub(crate) mod tree;

use std::{
    cell::{Cell, OnceCell, RefCell},
    pin::pin,
    rc::Rc,
};

use nix::unistd::Pid;
use tarn_daemon_api::{
    ExitFrame, ExitReason, ManagedExit, OutputStream, ProcessInfo, ProcessStatus, StartedFrame,
};
use tokio::sync::{Notify, watch};

pub(crate) use self::{
    line::LineSplitter,
    pids_group::PidsGroup,
    stdin::{Stdin, StdinError},
    table::ProcessTable,
};

use self::output::{Output, Selection};
use crate::{clock::now_ms, managed::Managed};

/// One started program.
pub(crate) struct Process {
    handle: u64,
    pid: Pid,
    command: String,
    args: Vec<String>,
    started_at_ms: u64,
    end: Cell<Option<End>>,
    memory: Cell<MemoryVerdict>,
    timed_out: Cell<bool>,
    /// Where its input goes.
    pub(crate) stdin: Stdin,
    /// What it wrote.
    pub(crate) output: RefCell<Output>,
    changed: watch::Sender<()>,
    drained: watch::Sender<()>,
    ended: Notify,
    run_of: OnceCell<Rc<Managed>>,
    /// Rung with `changed`, for the one who looks at all processes.
    bell: OnceCell<Rc<Notify>>,
}

/// How and when a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// How.
    pub(crate) status: EndStatus,
    /// When, ms since 1970.
    pub(crate) at_ms: u64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndStatus {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
}

/// Whether memory pressure hit a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MemoryVerdict {
    /// No.
    #[default]
    Spared,
    /// One of its descendants was killed; it may carry on, or fail for that.
    DescendantKilled,
    /// It was killed itself.
    Killed,
}

/// What a process is made from.
pub(crate) struct NewProcess {
    pub(crate) handle: u64,
    pub(crate) pid: Pid,
    pub(crate) command: String,
    pub(crate) args: Vec<String>,
    pub(crate) stdin: Stdin,
    pub(crate) output: Output,
}

// === impl Process ===

impl Process {
    pub(crate) fn new(new: NewProcess) -> Self {
        Self {
            handle: new.handle,
            pid: new.pid,
            command: new.command,
            args: new.args,
            started_at_ms: now_ms(),
            end: Cell::new(None),
            memory: Cell::default(),
            timed_out: Cell::new(false),
            stdin: new.stdin,
            output: RefCell::new(new.output),
            changed: watch::channel(()).0,
            drained: watch::channel(()).0,
            ended: Notify::new(),
            run_of: OnceCell::new(),
            bell: OnceCell::new(),
        }
    }

    /// Returns the number that stands for it for ever.
    pub(crate) fn handle(&self) -> u64 {
        self.handle
    }

    /// Returns its pid, which is its process group's and session's number too.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Returns the program it was started as.
    pub(crate) fn command(&self) -> &str {
        &self.command
    }

    /// Returns the program's arguments.
    pub(crate) fn args(&self) -> &[String] {
        &self.args
    }

    /// Returns whether it has not ended.
    pub(crate) fn is_running(&self) -> bool {
        self.end.get().is_none()
    }

    /// Returns whether nothing more is to be said about the selected streams: it has ended, and
    /// they are settled.
    pub(crate) fn is_complete(&self, selection: Selection) -> bool {
        !self.is_running() && self.output.borrow().is_settled(selection)
    }

    /// Returns a receiver that is told of every new line and of the end.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Tells the subscribers that something is new.
    pub(crate) fn notify(&self) {
        self.changed.send_replace(());
        if let Some(bell) = self.bell.get() {
            bell.notify_one();
        }
    }

    /// Has a bell rung whenever something is new; the first bell stays.
    fn set_bell(&self, bell: Rc<Notify>) {
        drop(self.bell.set(bell));
    }

    /// Tells the collectors that the reader of a run has moved on, or has gone.
    pub(crate) fn notify_drained(&self) {
        self.drained.send_replace(());
    }

    /// Waits until the pipes may be read.
    pub(crate) async fn wait_ungated(&self) {
        let mut drained = self.drained.subscribe();
        while self.output.borrow().is_gated() {
            if drained.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until it has ended.
    pub(crate) async fn wait_end(&self) {
        let mut ended = pin!(self.ended.notified());
        ended.as_mut().enable();
        if self.is_running() {
            ended.await;
        }
    }

    /// Notes its end; called by the table for the reaper, once.
    fn set_end(&self, end: End) {
        self.end.set(Some(end));
        self.stdin.close();
        self.ended.notify_waiters();
        self.notify();
    }

    /// Notes that memory pressure hit it; the worse verdict stays.
    pub(crate) fn set_memory_verdict(&self, verdict: MemoryVerdict) {
        if self.is_running() && self.memory.get() != MemoryVerdict::Killed {
            self.memory.set(verdict);
        }
    }

    /// Notes that its time limit has passed.
    pub(crate) fn set_timed_out(&self) {
        self.timed_out.set(true);
    }

    /// Puts a line of tarnd's own into its standard error.
    pub(crate) fn note(&self, text: &str) {
        self.output.borrow_mut().push_note(OutputStream::Stderr, text, now_ms());
        self.notify();
    }

    /// Makes it a run of a managed process, right after its start.
    pub(crate) fn set_run_of(&self, managed: Rc<Managed>) {
        // A process is started for one managed process, once.
        drop(self.run_of.set(managed));
    }

    /// Returns the managed process that it is a run of, be it the latest or an earlier one.
    pub(crate) fn run_of(&self) -> Option<&Rc<Managed>> {
        self.run_of.get()
    }

    /// Returns the managed process that it stands for: only the latest run does.
    pub(crate) fn managed(&self) -> Option<Rc<Managed>> {
        self.run_of().filter(|managed| managed.is_known_by(self.handle)).cloned()
    }

    /// Returns whether it must stay listed though it has ended: it is about to run again.
    fn is_needed(&self) -> bool {
        self.managed().is_some_and(|managed| managed.is_live())
    }

    /// Returns how it ended, for its managed process.
    pub(crate) fn managed_exit(&self) -> ManagedExit {
        let info = self.info();
        ManagedExit {
            exit_code: info.exit_code,
            signal: info.signal,
            oom_killed: info.oom_killed.unwrap_or(false),
            ended_at: info.ended_at.unwrap_or_else(now_ms),
        }
    }

    /// Returns its public description.
    pub(crate) fn info(&self) -> ProcessInfo {
        let end = self.end.get();
        let (status, exit_code, signal) = match end.map(|end| end.status) {
            None => (ProcessStatus::Running, None, None),
            Some(EndStatus::Exited(code)) => (ProcessStatus::Exited, Some(code), None),
            Some(EndStatus::Signaled(signal)) if self.memory.get() == MemoryVerdict::Killed => {
                (ProcessStatus::OomKilled, None, Some(signal))
            }
            Some(EndStatus::Signaled(signal)) => (ProcessStatus::Signaled, None, Some(signal)),
        };
        ProcessInfo {
            handle: Some(self.handle),
            pid: self.pid.as_raw(),
            status,
            exit_code,
            signal,
            oom_killed: self.oom_killed(),
            stdin_writable: self.stdin.is_writable(),
            command: self.command.clone(),
            args: self.args.clone(),
            started_at: self.started_at_ms,
            ended_at: end.map(|end| end.at_ms),
            managed: self.managed().map(|managed| managed.info()),
        }
    }

    /// Returns the first frame of a run.
    pub(crate) fn started_frame(&self) -> StartedFrame {
        StartedFrame { handle: self.handle, pid: self.pid.as_raw(), started_at: self.started_at_ms }
    }

    /// Returns the last frame of a run, once it has ended.
    pub(crate) fn exit_frame(&self) -> Option<ExitFrame> {
        let (exit_code, signal, reason) = match self.end.get()?.status {
            EndStatus::Exited(code) => (Some(code), None, ExitReason::Exited),
            EndStatus::Signaled(signal) => (None, Some(signal), ExitReason::Signaled),
        };
        let reason = match (self.memory.get(), signal) {
            (MemoryVerdict::Killed, Some(_)) => ExitReason::OomKilled,
            _ if self.timed_out.get() => ExitReason::TimedOut,
            _ => reason,
        };
        Some(ExitFrame { exit_code, signal, reason, oom_killed: self.oom_killed() })
    }

    /// True if it was killed for memory, or failed after a descendant was.
    fn oom_killed(&self) -> Option<bool> {
        let status = self.end.get()?.status;
        let hit = match self.memory.get() {
            MemoryVerdict::Spared => false,
            MemoryVerdict::Killed => matches!(status, EndStatus::Signaled(_)),
            MemoryVerdict::DescendantKilled => status != EndStatus::Exited(0),
        };
        hit.then_some(true)
    }
}

#[cfg(test)]
mod tests;
