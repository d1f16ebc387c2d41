//! What the kernel tells unasked: packets that our rules note (`linux/netfilter/nfnetlink_log.h`)
//! and connections that it forgets (`linux/netfilter/nfnetlink_conntrack.h`).
//!
//! Both come over one socket, so the end of a connection is never read before its beginning. What
//! the socket cannot hold is lost, and the kernel waits for nobody.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{fd::AsRawFd as _, unix::net::UnixDatagram as StdDatagram},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
        setsockopt, socket, sockopt::RcvBufForce,
    },
};
use socket2::{SockFilter, SockRef};
use tokio::{io::Interest, net::UnixDatagram};

use super::{
    flow::{Flow, FlowBytes, read_flow},
    message::{Attributes, Datagram, Message, NLM_F_ACK, Received, read_address},
    socket::{NetlinkError, at_socket, error_code},
};

const SUBSYSTEM_CONNTRACK: u8 = 1;
const SUBSYSTEM_LOG: u8 = 4;
const IPCTNL_MSG_CT_DELETE: u8 = 2;
const NFULNL_MSG_PACKET: u8 = 0;
const NFULNL_MSG_CONFIG: u8 = 1;
const NFULA_PAYLOAD: u16 = 9;
const NFULA_PREFIX: u16 = 10;
const NFULA_SEQ: u16 = 12;
const NFULA_CFG_CMD: u16 = 1;
const NFULA_CFG_NLBUFSIZ: u16 = 3;
const NFULA_CFG_QTHRESH: u16 = 5;
const NFULA_CFG_FLAGS: u16 = 6;
const NFULNL_CFG_CMD_BIND: u8 = 1;
const NFULNL_CFG_F_SEQ: u16 = 1;
/// `1 << (NFNLGRP_CONNTRACK_DESTROY - 1)`.
const GROUP_CONNTRACK_DESTROY: u32 = 4;

/// The family of IPv6 in a message of conntrack.
const AF_INET6: u32 = 10;

/// What waits to be read: some 4000 notes of 256 bytes, which count twice.
const BUFFER: usize = 2 << 20;
/// The kernel takes a buffer of this size for each note; one is shorter.
const NOTE: u32 = 512;
/// One datagram; conntrack's are the longest, below 1 KiB.
const DATAGRAM: usize = 8192;

/// What the kernel told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Note {
    /// A rule noted a packet.
    Packet {
        /// Who sent it.
        from: IpAddr,
        /// Where to.
        flow: Flow,
        /// What the rule says of it.
        prefix: String,
        /// Counts the notes of all rules.
        number: u32,
    },
    /// A connection is forgotten.
    Forgotten {
        /// Who began it.
        from: IpAddr,
        /// Which one.
        flow: Flow,
        /// What went over it, if the kernel counts that.
        bytes: FlowBytes,
    },
}

/// What a read led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// So much was told.
    Notes(Vec<Note>),
    /// Something was lost because nobody read.
    Lost,
    /// There is nothing more for now.
    Nothing,
}

/// A network of each family: its first address, and its mask or the length of its prefix, of at
/// least 96 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Networks {
    pub(crate) v4: (Ipv4Addr, u32),
    pub(crate) v6: (Ipv6Addr, u8),
}

/// The socket over which the kernel tells it.
#[derive(Debug)]
pub(crate) struct NoteSocket {
    /// Of no other family does tokio take a descriptor without `unsafe`; it only waits for it, and
    /// receives.
    socket: UnixDatagram,
    buffer: Vec<u8>,
}

// === impl NoteSocket ===

