//! One client at a terminal.

use std::{borrow::Cow, io, rc::Rc, time::Duration};

use tarn_daemon_api::{ClientFrame, MAX_PTY_MESSAGE_BYTES, ServerFrame, exit_reason};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{
    history::HISTORY_BYTES,
    rate::InputRate,
    session::{Attachment, MAX_LAG_BYTES, Session},
    state::{Cause, Phase, exit_code},
};
use crate::{
    clock::{Passed, Timer},
    scratch::Scratch,
    websocket::{Beat, Broken, HEADER_BYTES, WebSocket, close_code},
};

/// Between two pings: the blocking client of the Python SDK gives a connection up on which nothing
/// has come for 10 s, and a program at a terminal may well be silent for longer.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Output goes in messages of at most this.
const OUTPUT_BYTES: usize = 32 << 10;

/// Messages that are sent before somebody else has a turn.
const MESSAGES_PER_TURN: usize = 8;

/// A client that holds the program up must read something within this time.
const LAG_PATIENCE: Duration = Duration::from_secs(10);

/// A client of a terminal that has ended is given this time to say READY.
const READY_PATIENCE: Duration = Duration::from_secs(10);

/// How long a program may take to read what a client typed that has gone.
const INPUT_PATIENCE: Duration = Duration::from_secs(5);

/// Not every kernel says when a terminal takes input again.
const INPUT_RETRY: Duration = Duration::from_millis(200);

const TERMINATED: &str = "session terminated";

/// A client, and what it and the terminal still have to say to each other.
struct Client {
    attachment: Attachment,
    socket: WebSocket,
    /// The position in the history, once READY has come.
    at: Option<u64>,
    /// Where the output stood when it came.
    came_at: u64,
    message: Vec<u8>,
    input: Vec<u8>,
    rate: InputRate,
    begun: Instant,
}

/// How a client's visit ends.
#[derive(Debug, PartialEq, Eq)]
struct Farewell {
    code: u16,
    reason: Cow<'static, str>,
}

/// Why a visit ends.
enum Leave {
    /// The client is told.
    Told(Farewell),
    /// It has gone.
    Gone,
}

/// Serves a client until it goes, the terminal ends, or it breaks a rule; returns its connection.
pub(crate) async fn serve(
    scratch: &Scratch,
    session: &Rc<Session>,
    socket: WebSocket,
) -> TcpStream {
    let attachment = session.attach();
    let came_at = session.history.borrow().end();
    let mut client = Client {
        attachment,
        socket,
        at: None,
        came_at,
        message: Vec::new(),
        input: Vec::new(),
        rate: InputRate::new(),
        begun: Instant::now(),
    };
    let leave = client.visit(scratch).await;
    let Client { attachment, socket, input, .. } = client;
    // From here on it holds nobody up, however slowly it reads.
    drop(attachment);
    let farewell = async {
        match leave {
            Leave::Told(Farewell { code, reason }) => socket.close(code, &reason).await,
            Leave::Gone => socket.into_stream(),
        }
    };
    let (stream, ()) = tokio::join!(farewell, deliver(session, input));
    stream
}

// === impl Client ===

