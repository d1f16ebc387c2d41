//! Exchanges with the kernel.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv,
            send, setsockopt, socket,
            sockopt::{RcvBuf, RcvBufForce, ReceiveTimeout, SndBuf, SndBufForce},
        },
        time::TimeVal,
    },
};
use thiserror::Error;

use super::message::{Datagram, Message, NLM_F_DUMP_INTR, Received, read_u32};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// One answer of the kernel is at most this long (`NETLINK_MAX_RECVMSG`… 32 KiB for dumps).
const BUFFER: usize = 64 * 1024;
/// The longest batch, and the answers to one, each of which counts some 800 bytes. The kernel takes
/// twice as much; nothing is set aside for it.
const ROOM: usize = 16 << 20;
/// The kernel answers at once; this only keeps a lost answer from holding a thread for ever.
const PATIENCE_SECS: i64 = 5;
/// How often a list is asked for that changes while the kernel writes it, and by how much longer
/// each pause between is than the last: a burst of new interfaces has gaps.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(5);

/// Which part of the kernel is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// Links, addresses, routes, neighbours.
    Route,
    /// Rules and flows.
    Netfilter,
}

/// What a message of a list says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part<'a> {
    /// An entry's bytes behind the header.
    Entry(&'a [u8]),
    /// Every entry has been told.
    End,
    /// Entries may be missing, or be there twice.
    Torn(Errno),
    /// There is no list.
    Refused(Errno),
}

/// Says that the kernel refused a request.
#[derive(Debug, Error)]
#[error("{} (request {request})", errno.desc())]
pub(crate) struct NetlinkError {
    /// The number of the request in its exchange, from 1; 0 is the socket itself.
    pub(crate) request: u32,
    /// What the kernel said.
    pub(crate) errno: Errno,
}

// === impl NetlinkError ===

impl NetlinkError {
    /// Says whether somebody else has what was asked for.
    pub(crate) fn is_taken(&self) -> bool {
        matches!(self.errno, Errno::EPERM | Errno::EBUSY | Errno::EEXIST)
    }
}

/// Sends requests in one go and waits for each that wants an answer.
///
/// # Errors
/// Returns the first refusal. Whether later requests were carried out is up to the family: route
/// goes on, a netfilter batch is taken back as a whole.
pub(super) fn transact(family: Family, messages: Vec<Message>) -> Result<(), NetlinkError> {
    let mut awaited = messages.iter().filter(|message| message.wants_answer()).count();
    let fd = open(family)?;
    make_room(&fd)?;
    let bytes: Vec<u8> =
        (1..).zip(messages).flat_map(|(sequence, message)| message.finish(sequence)).collect();
    send(fd.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(at_socket)?;
    let mut buffer = vec![0; BUFFER];
    let mut refusal: Option<NetlinkError> = None;
    while awaited > 0 {
        let size = match recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(size) => size,
            // A refused batch does not answer every request; the refusal itself came first.
            Err(errno) => return Err(refusal.unwrap_or_else(|| at_socket(errno))),
        };
        for received in Datagram(&buffer[..size]) {
            let Some(code) = error_code(received) else { continue };
            if code == Errno::UnknownErrno {
                awaited = awaited.saturating_sub(1);
                continue;
            }
            let this = NetlinkError { request: received.sequence, errno: code };
            if refusal.as_ref().is_none_or(|first| this.request < first.request) {
                refusal = Some(this);
            }
            if family == Family::Netfilter {
                awaited = 0;
            } else {
                awaited = awaited.saturating_sub(1);
            }
        }
    }
    refusal.map_or(Ok(()), Err)
}

/// Asks for a list, and reads each entry's bytes behind the header.
///
/// # Errors
/// Fails, too, if the list is not whole time and again: `EINTR` if it is because it changes.
pub(super) fn dump<T>(
    family: Family,
    message: Message,
    mut read: impl FnMut(&[u8]) -> Option<T>,
) -> Result<Vec<T>, NetlinkError> {
    let question = message.finish(1);
    let mut errno = Errno::EINTR;
    for pauses in 0..TRIES {
        thread::sleep(PAUSE * pauses);
        let mut entries = Vec::new();
        let ended = dump_once(family, &question, |entry| entries.extend(read(entry)))?;
        match ended {
            Ok(()) => return Ok(entries),
            Err(torn) => errno = torn,
        }
    }
    Err(NetlinkError { request: 1, errno })
}

/// Returns inside why the list is not whole, if it isn't.
fn dump_once(
    family: Family,
    question: &[u8],
    mut each: impl FnMut(&[u8]),
) -> Result<Result<(), Errno>, NetlinkError> {
    let fd = open(family)?;
    send(fd.as_raw_fd(), question, MsgFlags::empty()).map_err(at_socket)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let size = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()).map_err(at_socket)?;
        for received in Datagram(&buffer[..size]) {
            match part(received) {
                Part::Entry(entry) => each(entry),
                Part::End => return Ok(Ok(())),
                Part::Torn(errno) => return Ok(Err(errno)),
                Part::Refused(errno) => return Err(NetlinkError { request: 1, errno }),
            }
        }
    }
}

