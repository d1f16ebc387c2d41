//! All processes, running and lately finished, and the memory of their output.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap, VecDeque},
    rc::Rc,
};

use nix::unistd::Pid;
use tarn_daemon_api::OutputStream;
use tokio::sync::{Mutex, MutexGuard, oneshot};

use super::{End, Process, log::LogReader};
use crate::clock::now_ms;

/// Finished processes that are remembered (spec 05 §2).
const MAX_FINISHED: usize = 256;

/// Once over the cap, this much is freed beyond it, so that eviction is not run for each line.
const EVICTION_SLACK_BYTES: usize = 256 << 10;

/// The process table.
#[derive(Default)]
pub(crate) struct ProcessTable {
    entries: RefCell<Entries>,
    /// Programs that are no listed processes: those of terminals.
    unlisted: RefCell<HashMap<Pid, Unlisted>>,
    last_handle: Cell<u64>,
    started: Cell<u64>,
    output_cap: Cell<usize>,
    output_bytes: Cell<usize>,
    collecting: Mutex<()>,
    /// Who reads all output for the node.
    pub(crate) log: LogReader,
}

#[derive(Default)]
struct Entries {
    by_handle: BTreeMap<u64, Rc<Process>>,
    by_pid: HashMap<Pid, Rc<Process>>,
    /// Oldest first.
    finished: VecDeque<Rc<Process>>,
    /// The latest run of each managed process with a name, as long as that is listed.
    by_name: HashMap<String, u64>,
}

/// A started program that is no listed process.
struct Unlisted {
    handle: u64,
    /// Gone once it has ended; its pid still stands for its session.
    ended: Option<oneshot::Sender<End>>,
}

// === impl ProcessTable ===

impl ProcessTable {
    /// Sets the memory for the output of all processes together.
    pub(crate) fn set_output_cap(&self, bytes: usize) {
        self.output_cap.set(bytes);
    }

    /// Returns a handle never used before.
    pub(crate) fn next_handle(&self) -> u64 {
        self.last_handle.set(self.last_handle.get() + 1);
        self.last_handle.get()
    }

    /// Returns the newest handle.
    pub(crate) fn last_handle(&self) -> u64 {
        self.last_handle.get()
    }

    /// Adds a process that was just started. A finished one with the same pid is forgotten, or
    /// at least no more found by it.
    pub(crate) fn insert(&self, process: &Rc<Process>) {
        self.started.set(self.started.get() + 1);
        self.unlisted.borrow_mut().remove(&process.pid());
        process.set_bell(self.log.bell());
        let mut entries = self.entries.borrow_mut();
        if let Some(earlier) = entries.by_pid.insert(process.pid(), Rc::clone(process))
            && !earlier.is_needed()
        {
            entries.finished.retain(|finished| finished.handle() != earlier.handle());
            self.forget(&mut entries, &earlier);
        }
        entries.by_handle.insert(process.handle(), Rc::clone(process));
    }

    /// Adds a program that was just started and is not to be listed; what it gives is told of its
    /// end. Earlier programs with the same pid stand for nothing any more.
    pub(crate) fn insert_unlisted(&self, pid: Pid, handle: u64) -> oneshot::Receiver<End> {
        let (sender, ended) = oneshot::channel();
        self.unlisted.borrow_mut().insert(pid, Unlisted { handle, ended: Some(sender) });
        ended
    }

    /// Forgets such a program, if its pid still stands for it.
    pub(crate) fn forget_unlisted(&self, pid: Pid, handle: u64) {
        self.unlisted.borrow_mut().retain(|known, it| *known != pid || it.handle != handle);
    }

    /// Returns the start that a pid, or the number of a session, stands for.
    pub(crate) fn handle_of(&self, pid: Pid) -> Option<u64> {
        let unlisted = self.unlisted.borrow().get(&pid).map(|it| it.handle);
        unlisted.or_else(|| self.by_pid(pid).map(|process| process.handle()))
    }

    /// Returns the same if that program itself still runs.
    pub(crate) fn running_handle(&self, pid: Pid) -> Option<u64> {
        match self.unlisted.borrow().get(&pid) {
            Some(it) => it.ended.is_some().then_some(it.handle),
            None => self
                .by_pid(pid)
                .filter(|process| process.is_running())
                .map(|process| process.handle()),
        }
    }

    /// Returns the process that a route means by `{p}`: a number is a pid, all else a name.
    pub(crate) fn find(&self, key: &str) -> Option<Rc<Process>> {
        if key.bytes().all(|byte| byte.is_ascii_digit()) {
            self.by_pid(Pid::from_raw(key.parse().ok()?))
        } else {
            self.by_name(key)
        }
    }

    /// Returns the latest run of the managed process with a name.
    pub(crate) fn by_name(&self, name: &str) -> Option<Rc<Process>> {
        let entries = self.entries.borrow();
        entries.by_handle.get(entries.by_name.get(name)?).cloned()
    }

    /// Has a name mean the process with a handle from now on.
    pub(crate) fn set_name(&self, name: &str, handle: u64) {
        self.entries.borrow_mut().by_name.insert(name.to_owned(), handle);
    }