impl Client {
    async fn visit(&mut self, scratch: &Scratch) -> Leave {
        let mut changed = self.session().subscribe();
        let mut beat = Timer::new(PING_INTERVAL);
        let mut lag = Timer::new(LAG_PATIENCE);
        let mut ready = Timer::new(READY_PATIENCE);
        loop {
            match self.exchange(scratch) {
                Ok(true) => lag.restart(),
                Ok(false) => {}
                Err(leave) => return leave,
            }
            let (listens, flushed) = (self.takes_input(), self.socket.is_flushed());
            if flushed && self.lag() > 0 {
                // There is more to send; the others have their turn first.
                tokio::task::yield_now().await;
                continue;
            }
            let ended = !self.session().is_alive();
            let late = ended && self.at.is_none();
            let device = self.session().device().filter(|_| !self.input.is_empty());
            let passed = tokio::select! {
                () = self.socket.ready(listens) => None,
                () = takes_bytes(device) => None,
                told = changed.changed(), if flushed && !ended => match told {
                    Ok(()) => None,
                    Err(_ended) => return Leave::Gone,
                },
                passed = beat.passed() => Some(passed),
                passed = lag.passed(), if !flushed => {
                    if passed == Passed::Regular && self.lag() >= MAX_LAG_BYTES {
                        return told(close_code::POLICY, "output lag");
                    }
                    None
                }
                _passed = ready.passed(), if late => {
                    // It may have nothing to say to the past.
                    let end = self.session().history.borrow().end();
                    self.at = Some(end);
                    None
                }
            };
            if let Some(passed) = passed
                && self.socket.beat(PING_INTERVAL, Beat::new(passed, !listens)).is_err()
            {
                return Leave::Gone;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Does all that can be done now; returns whether the client has read something.
    fn exchange(&mut self, scratch: &Scratch) -> Result<bool, Leave> {
        let mut moved = self.socket.flush()?;
        if self.takes_input() {
            self.receive(scratch)?;
        }
        // Before a close is heeded: what came together with it was typed, too.
        write_input(self.attachment.session(), &mut self.input);
        if self.socket.is_peer_closed() {
            return Err(told(close_code::NORMAL, ""));
        }
        moved |= self.send_output(scratch)?;
        let end = self.session().history.borrow().end();
        match self.at {
            None if end - self.came_at > HISTORY_BYTES as u64 => {
                return Err(told(close_code::POLICY, "more than 1 MiB of output before READY"));
            }
            Some(at) if at == end && self.socket.is_flushed() => self.finish()?,
            None | Some(_) => {}
        }
        Ok(moved)
    }

    /// Takes leave of the client if the terminal has ended; all output was sent.
    fn finish(&mut self) -> Result<(), Leave> {
        match self.session().phase() {
            Phase::Live | Phase::Terminating => Ok(()),
            Phase::Ended(_, Cause::Terminated) => Err(told(close_code::GOING_AWAY, TERMINATED)),
            Phase::Ended(end, Cause::Exited) => {
                let code = exit_code(end.status);
                let frame = [&[0; HEADER_BYTES][..], &ServerFrame::Exit(code).to_bytes()].concat();
                self.socket.send_in_place(&mut { frame })?;
                Err(told(close_code::NORMAL, exit_reason(code)))
            }
        }
    }

    fn receive(&mut self, scratch: &Scratch) -> Result<(), Leave> {
        let Self { attachment, socket, at, message, input, rate, begun, .. } = self;
        let now = begun.elapsed();
        let mut refused = None;
        scratch.with(|buffer| {
            socket.receive(buffer, |bytes, end| {
                if refused.is_some() {
                    return;
                }
                if message.len() + bytes.len() > MAX_PTY_MESSAGE_BYTES {
                    let reason = "a message is larger than 64 KiB";
                    refused = Some(told(close_code::TOO_BIG, reason));
                    return;
                }
                message.extend_from_slice(bytes);
                if !end {
                    return;
                }
                match ClientFrame::parse(message) {
                    Ok(ClientFrame::Data(bytes)) if rate.take(bytes.len(), now) => {
                        input.extend_from_slice(bytes);
                    }
                    Ok(ClientFrame::Data(_)) => {
                        let reason = "more than 1 MiB of input within a second";
                        refused = Some(told(close_code::POLICY, reason));
                    }
                    Ok(ClientFrame::Resize(size)) => attachment.session().resize(size),
                    Ok(ClientFrame::Ready) if at.is_none() => {
                        let start = attachment.session().history.borrow().start();
                        attachment.moved_to(start);
                        *at = Some(start);
                    }
                    Ok(ClientFrame::Ready) => {}
                    Err(error) => {
                        refused = Some(told(close_code::UNSUPPORTED_DATA, error.to_string()));
                    }
                }
                message.clear();
            })
        })?;
        match refused {
            None => Ok(()),
            Some(leave) => Err(leave),
        }
    }

    /// Sends what is new; returns whether there was any that the kernel took at once.
    fn send_output(&mut self, scratch: &Scratch) -> Result<bool, Leave> {
        let Some(mut at) = self.at else { return Ok(false) };
        let mut sent = false;
        for _ in 0..MESSAGES_PER_TURN {
            if !self.socket.is_flushed() {
                break;
            }
            let history = &self.attachment.session().history;
            let socket = &mut self.socket;
            let count = scratch.with(|buffer| {
                let (head, payload) = buffer.split_at_mut(HEADER_BYTES + 1);
                if let Some(opcode) = head.last_mut() {
                    *opcode = ServerFrame::DATA_OPCODE;
                }
                let room = payload.get_mut(..OUTPUT_BYTES).unwrap_or_default();
                let (count, next) = history.borrow().read(at, room);
                at = next;
                let frame = buffer.get_mut(..HEADER_BYTES + 1 + count).unwrap_or_default();
                if count > 0 { socket.send_in_place(frame).map(|()| count) } else { Ok(0) }
            })?;
            if count == 0 {
                break;
            }
            sent = true;
            self.at = Some(at);
            self.attachment.moved_to(at);
        }
        Ok(sent)
    }

    fn session(&self) -> &Rc<Session> {
        self.attachment.session()
    }

    /// Returns whether more of the client may be read.
    fn takes_input(&self) -> bool {
        self.input.is_empty() && !self.socket.is_full()
    }

    fn lag(&self) -> u64 {
        self.at.map_or(0, |at| self.session().history.borrow().end() - at)
    }
}

// === impl Leave ===

impl From<Broken> for Leave {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Gone => Self::Gone,
            Broken::Refused(code, reason) => told(code, reason),
        }
    }
}

fn told(code: u16, reason: impl Into<Cow<'static, str>>) -> Leave {
    Leave::Told(Farewell { code, reason: reason.into() })
}

/// Gives the terminal what it takes of the input; what stays waits for it.
fn write_input(session: &Session, input: &mut Vec<u8>) {
    while !input.is_empty() {
        // Nobody reads what is typed at a program that has ended.
        let Some(device) = session.device() else { break };
        match device.try_write(input) {
            Ok(count) => drop(input.drain(..count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // One that takes nothing more is about to end.
            Err(_) => break,
        }
    }
    *input = Vec::new();
}

/// Gives the terminal the last of what a client typed that has gone, if it takes it in time.
async fn deliver(session: &Session, mut input: Vec<u8>) {
    let all = async {
        loop {
            write_input(session, &mut input);
            if input.is_empty() {
                return;
            }
            takes_bytes(session.device()).await;
        }
    };
    // A program that does not read within this time will not.
    drop(timeout(INPUT_PATIENCE, all).await);
}

/// Waits until a terminal may take input again; for ever without one.
async fn takes_bytes(device: Option<Rc<super::device::Device>>) {
    match device {
        None => std::future::pending().await,
        Some(device) => tokio::select! {
            () = device.writable() => {}
            () = sleep(INPUT_RETRY) => {}
        },
    }
}
