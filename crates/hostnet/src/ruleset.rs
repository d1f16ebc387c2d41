//! The rules of one server as a text for `nft -f -`. Pure.
//!
//! One table holds everything. Its base chains accept by default and only look at our interfaces,
//! where each path ends in drop; no other table is touched (design §8). What differs between slots
//! is who is in the two sets `live` (claimed) and `internet` (claimed, and not closed), and for the
//! few with lists, what is in some more (`lists`). So a change of policy is one transaction on set
//! elements. Both directions of every flow ask the sets packet by packet: what is taken out of them
//! is cut off at once, established flows included.
//!
//! The address inside is rewritten before the kernel puts fragments together or tracks a
//! connection, and after that, without state, so every slot looks the same inside and is unique
//! outside. Later would be too late: the kernel tells fragments apart by their addresses and
//! numbers and not by where they came in, so those of two sandboxes would be joined into one
//! datagram. If the table is ever lost (somebody flushes the rule set), packets keep their inside
//! address, and the strict reverse-path check on our interfaces drops them (unless the host asks
//! for the loose check on all interfaces).
//!
//! What this cannot do: an ICMP error from outside quotes the host-side address, which nobody
//! inside knows, so it is ignored there. TCP does not need it (the segment size is clamped to the
//! route's); datagrams larger than the path takes are lost without word.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::Ipv4Addr,
};

use tarn_host::SlotId;
use tokio::time::Instant;

use crate::{
    config::SlotLimits,
    filter::Filter,
    plan::{AddressRange, Block, GATEWAY, INSIDE, MOST_SLOTS, Names, RESOLVER_PORT, mask},
};

pub(crate) mod limits;
pub(crate) mod lists;
pub(crate) mod notes;

/// The set of claimed slots.
pub(crate) const LIVE: &str = "live";
/// The set of claimed slots that may reach anything beyond the host.
pub(crate) const INTERNET: &str = "internet";
/// The set of interfaces on which we switched forwarding on.
pub(crate) const GUARDED: &str = "guarded";

/// The set of slots that may reach only what is allowed.
pub(crate) const LISTED: &str = "listed";
/// The set of addresses of allowed names that new flows may go to.
pub(crate) const FRESH: &str = "fresh";
/// The set of addresses of allowed names that flows which stand may go to.
pub(crate) const KNOWN: &str = "known";
/// The set of addresses of denied names.
pub(crate) const BLOCKED: &str = "blocked";

/// What spec 07 keeps closed whatever a policy says.
const PRIVATE: [(Ipv4Addr, u8); 9] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// What the sets hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Openings {
    /// Claimed slots.
    pub(crate) live: BTreeSet<SlotId>,
    /// Claimed slots that may reach anything beyond the host.
    pub(crate) internet: BTreeSet<SlotId>,
    /// Interfaces on which we switched forwarding on.
    pub(crate) guarded: BTreeSet<String>,
    /// Slots that have sets and chains of their own, because they had lists once.
    pub(crate) furnished: BTreeSet<SlotId>,
    /// The filters of slots with lists.
    pub(crate) filters: BTreeMap<SlotId, Filter>,
}

/// Says whether a sandbox may never reach any address of a network.
pub(crate) fn is_closed(network: Ipv4Addr, prefix: u8) -> bool {
    PRIVATE.iter().any(|(closed, length)| {
        *length <= prefix && (closed.to_bits() ^ network.to_bits()) & mask(*length) == 0
    })
}

