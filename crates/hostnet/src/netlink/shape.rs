//! Queues that hold what goes out of an interface to a rate (`linux/pkt_sched.h`, `tc-htb(8)`).
//!
//! A queue and not a policer: what is dropped for having come too fast tells TCP nothing of the
//! rate there is, while what waits does.

use std::net::Ipv4Addr;

use super::message::{Message, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTCLASS: u16 = 40;
const RTM_NEWTFILTER: u16 = 44;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;

const TC_H_ROOT: u32 = 0xffff_ffff;
/// The tree of queues, and what is in it but in no class: it passes at once, before all others.
const TREE: u32 = 0x0001_0000;
/// The only class.
const CLASS: u32 = TREE + 1;

const TCA_HTB_PARMS: u16 = 1;
const TCA_HTB_INIT: u16 = 2;
const HTB_VERSION: u32 = 3;
/// How many bytes a class is served at a turn; there is but one.
const QUANTUM: u32 = 60_000;
const LINKLAYER_ETHERNET: u8 = 1;
/// The kernel's unit of time for queues: 64 ns.
const TICK_NANOS: u64 = 64;
/// What may go at once after a silence, at least: the largest segment of a sender that leaves
/// cutting to the device.
const LEAST_BURST: u64 = 64 * 1024;
/// The time after which the kernel looks again at the latest, and bursts cover.
const BURST_MILLIS: u64 = 4;
/// How long a packet waits before the next is dropped.
const WAIT_MILLIS: u64 = 20;
/// The bounds of what waits. Below the least TCP does not find the rate; the most keeps the memory
/// of small packets, which are counted by their length alone, within some 30 MiB.
const LEAST_WAITING: u64 = 256 * 1024;
const MOST_WAITING: u64 = 2 * 1024 * 1024;

const TCA_U32_CLASSID: u16 = 1;
const TCA_U32_SEL: u16 = 5;
const U32_TERMINAL: u8 = 1;
const ETH_P_IP: u16 = 0x0800;

/// A rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) bytes_per_sec: u32,
}

/// Which end of a packet tells that it is not to be held to the rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spared {
    /// What comes from this address.
    From(Ipv4Addr),
    /// What goes to this address.
    To(Ipv4Addr),
}

/// Takes the queues off an interface. Refused with `ENOENT` or `EINVAL` if it has none.
pub(crate) fn unshape(index: u32) -> Message {
    Message::new(RTM_DELQDISC, NLM_F_ACK, &head(index, 0, TC_H_ROOT, 0))
}

/// Holds what goes out of an interface without queues to a rate, but what is spared.
pub(crate) fn shape(index: u32, rate: Rate, spared: Spared) -> Vec<Message> {
    let new = |kind: u16, handle: u32, parent: u32, info: u32| {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        Message::new(kind, flags, &head(index, handle, parent, info))
    };
    vec![
        new(RTM_NEWQDISC, TREE, TC_H_ROOT, 0)
            .attribute(TCA_KIND, b"htb\0")
            .nested(TCA_OPTIONS, |options| options.attribute(TCA_HTB_INIT, &tree())),
        new(RTM_NEWTCLASS, CLASS, TREE, 0)
            .attribute(TCA_KIND, b"htb\0")
            .nested(TCA_OPTIONS, |options| options.attribute(TCA_HTB_PARMS, &class(rate))),
        new(RTM_NEWQDISC, 0, CLASS, 0)
            .attribute(TCA_KIND, b"bfifo\0")
            .attribute(TCA_OPTIONS, &rate.waiting().to_ne_bytes()),
        new(RTM_NEWTFILTER, 0, TREE, (1 << 16) | u32::from(ETH_P_IP.to_be()))
            .attribute(TCA_KIND, b"u32\0")
            .nested(TCA_OPTIONS, |options| {
                options
                    .attribute(TCA_U32_CLASSID, &TREE.to_ne_bytes())
                    .attribute(TCA_U32_SEL, &spared.selector())
            }),
    ]
}

/// struct tcmsg.
fn head(index: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    numbers([0, index, handle, parent, info])
}