impl NoteSocket {
    /// Opens one for what rules note for a group, and for connections that were begun from
    /// networks of addresses.
    ///
    /// It belongs to the network namespace of the calling thread. Needs a runtime around it.
    pub(crate) fn open(group: u16, networks: Networks) -> Result<Self, NetlinkError> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkNetFilter;
        let fd =
            socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).map_err(at_socket)?;
        setsockopt(&fd, RcvBufForce, &BUFFER).map_err(at_socket)?;
        let filter = only_of(networks).into_iter();
        let filter: Vec<_> =
            filter.map(|(code, yes, no, k)| SockFilter::new(code, yes, no, k)).collect();
        SockRef::from(&fd)
            .attach_filter(&filter)
            .map_err(|error| at_socket(Errno::from_raw(error.raw_os_error().unwrap_or(0))))?;
        let address = NetlinkAddr::new(0, GROUP_CONNTRACK_DESTROY);
        bind(fd.as_raw_fd(), &address).map_err(at_socket)?;
        let socket = UnixDatagram::from_std(StdDatagram::from(fd))
            .map_err(|error| at_socket(Errno::from_raw(error.raw_os_error().unwrap_or(0))))?;
        let mut socket = Self { socket, buffer: vec![0; DATAGRAM] };
        socket.configure(group)?;
        Ok(socket)
    }

    /// Has the kernel send what is noted for a group here.
    fn configure(&mut self, group: u16) -> Result<(), NetlinkError> {
        let [high, low] = group.to_be_bytes();
        let kind = u16::from_be_bytes([SUBSYSTEM_LOG, NFULNL_MSG_CONFIG]);
        let request = Message::new(kind, NLM_F_ACK, &[0, 0, high, low])
            .attribute(NFULA_CFG_CMD, &[NFULNL_CFG_CMD_BIND])
            .attribute(NFULA_CFG_NLBUFSIZ, &NOTE.to_be_bytes())
            // One by one, at once.
            .attribute(NFULA_CFG_QTHRESH, &1_u32.to_be_bytes())
            .attribute(NFULA_CFG_FLAGS, &NFULNL_CFG_F_SEQ.to_be_bytes());
        send(self.socket.as_raw_fd(), &request.finish(1), MsgFlags::empty()).map_err(at_socket)?;
        loop {
            // The kernel has answered by now; what it tells meanwhile is of before the beginning.
            let received = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty());
            let size = match received {
                Ok(size) => size,
                Err(Errno::ENOBUFS) => continue,
                Err(errno) => return Err(at_socket(errno)),
            };
            match Datagram(&self.buffer[..size]).find_map(error_code) {
                None => {}
                Some(Errno::UnknownErrno) => return Ok(()),
                Some(errno) => return Err(NetlinkError { request: 1, errno }),
            }
        }
    }

    /// Waits until something may have been told. Cancel-safe.
    pub(crate) async fn told(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Returns what was told next. Does not wait.
    pub(crate) fn hear(&mut self) -> Result<Heard, NetlinkError> {
        let Self { socket, buffer } = self;
        let mut receive = || recv(socket.as_raw_fd(), buffer, MsgFlags::empty());
        let received = socket.try_io(Interest::READABLE, || Ok(receive()?));
        let received = match received {
            // Nothing, or tokio has not heard of it yet.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => receive(),
            Err(error) => Err(Errno::from_raw(error.raw_os_error().unwrap_or(0))),
            Ok(size) => Ok(size),
        };
        match received {
            Ok(size) => Ok(Heard::Notes(read(&self.buffer[..size]))),
            Err(Errno::EAGAIN) => Ok(Heard::Nothing),
            Err(Errno::ENOBUFS) => Ok(Heard::Lost),
            Err(Errno::EINTR) => Ok(Heard::Notes(Vec::new())),
            Err(errno) => Err(at_socket(errno)),
        }
    }
}

/// One of a filter: code, jumps if it is so and if it is not, number.
type Instruction = (u16, u8, u8, u32);

/// Writes the filter of the socket: of the connections of the whole host, those that were begun
/// from a network. It runs in the kernel, so the others wake nobody.
fn only_of(networks: Networks) -> Vec<Instruction> {
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_WORD: u16 = 0x20;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    // The subsystem is the high byte of a message's type, which is in the host's order.
    let subsystem = if cfg!(target_endian = "little") { 5 } else { 4 };
    // Behind the header of the message is that of the family; then come those of the three
    // attributes around the source.
    let (family, source) = (16, 16 + 4 + 3 * 4);
    let ((v4, mask), (v6, prefix)) = (networks.v4, networks.v6);
    let word =
        |at: u32| u32::try_from(v6.to_bits() >> (96 - 32 * at) & u128::from(u32::MAX)).unwrap_or(0);
    let low_mask = u32::MAX.checked_shl(u32::from(128_u8.saturating_sub(prefix))).unwrap_or(0);
    let mut filter = vec![
        (LOAD_BYTE, 0, 0, subsystem),
        (JUMP_IF_EQUAL, 1, 0, u32::from(SUBSYSTEM_CONNTRACK)),
        (RETURN, 0, 0, u32::MAX),
        (LOAD_BYTE, 0, 0, family),
        (JUMP_IF_EQUAL, 3, 0, AF_INET6),
        (LOAD_WORD, 0, 0, source),
        (AND, 0, 0, mask),
        (JUMP_IF_EQUAL, 9, 10, v4.to_bits() & mask),
    ];
    for (at, to_the_end) in [(0, 8), (1, 6), (2, 4)] {
        filter.push((LOAD_WORD, 0, 0, source + 4 * at));
        filter.push((JUMP_IF_EQUAL, 0, to_the_end, word(at)));
    }
    filter.extend([
        (LOAD_WORD, 0, 0, source + 12),
        (AND, 0, 0, low_mask),
        (JUMP_IF_EQUAL, 0, 1, word(3) & low_mask),
        (RETURN, 0, 0, u32::MAX),
        (RETURN, 0, 0, 0),
    ]);
    filter
}