/// Writes the text that replaces the whole table in one transaction.
pub(crate) fn compile(
    names: &Names,
    range: AddressRange,
    block: Block,
    limits: &SlotLimits,
    openings: &Openings,
    now: Instant,
) -> String {
    let table = names.table();
    let slots = |set: &BTreeSet<SlotId>| {
        elements(set.iter().map(|slot| format!("\"{}\"", names.interface(*slot))))
    };
    let live = slots(&openings.live);
    let internet = slots(&openings.internet);
    let guarded = elements(openings.guarded.iter().map(|name| format!("\"{name}\"")));
    let addresses = elements((1..=MOST_SLOTS).map(|number| {
        let slot = SlotId(number);
        format!("\"{}\" : {}", names.interface(slot), block.address(slot))
    }));
    let closed = elements(
        PRIVATE
            .iter()
            .map(|(network, prefix)| format!("{network}/{prefix}"))
            .chain([range.to_string()]),
    );
    let mut text = String::new();
    // Adding first makes the deletion good on a host that has no such table.
    writeln!(text, "add table inet {table}\ndelete table inet {table}\ntable inet {table} {{")
        .expect("a string takes every write");
    writeln!(
        text,
        "  set {LIVE} {{ type ifname;{live} }}\n  \
           set {INTERNET} {{ type ifname;{internet} }}\n  \
           set {GUARDED} {{ type ifname;{guarded} }}\n  \
           map address {{ type ifname : ipv4_addr;{addresses} }}\n  \
           set closed {{ type ipv4_addr; flags interval; auto-merge;{closed} }}"
    )
    .expect("a string takes every write");
    text.push_str(&lists::shared(block, openings, now));
    text.push_str(&limits::sets());
    text.push_str(&notes::sets());
    text.push_str(&chains(&names.interface_prefix(), block));
    text.push_str(&limits::chains(limits));
    text.push_str(&notes::chains(block.note_group()));
    for slot in &openings.furnished {
        let filter = openings.filters.get(slot);
        text.push_str(&lists::own(*slot, filter.map(|filter| &filter.members)));
    }
    text.push_str("}\n");
    text
}

fn elements(list: impl Iterator<Item = String>) -> String {
    let list = list.collect::<Vec<_>>().join(", ");
    if list.is_empty() { list } else { format!(" elements = {{ {list} }};") }
}

