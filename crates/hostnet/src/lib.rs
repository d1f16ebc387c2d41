//! Network slots on a Linux host: namespaces, addresses, rules and the resolver.
//!
//! [`HostSlots`] implements [`tarn_host::Slots`]. It knows nothing of sandboxes but their ids, and
//! nothing of runtimes but that they take the addresses out of a namespace they start in.
//!
//! Everything it makes on the host carries the instance tag, and [`remove_all`] finds all of it by
//! that alone: interfaces `t<tag><number>`, namespace files of the same names, the table
//! `tarn_<tag>` and the table that reserves its addresses. On a host that forwards (`ip_forward`)
//! nothing else is changed; on one that doesn't, forwarding is switched on for the interfaces that
//! lead to the internet, and the rules drop what anybody else tries to send through by it. And the
//! kernel is made to count the bytes of connections (`nf_conntrack_acct`).
//!
//! A slot has IPv6 beside IPv4 wherever the kernel could forward it; whether it leads anywhere is
//! up to the ways out that the host has at the moment (`uplink.rs`). Forwarding is switched on for
//! it in the same manner.

mod book;
mod carry;
mod config;
mod dns;
mod doctor;
mod egress;
mod error;
mod filter;
mod netlink;
mod netlog;
mod opened;
mod plan;
mod remove;
mod reserve;
mod rules;
mod ruleset;
mod site;
mod slots;
mod uplink;

pub use config::{SlotLimits, SlotsConfig};
pub use doctor::{Fact, facts};
pub use error::{AddressRangeError, SlotsStartError};
pub use opened::{OpenedNetworks, OpenedNetworksError};
pub use plan::AddressRange;
pub use remove::{SlotsRemoveError, remove_all};
pub use slots::HostSlots;