    /// Returns the process with a pid, running or finished.
    pub(crate) fn by_pid(&self, pid: Pid) -> Option<Rc<Process>> {
        self.entries.borrow().by_pid.get(&pid).cloned()
    }

    /// Returns the process with a handle.
    pub(crate) fn by_handle(&self, handle: u64) -> Option<Rc<Process>> {
        self.entries.borrow().by_handle.get(&handle).cloned()
    }

    /// Returns all processes, oldest first.
    pub(crate) fn all(&self) -> Vec<Rc<Process>> {
        self.entries.borrow().by_handle.values().cloned().collect()
    }

    /// Returns how many run.
    pub(crate) fn running(&self) -> u32 {
        let entries = self.entries.borrow();
        let running = entries.by_handle.len().saturating_sub(entries.finished.len());
        u32::try_from(running).unwrap_or(u32::MAX)
    }

    /// Returns how many were started since the daemon started, forgotten ones included.
    pub(crate) fn total(&self) -> u64 {
        self.started.get()
    }

    /// Notes an end that the reaper learnt; of a pid that isn't ours, nothing.
    pub(crate) fn set_ended(&self, pid: Pid, end: End) {
        let unlisted = self.unlisted.borrow_mut().get_mut(&pid).and_then(|it| it.ended.take());
        if let Some(unlisted) = unlisted {
            // Nobody waits for the program of a terminal that could not be made.
            _ = unlisted.send(end);
            return;
        }
        let Some(process) = self.by_pid(pid).filter(|process| process.is_running()) else {
            return;
        };
        process.set_end(end);
        let mut entries = self.entries.borrow_mut();
        entries.finished.push_back(process);
        while entries.finished.len() > MAX_FINISHED {
            let oldest = entries.finished.iter().position(|finished| !finished.is_needed());
            let Some(oldest) = oldest.and_then(|at| entries.finished.remove(at)) else { break };
            self.forget(&mut entries, &oldest);
        }
    }