/// struct tc_htb_glob: whatever no filter knows goes to the class.
fn tree() -> [u8; 20] {
    const RATE_TO_QUANTUM: u32 = 10;
    numbers([HTB_VERSION, RATE_TO_QUANTUM, CLASS & 0xffff, 0, 0])
}

/// struct tc_htb_opt: rate and ceiling (struct tc_ratespec, 12 bytes each) and seven numbers less.
fn class(rate: Rate) -> [u8; 44] {
    let spec = [0, LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
    let burst = rate.burst_ticks();
    let mut bytes = [0; 44];
    for at in [0, 12] {
        bytes[at..at + 8].copy_from_slice(&spec);
        bytes[at + 8..at + 12].copy_from_slice(&rate.bytes_per_sec.to_ne_bytes());
    }
    bytes[24..].copy_from_slice(&numbers::<5, 20>([burst, burst, QUANTUM, 0, 0]));
    bytes
}

fn numbers<const N: usize, const BYTES: usize>(numbers: [u32; N]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    for (place, number) in bytes.chunks_exact_mut(4).zip(numbers) {
        place.copy_from_slice(&number.to_ne_bytes());
    }
    bytes
}

// === impl Rate ===

impl Rate {
    /// Makes a rate of megabits a second.
    pub(crate) fn of_megabits(megabits: u32) -> Self {
        Self { bytes_per_sec: megabits.saturating_mul(1_000_000 / 8) }
    }

    /// Returns how many bytes may wait.
    fn waiting(self) -> u32 {
        let bytes = u64::from(self.bytes_per_sec) * WAIT_MILLIS / 1000;
        u32::try_from(bytes.clamp(LEAST_WAITING, MOST_WAITING)).unwrap_or(u32::MAX)
    }

    /// Returns how long a burst takes, as the kernel counts it.
    fn burst_ticks(self) -> u32 {
        let rate = u64::from(self.bytes_per_sec).max(1);
        let bytes = (rate * BURST_MILLIS / 1000).max(LEAST_BURST);
        u32::try_from(bytes * 1_000_000_000 / rate / TICK_NANOS).unwrap_or(u32::MAX)
    }
}

// === impl Spared ===

impl Spared {
    /// struct tc_u32_sel with one struct tc_u32_key: four bytes of the header of IPv4.
    fn selector(self) -> [u8; 32] {
        const SOURCE: i32 = 12;
        const DESTINATION: i32 = 16;
        let (address, offset) = match self {
            Self::From(address) => (address, SOURCE),
            Self::To(address) => (address, DESTINATION),
        };
        let mut bytes = [0; 32];
        bytes[0] = U32_TERMINAL;
        bytes[2] = 1;
        bytes[16..20].fill(0xff);
        bytes[20..24].copy_from_slice(&address.octets());
        bytes[24..28].copy_from_slice(&offset.to_ne_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_and_waiting_are_bounded_at_every_rate() {
        for (megabits, waiting, burst) in [
            (1, 262_144, 8_192_000),
            (100, 262_144, 81_920),
            (1000, 2_097_152, 62_500),
            (30_000, 2_097_152, 62_500),
        ] {
            let rate = Rate::of_megabits(megabits);
            assert_eq!((rate.waiting(), rate.burst_ticks()), (waiting, burst), "{megabits} Mbit/s");
        }
    }

    #[test]
    fn the_spared_are_told_by_their_end() {
        let address = Ipv4Addr::new(169, 254, 77, 1);
        for (spared, offset) in [(Spared::From(address), 12), (Spared::To(address), 16)] {
            let selector = spared.selector();
            assert_eq!(selector[20..24], [169, 254, 77, 1]);
            assert_eq!(selector[24], offset);
        }
    }

    #[test]
    fn a_class_has_rate_and_ceiling_alike() {
        let bytes = class(Rate::of_megabits(8));
        assert_eq!(bytes[..12], bytes[12..24]);
        assert_eq!(bytes[8..12], 1_000_000_u32.to_ne_bytes());
    }
}
