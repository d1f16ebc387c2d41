//! A process's standard input.

use std::{cell::RefCell, io, rc::Rc};

use tokio::{net::unix::pipe, sync::Mutex};

/// The end of the pipe that we write to, if there is one.
pub(crate) struct Stdin {
    sender: RefCell<Option<Rc<Mutex<pipe::Sender>>>>,
    mode: Mode,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Closed,
    Pipe,
}

/// The process takes no (more) input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StdinError {
    /// It was started without a pipe.
    NoPipe,
    /// The pipe was closed by a request, by the process, or by its end.
    Closed,
}

// === impl Stdin ===

impl Stdin {
    /// Standard input is `/dev/null`.
    pub(crate) fn closed() -> Self {
        Self { sender: RefCell::new(None), mode: Mode::Closed }
    }

    /// Standard input is this pipe.
    pub(crate) fn pipe(sender: pipe::Sender) -> Self {
        Self { sender: RefCell::new(Some(Rc::new(Mutex::new(sender)))), mode: Mode::Pipe }
    }

    /// Returns whether bytes would be taken.
    pub(crate) fn is_writable(&self) -> bool {
        self.sender.borrow().is_some()
    }

    /// Closes the pipe once a write in progress is done.
    pub(crate) fn close(&self) {
        self.sender.take();
    }

    /// Closes the pipe on request; closing it twice is fine.
    pub(crate) fn close_requested(&self) -> Result<(), StdinError> {
        match self.mode {
            Mode::Closed => Err(StdinError::NoPipe),
            Mode::Pipe => {
                self.close();
                Ok(())
            }
        }
    }

    /// Takes a turn: one request's bytes are not mixed with another's.
    pub(crate) fn turn(&self) -> Result<Rc<Mutex<pipe::Sender>>, StdinError> {
        match (self.mode, self.sender.borrow().clone()) {
            (Mode::Closed, _) => Err(StdinError::NoPipe),
            (Mode::Pipe, None) => Err(StdinError::Closed),
            (Mode::Pipe, Some(sender)) => Ok(sender),
        }
    }

    /// Writes all the bytes, waiting while the pipe is full.
    pub(crate) async fn write(
        &self,
        sender: &pipe::Sender,
        mut bytes: &[u8],
    ) -> Result<(), StdinError> {
        while !bytes.is_empty() {
            match sender.try_write(bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if sender.writable().await.is_err() {
                        return Err(self.broken());
                    }
                }
                Err(_) => return Err(self.broken()),
            }
        }
        Ok(())
    }

    /// The process has closed its end.
    fn broken(&self) -> StdinError {
        self.close();
        StdinError::Closed
    }
}
