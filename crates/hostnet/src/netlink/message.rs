//! Netlink messages as bytes (RFC 3549 §2; `linux/netlink.h`). Pure.

use std::net::IpAddr;

/// The length of a message's header.
pub(super) const HEADER: usize = 16;

pub(super) const NLM_F_REQUEST: u16 = 0x1;
pub(super) const NLM_F_ACK: u16 = 0x4;
/// What is listed changed meanwhile.
pub(super) const NLM_F_DUMP_INTR: u16 = 0x10;
pub(super) const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLM_F_REPLACE: u16 = 0x100;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_CREATE: u16 = 0x400;

const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// A request under construction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

/// Walks over attributes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes<'a>(&'a [u8]);

/// A message of an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    pub(super) payload: &'a [u8],
}

/// Walks over the messages of one datagram.
#[derive(Debug, Clone, Copy)]
pub(super) struct Datagram<'a>(pub(super) &'a [u8]);

// === impl Message ===

impl Message {
    /// Begins a request; `head` is the fixed part that follows the netlink header.
    pub(super) fn new(kind: u16, flags: u16, head: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        Self { bytes }.raw(head)
    }

    /// Appends bytes that are not an attribute.
    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Appends an attribute.
    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.bytes.extend_from_slice(&length(4 + value.len()).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.raw(value)
    }

    /// Appends an attribute that holds others.
    pub(super) fn nested(mut self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        let mut outer = inside(self);
        let size = length(outer.bytes.len() - start);
        outer.bytes[start..start + 2].copy_from_slice(&size.to_ne_bytes());
        outer.bytes[start + 2..start + 4].copy_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        outer
    }

    /// Says whether the kernel will answer it.
    pub(super) fn wants_answer(&self) -> bool {
        u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) & NLM_F_ACK != 0
    }

    /// Finishes the header.
    pub(super) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let size = u32::try_from(self.bytes.len()).expect("a request is far below 4 GiB");
        self.bytes[0..4].copy_from_slice(&size.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Attributes beyond 64 KiB cannot be told apart from short ones; callers bound what they put in.
fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("attributes are bounded by their builders")
}

// === impl Attributes ===

impl<'a> Attributes<'a> {
    /// Reads the attributes behind a fixed part of `head` bytes.
    pub(super) fn behind(payload: &'a [u8], head: usize) -> Self {
        Self(payload.get(head.next_multiple_of(4)..).unwrap_or_default())
    }

    /// Reads attributes inside an attribute.
    pub(super) fn inside(value: &'a [u8]) -> Self {
        Self(value)
    }

    /// Finds an attribute.
    pub(super) fn find(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find_map(|(found, value)| (found == kind).then_some(value))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let size = usize::from(u16::from_ne_bytes(self.0.get(0..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & NLA_TYPE_MASK;
        let value = self.0.get(4..size)?;
        self.0 = self.0.get(size.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

// === impl Datagram ===

impl<'a> Iterator for Datagram<'a> {
    type Item = Received<'a>;

    fn next(&mut self) -> Option<Received<'a>> {
        let header = self.0.get(..HEADER)?;
        let size = usize::try_from(read_u32(header, 0)?).ok()?;
        let payload = self.0.get(HEADER..size)?;
        self.0 = self.0.get(size.next_multiple_of(4)..).unwrap_or_default();
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let flags = u16::from_ne_bytes([header[6], header[7]]);
        Some(Received { kind, flags, sequence: read_u32(header, 8)?, payload })
    }
}

/// Reads a number of the host's own byte order.
pub(super) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Returns an address as it goes over the wire.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

/// Reads an address of either family.
pub(super) fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_other_size| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// Reads a number of the network's byte order.
pub(super) fn read_be_u16(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// Reads a number of the network's byte order.
pub(super) fn read_be_u64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_nested_and_read_back() {
        let message = Message::new(16, NLM_F_ACK, &[7; 4])
            .attribute(3, b"eth0\0")
            .nested(18, |inner| inner.attribute(1, b"veth").attribute(2, &[]));
        assert!(message.wants_answer());
        let bytes = message.finish(9);
        assert_eq!(bytes.len() % 4, 0);
        let received: Vec<_> = Datagram(&bytes).collect();
        assert_eq!(received.len(), 1);
        assert_eq!((received[0].kind, received[0].sequence), (16, 9));
        assert_eq!(received[0].flags, NLM_F_ACK | NLM_F_REQUEST);
        let attributes = Attributes::behind(received[0].payload, 4);
        assert_eq!(attributes.find(3), Some(b"eth0\0".as_slice()));
        let inner = Attributes::inside(attributes.find(18).expect("the nest is there"));
        assert_eq!(inner.find(1), Some(b"veth".as_slice()));
        assert_eq!(inner.find(2), Some(b"".as_slice()));
        assert_eq!(inner.find(5), None);
    }

    #[test]
    fn cut_answers_end_the_walk() {
        let bytes = Message::new(2, 0, &[1; 20]).finish(1);
        for cut in 0..bytes.len() {
            assert_eq!(Datagram(&bytes[..cut]).count(), 0, "cut at {cut}");
        }
        assert_eq!(Attributes::inside(&[8, 0, 1]).count(), 0);
        assert_eq!(Attributes::inside(&[0, 0, 0, 0]).count(), 0);
        assert_eq!(Attributes::inside(&[9, 0, 1, 0, 1]).count(), 0);
    }
}
