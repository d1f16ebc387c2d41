//! One terminal, and the two tasks that keep it: one reads what its program writes, one ends it
//! or forgets it when its time has come.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    time::Duration,
};

use nix::unistd::Pid;
use tarn_daemon_api::{PtySession, TerminalSize};
use tarn_guest_api::Secret;
use tokio::sync::{oneshot, watch};

use super::{
    device::Device,
    history::{HISTORY_BYTES, History},
    state::{Expiry, Phase, State, exit_code},
};
use crate::{
    clock::{now_ms, pass},
    daemon::Daemon,
    process::{End, census::Origin, tree},
    scratch::CHUNK_BYTES,
    sys,
};

/// From SIGHUP to SIGKILL (spec 05 §4).
const HANGUP_GRACE: Duration = Duration::from_secs(5);

/// What the kernel may still hold when a program ends: read without asking the clients, so the
/// history has room for it beyond what makes the program wait.
const LAST_BYTES: usize = 256 << 10;

/// A client that is this far behind makes the program wait.
pub(crate) const MAX_LAG_BYTES: u64 = (HISTORY_BYTES - LAST_BYTES) as u64;

/// One terminal.
pub(crate) struct Session {
    id: String,
    token: Secret,
    handle: u64,
    pid: Pid,
    command: String,
    args: Vec<String>,
    created_at_ms: u64,
    size: Cell<TerminalSize>,
    state: Cell<State>,
    /// Gone once the program has ended.
    device: RefCell<Option<Rc<Device>>>,
    /// The last output.
    pub(crate) history: RefCell<History>,
    readers: RefCell<Vec<(u64, u64)>>,
    last_reader: Cell<u64>,
    changed: watch::Sender<()>,
    moved: watch::Sender<()>,
    expiry_changed: watch::Sender<()>,
}

/// What a terminal is made from.
pub(crate) struct NewSession {
    pub(crate) id: String,
    pub(crate) token: Secret,
    pub(crate) handle: u64,
    pub(crate) pid: Pid,
    pub(crate) command: String,
    pub(crate) args: Vec<String>,
    pub(crate) size: TerminalSize,
    pub(crate) device: Device,
}

/// A client that looks at a terminal, from the moment it comes.
pub(crate) struct Attachment {
    session: Rc<Session>,
    reader: u64,
}

// === impl Session ===