    /// Waits for the one turn of all collectors.
    ///
    /// A full pipe is milliseconds of work and full again at once; were all floods of a sandbox
    /// read in a row, everybody else would wait for all of them.
    pub(crate) async fn collecting(&self) -> MutexGuard<'_, ()> {
        self.collecting.lock().await
    }

    /// Adds what was read from a process's pipe, and keeps the sum of all output under the cap.
    /// That of a forgotten one is dropped: it was read all the same, so that descendants which
    /// still write are not held up.
    pub(crate) fn push_output(&self, process: &Process, stream: OutputStream, bytes: &[u8]) {
        let (before, after) = {
            let mut output = process.output.borrow_mut();
            if output.is_discarded() {
                return;
            }
            let before = output.bytes();
            output.push(stream, bytes, now_ms());
            (before, output.bytes())
        };
        // What the reader of a run holds of a forgotten one is on nobody's account, but bounded.
        if self.by_handle(process.handle()).is_some() {
            self.output_bytes.set((self.output_bytes.get() + after).saturating_sub(before));
            if self.output_bytes.get() > self.output_cap.get() {
                self.evict();
            }
        }
        process.notify();
    }

    /// Frees output: first that of finished processes, oldest first, then the largest.
    fn evict(&self) {
        let entries = self.entries.borrow();
        // The exact sum, as lines of our own are added without being counted.
        let mut total: usize =
            entries.by_handle.values().map(|process| process.output.borrow().bytes()).sum();
        let target = self.output_cap.get().saturating_sub(EVICTION_SLACK_BYTES);
        let mut by_size: Vec<_> =
            entries.by_handle.values().filter(|process| process.is_running()).collect();
        by_size.sort_by_key(|process| std::cmp::Reverse(process.output.borrow().bytes()));
        for process in entries.finished.iter().chain(by_size) {
            if total <= target {
                break;
            }
            let mut output = process.output.borrow_mut();
            let before = output.bytes();
            output.shrink_to(before.saturating_sub(total - target));
            total -= before - output.bytes();
        }
        self.output_bytes.set(total);
    }

    fn forget(&self, entries: &mut Entries, process: &Process) {
        let handle = process.handle();
        entries.by_handle.remove(&handle);
        entries.by_name.retain(|_, named| *named != handle);
        if entries.by_pid.get(&process.pid()).is_some_and(|found| found.handle() == handle) {
            entries.by_pid.remove(&process.pid());
        }
        self.log.forget(process);
        let mut output = process.output.borrow_mut();
        self.output_bytes.set(self.output_bytes.get().saturating_sub(output.bytes()));
        output.discard();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{
        EndStatus, NewProcess, Stdin,
        output::{Cursor, Item, Output, Selection},
    };

    fn add(table: &ProcessTable, pid: i32) -> Rc<Process> {
        let process = Rc::new(Process::new(NewProcess {
            handle: table.next_handle(),
            pid: Pid::from_raw(pid),
            command: "x".to_owned(),
            args: vec![],
            stdin: Stdin::closed(),
            output: Output::default(),
        }));
        table.insert(&process);
        process
    }

    fn end(table: &ProcessTable, pid: i32) {
        table.set_ended(Pid::from_raw(pid), End { status: EndStatus::Exited(0), at_ms: 1 });
    }

    fn write(table: &ProcessTable, process: &Process, bytes: usize) {
        let line = [vec![b'x'; 975], vec![b'\n']].concat();
        for _ in 0..bytes / 1023 {
            table.push_output(process, OutputStream::Stdout, &line);
        }
    }

    #[test]
    fn the_oldest_finished_is_forgotten_first() {
        let table = ProcessTable::default();
        add(&table, 1);
        for pid in 2..=300 {
            add(&table, pid);
            end(&table, pid);
        }
        assert_eq!(table.running(), 1);
        assert_eq!(table.total(), 300);
        assert_eq!(table.all().len(), MAX_FINISHED + 1);
        assert!(table.find("1").is_some(), "running ones are never forgotten");
        assert!(table.find("44").is_none());
        assert!(table.find("45").is_some());
    }

    #[test]
    fn a_pid_used_again_means_the_new_process() {
        let table = ProcessTable::default();
        add(&table, 9);
        end(&table, 9);
        let second = add(&table, 9);
        assert_eq!(table.find("9").map(|process| process.handle()), Some(second.handle()));
        assert_eq!(table.all().len(), 1);
        assert_eq!(table.running(), 1);
    }

    #[test]
    fn output_of_finished_processes_goes_first_then_the_largest() {
        let table = ProcessTable::default();
        table.set_output_cap(4 << 20);
        let (finished, large, small) = (add(&table, 1), add(&table, 2), add(&table, 3));
        write(&table, &finished, 1 << 20);
        end(&table, 1);
        write(&table, &small, 1 << 20);
        write(&table, &large, 2 << 20);
        let size = |process: &Process| process.output.borrow().bytes();
        let before = size(&small);
        write(&table, &large, 64 << 10);
        assert!(size(&finished) < 1 << 20, "{}", size(&finished));
        write(&table, &large, 5 << 20);
        assert_eq!(size(&finished), 0);
        assert_eq!(size(&small), before);
        assert!(table.output_bytes.get() <= 4 << 20);
    }

    #[test]
    fn a_forgotten_process_keeps_no_output_whoever_still_writes_it() {
        let table = ProcessTable::default();
        table.set_output_cap(4 << 20);
        let first = add(&table, 9);
        table.push_output(&first, OutputStream::Stdout, b"one\ntwo\nrest");
        write(&table, &first, 1 << 20);
        end(&table, 9);
        assert!(table.output_bytes.get() > 1 << 19);
        let second = add(&table, 9);
        assert_eq!((first.output.borrow().bytes(), table.output_bytes.get()), (0, 0));
        let changed = first.subscribe();
        write(&table, &first, 1 << 20);
        table.push_output(&first, OutputStream::Stderr, b"more\nand more");
        assert_eq!((first.output.borrow().bytes(), table.output_bytes.get()), (0, 0));
        assert!(!changed.has_changed().expect("it is there"), "nobody is told");
        let (output, mut cursor) = (first.output.borrow(), Cursor::new(Selection::Both));
        let dropped = u64::try_from((1 << 20) / 1023 + 2).expect("small");
        let item = output.next(&mut cursor);
        assert!(matches!(item, Some(Item::Dropped { count, .. }) if count == dropped), "{item:?}");
        assert_eq!(output.next(&mut cursor), None);
        write(&table, &second, 64 << 10);
        assert_eq!(table.output_bytes.get(), second.output.borrow().bytes());
    }

    #[test]
    fn an_unlisted_program_is_reaped_and_known_by_its_pid_alone() {
        let table = ProcessTable::default();
        add(&table, 7);
        end(&table, 7);
        let mut ended = table.insert_unlisted(Pid::from_raw(7), 90);
        assert_eq!((table.handle_of(Pid::from_raw(7)), table.running()), (Some(90), 0));
        assert_eq!(table.running_handle(Pid::from_raw(7)), Some(90));
        assert!(ended.try_recv().is_err());
        table.set_ended(Pid::from_raw(7), End { status: EndStatus::Exited(3), at_ms: 5 });
        assert_eq!(ended.try_recv().map(|end| end.status), Ok(EndStatus::Exited(3)));
        assert_eq!(table.running_handle(Pid::from_raw(7)), None);
        assert_eq!(table.handle_of(Pid::from_raw(7)), Some(90), "its session may live on");
        table.forget_unlisted(Pid::from_raw(7), 89);
        assert_eq!(table.handle_of(Pid::from_raw(7)), Some(90), "not that of another");
        let second = add(&table, 7);
        assert_eq!(table.handle_of(Pid::from_raw(7)), Some(second.handle()));
    }

    #[test]
    fn bad_keys_find_nothing() {
        let table = ProcessTable::default();
        add(&table, 5);
        for key in ["", "x", "-5", "5x", "99999999999999999999", "0"] {
            assert!(table.find(key).is_none(), "{key}");
        }
    }
}