/// Writes the chains; `prefix` begins the name of each of our interfaces.
fn chains(prefix: &str, block: Block) -> String {
    format!(
        r#"
  # Before connection tracking (-200), and before fragments are put together (-400).
  chain arriving {{
    type filter hook prerouting priority -450; policy accept;
    iifname "{prefix}*" jump from_slot
  }}
  chain from_slot {{
    meta nfproto != ipv4 drop
    iifname != @{LIVE} drop
    ip saddr != {INSIDE} drop
    ip saddr set iifname map @address
    ip saddr {INSIDE} drop
    ip daddr {GATEWAY} udp dport 53 udp dport set {RESOLVER_PORT}
    ip daddr {GATEWAY} tcp dport 53 tcp dport set {RESOLVER_PORT}
  }}
  # After address translation (100) and every other filter.
  chain leaving {{
    type filter hook postrouting priority 350; policy accept;
    oifname "{prefix}*" jump to_slot
  }}
  chain to_slot {{
    meta nfproto != ipv4 drop
    ip saddr {GATEWAY} udp sport {RESOLVER_PORT} udp sport set 53
    ip saddr {GATEWAY} tcp sport {RESOLVER_PORT} tcp sport set 53
    ip daddr set {INSIDE}
  }}
  chain forwarded {{
    type filter hook forward priority -10; policy accept;
    iifname "{prefix}*" jump forwarded_from_slot
    oifname "{prefix}*" jump forwarded_to_slot
    # Where we switched forwarding on, the host still is no router for its neighbours.
    iifname @{GUARDED} ct direction original drop
  }}
  chain forwarded_from_slot {{
    iifname != @{INTERNET} goto refused_internet_off
    oifname "{prefix}*" goto dropped_closed
    ip daddr @closed goto refused_closed
    fib daddr type != unicast goto dropped_closed
    meta l4proto {{ tcp, udp }} th dport {{ 53, 853 }} goto refused_foreign_resolver
    ct state invalid drop
    ct direction reply drop
    # The rest of a connection that nobody remembers, as of a sandbox that was restored.
    ct state new tcp flags != syn / fin,syn,rst,ack goto refused
    ip saddr vmap @lists_from
    ip saddr != @{LISTED} goto passed
    ip saddr . ip daddr @{FRESH} goto passed
    ct state established ip saddr . ip daddr @{KNOWN} goto passed
    goto refused_not_in_allow_out
  }}
  # Says so at once where that can be said: an ICMP error would not be understood inside.
  chain refused {{
    meta l4proto tcp reject with tcp reset
    drop
  }}
  chain forwarded_to_slot {{
    meta nfproto != ipv4 drop
    oifname != @{INTERNET} drop
    ct direction original drop
    ct state related goto taken
    ct state != established drop
    ip daddr vmap @lists_to
    ip daddr != @{LISTED} goto taken
    ip daddr . ip saddr @{KNOWN} goto taken
    drop
  }}
  chain received {{
    type filter hook input priority -10; policy accept;
    iifname "{prefix}*" jump received_from_slot
  }}
  chain received_from_slot {{
    ip daddr {GATEWAY} meta l4proto {{ tcp, udp }} th dport {RESOLVER_PORT} goto asked
    ct state established ct direction reply accept
    # The rest of a connection to the sandbox that nobody remembers is no attempt.
    tcp flags != syn / fin,syn,rst,ack drop
    ct state new goto dropped_closed
    drop
  }}
  chain sent {{
    type filter hook output priority -10; policy accept;
    oifname "{prefix}*" jump sent_to_slot
    # An address of ours without a slot must not wander off by the default route.
    ip daddr {block} reject
  }}
  chain sent_to_slot {{
    meta nfproto != ipv4 drop
    oifname != @{LIVE} reject
    accept
  }}
  chain translated {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {block} oifname != "{prefix}*" masquerade
  }}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(openings: &Openings) -> String {
        let tag = "abc123".parse().expect("the test writes a good tag");
        let block = AddressRange::DEFAULT.candidates(&tag).next().expect("a range has blocks");
        let (names, range) = (Names::new(tag), AddressRange::DEFAULT);
        compile(&names, range, block, &SlotLimits::default(), openings, Instant::now())
    }

    #[test]
    fn sets_start_empty_and_carry_what_was_open() {
        let empty = text(&Openings::default());
        assert!(empty.contains("set live { type ifname; }"));
        assert!(empty.contains("set internet { type ifname; }"));
        let openings = Openings {
            live: [SlotId(1), SlotId(10)].into(),
            internet: [SlotId(10)].into(),
            guarded: ["eth0".to_owned()].into(),
            ..Openings::default()
        };
        let open = text(&openings);
        assert!(
            open.contains(
                r#"set live { type ifname; elements = { "tabc123001", "tabc12300a" }; }"#
            )
        );
        assert!(open.contains(r#"set internet { type ifname; elements = { "tabc12300a" }; }"#));
        assert!(open.contains(r#"set guarded { type ifname; elements = { "eth0" }; }"#));
    }

    #[test]
    fn the_table_is_replaced_in_one_go_and_no_other_is_named() {
        let text = text(&Openings::default());
        assert!(text.starts_with("add table inet tarn_abc123\ndelete table inet tarn_abc123\n"));
        assert_eq!(text.matches("table inet").count(), 3);
        assert_eq!(text.matches("policy accept").count(), text.matches(" hook ").count());
        assert!(!text.contains("policy drop") && !text.contains("flush"));
    }

    #[test]
    fn a_slot_is_told_from_the_next_before_fragments_are_joined() {
        const CONNTRACK_DEFRAG: i32 = -400;
        let text = text(&Openings::default());
        let at = text.split("hook prerouting priority ").nth(1).expect("the chain is there");
        let priority: i32 = at.split(';').next().expect(at).parse().expect(at);
        assert!(priority < CONNTRACK_DEFRAG, "{priority}");
    }

    #[test]
    fn each_jump_for_our_interfaces_leads_to_a_chain_that_ends_for_good() {
        let text = text(&Openings::default());
        for chain in [
            "forwarded_from_slot",
            "forwarded_to_slot",
            "received_from_slot",
            "sent_to_slot",
            "refused",
            "passed",
            "asked",
            "taken",
            "refused_closed",
            "dropped_closed",
        ] {
            let body = text.split(&format!("chain {chain} {{")).nth(1).expect(chain);
            let last = body.split("\n  }").next().expect(chain).lines().last().expect(chain);
            let last = last.trim();
            let ends = ["drop", "accept", "goto refused", "goto refused_not_in_allow_out"];
            assert!(ends.contains(&last), "{chain} ends with {last}");
        }
    }

    #[test]
    fn private_networks_are_closed_and_documentation_is_not() {
        for (network, prefix, expected) in [
            ([10, 1, 2, 0], 24, true),
            ([172, 31, 0, 0], 16, true),
            ([172, 32, 0, 0], 16, false),
            ([169, 254, 169, 254], 32, true),
            ([192, 0, 2, 0], 24, false),
            ([203, 0, 113, 0], 24, false),
            ([0, 0, 0, 0], 0, false),
            ([0, 0, 0, 0], 1, false),
        ] {
            assert_eq!(is_closed(network.into(), prefix), expected, "{network:?}/{prefix}");
        }
    }
}
