//! All terminals, live and lately ended.

use std::{cell::RefCell, collections::BTreeMap, io, rc::Rc};

use tarn_daemon_api::{CreatePtyRequest, PtyList, StartRequest, TerminalSize};
use tarn_guest_api::Secret;

use super::{
    device::Device,
    session::{NewSession, Session, expire, pump},
};
use crate::{
    daemon::{Daemon, Opened},
    process::{
        ProcessTable,
        start::{StartError, start_on_terminal},
    },
    random::random_hex,
};

/// Terminals whose program runs (spec 05 §4).
pub(crate) const MAX_LIVE: usize = 64;

/// Ended ones that are remembered for their minute; each may hold 1 MiB.
const MAX_ENDED: usize = 64;

/// What a terminal is when nobody says.
const DEFAULT_TERM: &str = "xterm-256color";

const ID_BYTES: usize = 16;
const TOKEN_BYTES: usize = 32;

/// The terminals, oldest first.
#[derive(Default)]
pub(crate) struct Terminals(RefCell<BTreeMap<u64, Rc<Session>>>);

/// Why no terminal was made.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// As many live as may.
    TooMany,
    /// Its program could not be started.
    Start(StartError),
    /// The system has no randomness.
    Internal(io::Error),
}

// === impl Terminals ===

impl Terminals {
    /// Makes a terminal and starts its program.
    pub(crate) fn open(
        &self,
        daemon: &Rc<Daemon>,
        opened: &Opened,
        request: CreatePtyRequest,
    ) -> Result<Rc<Session>, OpenError> {
        if self.live() >= MAX_LIVE {
            return Err(OpenError::TooMany);
        }
        let size = TerminalSize::clamped(
            request.rows.unwrap_or(TerminalSize::DEFAULT_ROWS),
            request.cols.unwrap_or(TerminalSize::DEFAULT_COLS),
        );
        let (id, token) = (random_hex(ID_BYTES)?, random_hex(TOKEN_BYTES)?);
        let device = Device::open(size, &opened.account.identity).map_err(|error| {
            OpenError::Start(StartError::Failed(format!("cannot make a terminal: {error}")))
        })?;
        let CreatePtyRequest { command, args, mut env, working_dir, .. } = request;
        if !opened.env.borrow().iter().any(|(name, _)| name == "TERM") {
            env.entry("TERM".to_owned()).or_insert_with(|| DEFAULT_TERM.to_owned());
        }
        let start = StartRequest { command, args, env, working_dir, ..StartRequest::default() };
        let started = start_on_terminal(daemon, opened, &start, device.theirs())?;
        let session = Rc::new(Session::new(NewSession {
            id,
            token: Secret::new(token),
            handle: started.handle,
            pid: started.pid,
            command: start.command,
            args: start.args,
            size,
            device,
        }));
        self.0.borrow_mut().insert(started.handle, Rc::clone(&session));
        self.trim(&daemon.processes);
        tokio::task::spawn_local(pump(Rc::clone(daemon), Rc::clone(&session), started.ended));
        tokio::task::spawn_local(expire(Rc::clone(daemon), Rc::clone(&session)));
        Ok(session)
    }

    /// Returns the terminal with an id.
    pub(crate) fn find(&self, id: &str) -> Option<Rc<Session>> {
        self.0.borrow().values().find(|session| session.id() == id).cloned()
    }

    /// Returns the description of all.
    pub(crate) fn list(&self) -> PtyList {
        PtyList { sessions: self.0.borrow().values().map(|session| session.describe()).collect() }
    }

    /// Tells all programs to end.
    pub(crate) fn terminate_all(&self, daemon: &Rc<Daemon>) {
        let sessions: Vec<_> = self.0.borrow().values().cloned().collect();
        for session in sessions {
            session.terminate(daemon);
        }
    }

    /// Forgets one that has ended.
    pub(crate) fn forget(&self, processes: &ProcessTable, handle: u64) {
        if let Some(session) = self.0.borrow_mut().remove(&handle) {
            processes.forget_unlisted(session.pid(), handle);
        }
    }

    fn live(&self) -> usize {
        self.0.borrow().values().filter(|session| session.is_alive()).count()
    }

    /// Forgets the oldest ended ones beyond the bound.
    fn trim(&self, processes: &ProcessTable) {
        let ended: Vec<u64> = {
            let sessions = self.0.borrow();
            let ended = sessions.values().filter(|session| !session.is_alive());
            ended.map(|session| session.handle()).collect()
        };
        for handle in ended.iter().take(ended.len().saturating_sub(MAX_ENDED)) {
            self.forget(processes, *handle);
        }
    }
}

// === impl OpenError ===

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Internal(error)
    }
}

impl From<StartError> for OpenError {
    fn from(error: StartError) -> Self {
        Self::Start(error)
    }
}
