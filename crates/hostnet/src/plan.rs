//! Names and addresses of slots, worked out from the instance tag alone.
//!
//! Pure: nothing here looks at the host.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use tarn_host::SlotId;
use tarn_types::InstanceTag;

use crate::{egress::Span, error::AddressRangeError};

/// The address of every sandbox, seen from inside (design §8). The same everywhere, so that a
/// snapshot restores in any slot of any node.
pub(crate) const INSIDE: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 2);
/// The gateway and resolver of every sandbox: the host's end of its link.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 1);
/// The prefix length of the link.
pub(crate) const LINK_PREFIX: u8 = 30;
/// The IPv6 address of every sandbox, seen from inside: of a unique local prefix (RFC 4193) that is
/// everywhere the same, as INSIDE is.
pub(crate) const INSIDE6: Ipv6Addr = Ipv6Addr::new(0xfd74, 0x6172, 0x6e00, 0x77, 0, 0, 0, 2);
/// Where a sandbox sends what goes out by IPv6. No host has it: its hardware address is fixed.
pub(crate) const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd74, 0x6172, 0x6e00, 0x77, 0, 0, 0, 1);
/// The prefix length of the link in IPv6.
pub(crate) const LINK_PREFIX6: u8 = 126;
/// Host-side addresses in IPv6: behind it comes the host-side address in IPv4, which no other
/// server of the host has.
const HOST_SIDE6: Ipv6Addr = Ipv6Addr::new(0xfd74, 0x6172, 0x6e00, 1, 0, 0, 0, 0);
/// The hardware address inside; constant like the address.
pub(crate) const INSIDE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x77, 0x02];
/// The hardware address of the host's end.
pub(crate) const GATEWAY_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x77, 0x01];
/// The port on which our resolver truly listens; the rules rewrite 53 to it and back.
///
/// Not 53, because a resolver of the host's own on `0.0.0.0:53` would shut us out. Below 1024, so
/// that no ordinary user can take it; outside every host's range of ephemeral ports.
pub(crate) const RESOLVER_PORT: u16 = 453;

/// The most slots of one server; one block of addresses holds them.
pub(crate) const MOST_SLOTS: u16 = 1000;
/// The prefix length of the block of addresses that one server takes.
const BLOCK_PREFIX: u8 = 22;

/// A range of IPv4 addresses from which each server on the host takes one /22.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    base: Ipv4Addr,
    prefix: u8,
}

/// The addresses of one server's slots: a /22.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block(Ipv4Addr);

/// What the rules know a slot by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Face {
    pub(crate) slot: SlotId,
    /// The host's end of its link.
    pub(crate) interface: String,
    /// Its host-side addresses.
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
}

/// The names of one server's objects on the host.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    tag: InstanceTag,
}

// === impl AddressRange ===

impl AddressRange {
    /// The default: the first half of the range for benchmarks (RFC 2544), which no network uses.
    pub const DEFAULT: Self = Self { base: Ipv4Addr::new(198, 18, 0, 0), prefix: 16 };

    /// Returns all of its addresses.
    pub(crate) fn span(self) -> Span {
        Span::of(self.base.into(), self.prefix)
    }

    /// Says whether a network lies within this range.
    pub(crate) fn contains(self, network: Ipv4Addr, prefix: u8) -> bool {
        prefix >= self.prefix && (self.base.to_bits() ^ network.to_bits()) & mask(self.prefix) == 0
    }

    /// Lists the blocks in the order in which a server with this tag tries them.
    ///
    /// The start depends on the tag, so that two servers seldom want the same.
    pub(crate) fn candidates(self, tag: &InstanceTag) -> impl Iterator<Item = Block> {
        let count = 1_u32 << (BLOCK_PREFIX - self.prefix);
        // FNV-1a: any spread will do, and it must be the same in every version.
        let start = tag
            .as_str()
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        (0..count).map(move |step| {
            let number = (start.wrapping_add(step)) % count;
            Block(Ipv4Addr::from_bits(self.base.to_bits() + (number << (32 - BLOCK_PREFIX))))
        })
    }
}

impl Default for AddressRange {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl FromStr for AddressRange {
    type Err = AddressRangeError;