fn part(received: Received<'_>) -> Part<'_> {
    if received.flags & NLM_F_DUMP_INTR != 0 {
        return Part::Torn(Errno::EINTR);
    }
    if received.kind == NLMSG_DONE {
        return match read_u32(received.payload, 0).map_or(0, u32::cast_signed) {
            0 => Part::End,
            code => Part::Torn(Errno::from_raw(code.wrapping_neg())),
        };
    }
    match error_code(received) {
        None => Part::Entry(received.payload),
        Some(Errno::UnknownErrno) => Part::End,
        Some(errno) => Part::Refused(errno),
    }
}

/// Asks one question after the other; hands over each answer's bytes behind the header, with the
/// number of its question. One about what is not there has none.
pub(super) fn ask(
    family: Family,
    questions: Vec<Message>,
    mut each: impl FnMut(usize, &[u8]),
) -> Result<(), NetlinkError> {
    let fd = open(family)?;
    let mut buffer = vec![0; BUFFER];
    for (number, question) in questions.into_iter().enumerate() {
        send(fd.as_raw_fd(), &question.finish(1), MsgFlags::empty()).map_err(at_socket)?;
        let mut answered = false;
        while !answered {
            let size = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()).map_err(at_socket)?;
            for received in Datagram(&buffer[..size]) {
                match error_code(received) {
                    None => each(number, received.payload),
                    Some(Errno::UnknownErrno | Errno::ENOENT) => answered = true,
                    Some(errno) => return Err(NetlinkError { request: 1, errno }),
                }
            }
        }
    }
    Ok(())
}

/// Reads the code of an answer; `UnknownErrno` (0) is consent, `None` is no answer but data.
pub(super) fn error_code(received: Received<'_>) -> Option<Errno> {
    if received.kind != NLMSG_ERROR {
        return None;
    }
    let code = read_u32(received.payload, 0)?.cast_signed();
    Some(Errno::from_raw(code.wrapping_neg()))
}

fn open(family: Family) -> Result<OwnedFd, NetlinkError> {
    let protocol = match family {
        Family::Route => SockProtocol::NetlinkRoute,
        Family::Netfilter => SockProtocol::NetlinkNetFilter,
    };
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
        .map_err(at_socket)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(at_socket)?;
    setsockopt(&fd, ReceiveTimeout, &TimeVal::new(PATIENCE_SECS, 0)).map_err(at_socket)?;
    Ok(fd)
}

/// Makes room for a batch and its answers, whatever the host's defaults are: with those a batch of
/// 200 KiB is not taken, and one with 300 answers is carried out and looks like a failure.
///
/// Root of a user namespace may change things and not force this: it gets what the host allows
/// everybody.
fn make_room(fd: &OwnedFd) -> Result<(), NetlinkError> {
    let forced = setsockopt(fd, SndBufForce, &ROOM).and(setsockopt(fd, RcvBufForce, &ROOM));
    match forced {
        Err(Errno::EPERM) => setsockopt(fd, SndBuf, &ROOM).and(setsockopt(fd, RcvBuf, &ROOM)),
        forced => forced,
    }
    .map_err(at_socket)
}

pub(super) fn at_socket(errno: Errno) -> NetlinkError {
    NetlinkError { request: 0, errno }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_whole_only_if_the_kernel_says_so() {
        const ENTRY: u16 = 24;
        let done = |code: i32| (NLMSG_DONE, 0, code);
        for ((kind, flags, code), expected) in [
            ((ENTRY, 0, 7), Part::Entry(&7_i32.to_ne_bytes())),
            ((ENTRY, NLM_F_DUMP_INTR, 7), Part::Torn(Errno::EINTR)),
            (done(0), Part::End),
            (done(-12), Part::Torn(Errno::ENOMEM)),
            ((NLMSG_DONE, NLM_F_DUMP_INTR, 0), Part::Torn(Errno::EINTR)),
            ((NLMSG_ERROR, 0, 0), Part::End),
            ((NLMSG_ERROR, 0, -1), Part::Refused(Errno::EPERM)),
        ] {
            let bytes = Message::new(kind, flags, &code.to_ne_bytes()).finish(1);
            let parts: Vec<Part<'_>> = Datagram(&bytes).map(part).collect();
            assert_eq!(parts, [expected], "{kind} {flags} {code}");
        }
        let bytes = Message::new(NLMSG_DONE, 0, &[]).finish(1);
        assert_eq!(Datagram(&bytes).map(part).next(), Some(Part::End), "as old kernels end it");
    }
}