impl Session {
    pub(crate) fn new(new: NewSession) -> Self {
        Self {
            id: new.id,
            token: new.token,
            handle: new.handle,
            pid: new.pid,
            command: new.command,
            args: new.args,
            created_at_ms: now_ms(),
            size: Cell::new(new.size),
            state: Cell::new(State::new()),
            device: RefCell::new(Some(Rc::new(new.device))),
            history: RefCell::default(),
            readers: RefCell::default(),
            last_reader: Cell::new(0),
            changed: watch::channel(()).0,
            moved: watch::channel(()).0,
            expiry_changed: watch::channel(()).0,
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn token(&self) -> &Secret {
        &self.token
    }

    pub(crate) fn handle(&self) -> u64 {
        self.handle
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn phase(&self) -> Phase {
        self.state.get().phase()
    }

    /// Returns whether its program runs.
    pub(crate) fn is_alive(&self) -> bool {
        self.state.get().is_alive()
    }

    /// Returns our end of the terminal, while its program runs.
    pub(crate) fn device(&self) -> Option<Rc<Device>> {
        self.device.borrow().clone()
    }

    /// Returns a receiver that is told of output and of every change of phase.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Returns its public description.
    pub(crate) fn describe(&self) -> PtySession {
        let end = match self.phase() {
            Phase::Live | Phase::Terminating => None,
            Phase::Ended(end, _) => Some(end),
        };
        PtySession {
            session_id: self.id.clone(),
            pid: self.pid.as_raw(),
            command: self.command.clone(),
            args: self.args.clone(),
            rows: self.size.get().rows(),
            cols: self.size.get().cols(),
            created_at: self.created_at_ms,
            ended_at: end.map(|end| end.at_ms),
            exit_code: end.map(|end| exit_code(end.status)),
            is_alive: end.is_none(),
        }
    }

    /// Sets the size; of one that has ended, nothing.
    pub(crate) fn resize(&self, size: TerminalSize) {
        let Some(device) = self.device() else { return };
        // A terminal that refuses a size keeps its own.
        if device.resize(size).is_err() || self.size.replace(size) == size {
            return;
        }
        // Not every kernel does what `TIOCSWINSZ` says about signals; a second one does no harm.
        if let Some(group) = device.foreground() {
            _ = sys::kill_group(group, libc::SIGWINCH);
        }
    }

    /// Notes that a client has come.
    pub(crate) fn attach(self: &Rc<Self>) -> Attachment {
        self.last_reader.set(self.last_reader.get() + 1);
        self.change(State::attach);
        Attachment { session: Rc::clone(self), reader: self.last_reader.get() }
    }

    /// Tells the program to end: SIGHUP, and after 5 s SIGKILL for all that came from it.
    pub(crate) fn terminate(&self, daemon: &Rc<Daemon>) {
        let mut news = false;
        self.change(|state| news = state.terminate());
        if !news {
            return;
        }
        let foreground = self.device().and_then(|device| device.foreground());
        for group in [Some(self.pid), foreground.filter(|group| *group != self.pid)] {
            let Some(group) = group else { continue };
            // Gone already is fine. One that is stopped has to be woken to end.
            _ = sys::kill_group(group, libc::SIGHUP);
            _ = sys::kill_group(group, libc::SIGCONT);
        }
        let (daemon, origin) = (Rc::clone(daemon), Origin::Started(self.handle));
        tokio::task::spawn_local(async move {
            pass(HANGUP_GRACE).await;
            tree::kill(&daemon, origin).await;
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.get();
        let before = state;
        change(&mut state);
        self.state.set(state);
        if before.expiry() != state.expiry() {
            self.expiry_changed.send_replace(());
        }
        if before.phase() != state.phase() {
            self.changed.send_replace(());
        }
    }

    /// Returns whether the program has to wait for a client.
    fn is_held_up(&self) -> bool {
        let end = self.history.borrow().end();
        self.readers.borrow().iter().any(|(_, at)| end - at >= MAX_LAG_BYTES)
    }

    fn push(&self, bytes: &[u8]) {
        self.history.borrow_mut().push(bytes);
        self.changed.send_replace(());
    }
}

// === impl Attachment ===

impl Attachment {
    pub(crate) fn session(&self) -> &Rc<Session> {
        &self.session
    }

    /// Notes how far the client has read; from then on the program waits for it.
    pub(crate) fn moved_to(&self, at: u64) {
        let mut readers = self.session.readers.borrow_mut();
        match readers.iter_mut().find(|(reader, _)| *reader == self.reader) {
            Some((_, position)) => *position = at,
            None => readers.push((self.reader, at)),
        }
        drop(readers);
        self.session.moved.send_replace(());
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.session.readers.borrow_mut().retain(|(reader, _)| *reader != self.reader);
        self.session.moved.send_replace(());
        self.session.change(State::detach);
    }
}

/// Reads what the program writes until it has ended, and then what is left.
pub(crate) async fn pump(
    daemon: Rc<Daemon>,
    session: Rc<Session>,
    mut ended: oneshot::Receiver<End>,
) {
    let Some(device) = session.device() else { return };
    let mut moved = session.moved.subscribe();
    let end = loop {
        if session.is_held_up() {
            tokio::select! {
                end = &mut ended => break end,
                _told = moved.changed() => {}
            }
            continue;
        }
        tokio::select! {
            end = &mut ended => break end,
            () = device.readable() => {
                read_some(&daemon, &session, |chunk| device.try_read(chunk));
                // The clients have their turn before the next bytes.
                tokio::task::yield_now().await;
            }
        }
    };
    // The reaper outlives everybody.
    let Ok(end) = end else { return };
    let mut left = LAST_BYTES;
    while left > 0 {
        match read_some(&daemon, &session, |chunk| device.read_now(chunk)) {
            0 => break,
            count => left = left.saturating_sub(count),
        }
    }
    session.device.take();
    session.change(|state| state.end(end));
}

/// Reads once; returns how much it was.
fn read_some(
    daemon: &Daemon,
    session: &Session,
    read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
) -> usize {
    daemon.scratch.with(|buffer| {
        let chunk = buffer.get_mut(..CHUNK_BYTES).unwrap_or_default();
        // An error is an empty terminal, or one whose program will be found to have ended.
        let count = read(chunk).unwrap_or(0);
        if count > 0 {
            session.push(chunk.get(..count).unwrap_or_default());
        }
        count
    })
}

/// Ends or forgets a terminal when its time has come.
pub(crate) async fn expire(daemon: Rc<Daemon>, session: Rc<Session>) {
    let mut changed = session.expiry_changed.subscribe();
    loop {
        let Some((expiry, after)) = session.state.get().expiry() else {
            if changed.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            _told = changed.changed() => {}
            () = pass(after) => match expiry {
                Expiry::Abandon => session.terminate(&daemon),
                Expiry::Forget => {
                    daemon.terminals.forget(&daemon.processes, session.handle);
                    return;
                }
            },
        }
    }
}