    fn from_str(text: &str) -> Result<Self, AddressRangeError> {
        let read = || {
            let (base, prefix) = text.split_once('/')?;
            Some((base.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok()?))
        };
        match read() {
            Some((base, prefix))
                if (8..=BLOCK_PREFIX).contains(&prefix)
                    && base.to_bits() & (u32::MAX >> prefix) == 0 =>
            {
                Ok(Self { base, prefix })
            }
            Some(_) | None => Err(AddressRangeError { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

// === impl Block ===

impl Block {
    /// Returns the host-side address of a slot.
    pub(crate) fn address(self, slot: SlotId) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.0.to_bits() + u32::from(slot.0))
    }

    /// Returns the host-side address of a slot in IPv6.
    pub(crate) fn address6(self, slot: SlotId) -> Ipv6Addr {
        in_ipv6(self.address(slot))
    }

    /// Reads a slot back from either address.
    pub(crate) fn slot(self, address: IpAddr) -> Option<SlotId> {
        let address = in_ipv4(address)?;
        let number = u16::try_from(address.to_bits().checked_sub(self.0.to_bits())?).ok()?;
        (1..=MOST_SLOTS).contains(&number).then_some(SlotId(number))
    }

    /// Returns the block as a network: its first address, and the mask.
    pub(crate) fn network(self) -> (Ipv4Addr, u32) {
        (self.0, mask(BLOCK_PREFIX))
    }

    /// Returns the block's addresses in IPv6 as a network.
    pub(crate) fn network6(self) -> (Ipv6Addr, u8) {
        (in_ipv6(self.0), 96 + BLOCK_PREFIX)
    }

    /// Returns the group for which the rules note packets. Two servers of one range have two; the
    /// low groups are left to others.
    pub(crate) fn note_group(self) -> u16 {
        const OURS: u16 = 0x4000;
        let number = self.0.to_bits() >> (32 - BLOCK_PREFIX);
        OURS | u16::try_from(number & 0x3fff).unwrap_or(0)
    }

    /// Says whether an address is one of this block.
    pub(crate) fn has(self, address: IpAddr) -> bool {
        in_ipv4(address).is_some_and(|address| self.overlaps(address, 32))
    }

    /// Names the table whose existence reserves this block on the host.
    pub(crate) fn reservation(self) -> String {
        let [a, b, c, d] = self.0.octets();
        format!("{RESERVATION}{a}_{b}_{c}_{d}")
    }

    /// Reads a block back from the name of its reservation.
    pub(crate) fn from_reservation(table: &str) -> Option<Self> {
        let address: Ipv4Addr = table.strip_prefix(RESERVATION)?.replace('_', ".").parse().ok()?;
        (address.to_bits() & (u32::MAX >> BLOCK_PREFIX) == 0).then_some(Self(address))
    }

    /// Says whether a network has addresses in common with this block.
    pub(crate) fn overlaps(self, network: Ipv4Addr, prefix: u8) -> bool {
        let shorter = prefix.min(BLOCK_PREFIX);
        (self.0.to_bits() ^ network.to_bits()) & mask(shorter) == 0
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{BLOCK_PREFIX}", self.0)
    }
}

const RESERVATION: &str = "tarn_net_";

/// Returns the mask of a prefix length.
pub(crate) fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

/// Returns the mask of a prefix length in IPv6.
pub(crate) fn mask6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0)
}

/// Makes a host-side address of IPv6 out of one of IPv4.
fn in_ipv6(address: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(HOST_SIDE6.to_bits() | u128::from(address.to_bits()))
}

/// Reads the host-side address of IPv4 out of either.
fn in_ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => {
            let low = address.to_bits() ^ HOST_SIDE6.to_bits();
            u32::try_from(low).ok().map(Ipv4Addr::from_bits)
        }
    }
}

// === impl Face ===

impl Face {
    /// Returns its host-side address of the family of another.
    pub(crate) fn beside(&self, other: IpAddr) -> IpAddr {
        match other {
            IpAddr::V4(_) => self.v4.into(),
            IpAddr::V6(_) => self.v6.into(),
        }
    }
}

// === impl Names ===

impl Names {
    /// Makes the names of a tag.
    pub(crate) fn new(tag: InstanceTag) -> Self {
        Self { tag }
    }

    /// Returns the tag.
    pub(crate) fn tag(&self) -> &InstanceTag {
        &self.tag
    }

    /// Begins the name of each interface: ten characters with the slot's number.
    pub(crate) fn interface_prefix(&self) -> String {
        format!("t{}", self.tag)
    }

    /// Names the host's end of a slot's link, and the file of its namespace.
    pub(crate) fn interface(&self, slot: SlotId) -> String {
        format!("t{}{:03x}", self.tag, slot.0)
    }

    /// Returns what the rules know a slot by.
    pub(crate) fn face(&self, block: Block, slot: SlotId) -> Face {
        let (v4, v6) = (block.address(slot), block.address6(slot));
        Face { slot, interface: self.interface(slot), v4, v6 }
    }

    /// Reads a slot back from [`Names::interface`].
    pub(crate) fn slot(&self, interface: &str) -> Option<SlotId> {
        let number = interface.strip_prefix(&self.interface_prefix())?;
        let number = (number.len() == 3).then(|| u16::from_str_radix(number, 16).ok())??;
        (1..=MOST_SLOTS).contains(&number).then_some(SlotId(number))
    }

    /// Names the table with every rule of this server.
    pub(crate) fn table(&self) -> String {
        format!("tarn_{}", self.tag)
    }

    /// Names the chain that says whose a reservation is.
    pub(crate) fn owner(&self) -> String {
        format!("owner_{}", self.tag)
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