/// Reads a datagram; what is not understood is passed over.
fn read(datagram: &[u8]) -> Vec<Note> {
    Datagram(datagram).filter_map(note).collect()
}

fn note(received: Received<'_>) -> Option<Note> {
    const PACKET: [u8; 2] = [SUBSYSTEM_LOG, NFULNL_MSG_PACKET];
    const FORGOTTEN: [u8; 2] = [SUBSYSTEM_CONNTRACK, IPCTNL_MSG_CT_DELETE];
    match received.kind.to_be_bytes() {
        PACKET => packet(received.payload),
        FORGOTTEN => {
            let seen = read_flow(received.payload)?;
            Some(Note::Forgotten { from: seen.from, flow: seen.flow, bytes: seen.state.bytes })
        }
        _ => None,
    }
}

fn packet(payload: &[u8]) -> Option<Note> {
    let attributes = Attributes::behind(payload, 4);
    let prefix = attributes.find(NFULA_PREFIX)?;
    let prefix = prefix.split(|byte| *byte == 0).next().unwrap_or_default();
    let number = attributes.find(NFULA_SEQ)?.try_into().ok()?;
    let (from, flow) = read_packet(attributes.find(NFULA_PAYLOAD)?)?;
    Some(Note::Packet {
        from,
        flow,
        prefix: String::from_utf8_lossy(prefix).into_owned(),
        number: u32::from_be_bytes(number),
    })
}

/// Reads the beginning of a packet.
fn read_packet(packet: &[u8]) -> Option<(IpAddr, Flow)> {
    match packet.first()? >> 4 {
        4 => read_ipv4(packet),
        6 => read_ipv6(packet),
        _ => None,
    }
}

/// RFC 791 §3.1.
fn read_ipv4(packet: &[u8]) -> Option<(IpAddr, Flow)> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    if header < 20 {
        return None;
    }
    let address = |at: usize| read_address(packet.get(at..at + 4)?);
    let (protocol, from, to) = (*packet.get(9)?, address(12)?, address(16)?);
    let is_first = packet.get(6)? & 0x1f == 0 && *packet.get(7)? == 0;
    let flow = Flow { protocol, to, from_port: 0, to_port: 0 };
    let flow = if is_first { with_ports(flow, packet.get(header..)?)? } else { flow };
    Some((from, flow))
}

/// RFC 8200 §3. The rules let no header pass between this one and what it carries.
fn read_ipv6(packet: &[u8]) -> Option<(IpAddr, Flow)> {
    const HEADER: usize = 40;
    let address = |at: usize| read_address(packet.get(at..at + 16)?);
    let (protocol, from, to) = (*packet.get(6)?, address(8)?, address(24)?);
    let flow = Flow { protocol, to, from_port: 0, to_port: 0 };
    Some((from, with_ports(flow, packet.get(HEADER..)?)?))
}

/// Reads what tells one conversation from another, as the kernel sees it.
fn with_ports(mut flow: Flow, body: &[u8]) -> Option<Flow> {
    let field = |at: usize| {
        let bytes: [u8; 2] = body.get(at..at + 2)?.try_into().ok()?;
        Some(u16::from_be_bytes(bytes))
    };
    if flow.has_ports() {
        (flow.from_port, flow.to_port) = (field(0)?, field(2)?);
    } else if flow.is_ping() {
        flow.from_port = field(4).unwrap_or(0);
    }
    Some(flow)
}

#[cfg(test)]
#[path = "note_tests.rs"]
mod tests;
