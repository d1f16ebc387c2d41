//! Exchanges with the kernel.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv,
            send, setsockopt, socket, sockopt::ReceiveTimeout,
        },
        time::TimeVal,
    },
};
use thiserror::Error;

use super::message::{Datagram, Message, Received, read_u32};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// One answer of the kernel is at most this long (`NETLINK_MAX_RECVMSG`… 32 KiB for dumps).
const BUFFER: usize = 64 * 1024;
/// The kernel answers at once; this only keeps a lost answer from holding a thread for ever.
const PATIENCE_SECS: i64 = 5;

/// Which part of the kernel is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// Links, addresses, routes, neighbours.
    Route,
    /// Rules and flows.
    Netfilter,
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

/// Asks for a list and hands over each entry's bytes behind the header.
pub(super) fn dump(
    family: Family,
    message: Message,
    mut each: impl FnMut(&[u8]),
) -> Result<(), NetlinkError> {
    let fd = open(family)?;
    send(fd.as_raw_fd(), &message.finish(1), MsgFlags::empty()).map_err(at_socket)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let size = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()).map_err(at_socket)?;
        for received in Datagram(&buffer[..size]) {
            if received.kind == NLMSG_DONE {
                return Ok(());
            }
            match error_code(received) {
                None => each(received.payload),
                Some(Errno::UnknownErrno) => return Ok(()),
                Some(errno) => return Err(NetlinkError { request: 1, errno }),
            }
        }
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

pub(super) fn at_socket(errno: Errno) -> NetlinkError {
    NetlinkError { request: 0, errno }
}
