//! The rules of one server as a text for `nft -f -`. Pure.
//!
//! One table holds everything. Its base chains accept by default and only look at our interfaces,
//! where each path ends in drop; no other table is touched (design §8). What differs between slots
//! is who is in the two sets `live` (claimed) and `internet` (claimed, and not closed), and for the
//! few with lists, what is in some more (`lists`). So a change of policy is one transaction on set
//! elements. Both directions of every flow ask the sets packet by packet: what is taken out of them
//! is cut off at once, established flows included.
//!
//! What passes between a slot and the host is tracked apart for each sandbox that has the slot
//! ([`tenancy`]).
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
//!
//! IPv6 goes the same way, with less of it: only TCP, UDP and echo requests without any header
//! between leave a sandbox, no fragment, and nothing about neighbours or routers, whose hardware
//! addresses are fixed at both ends. Nothing of the host answers by IPv6. While the host has no way
//! out for it ([`FAMILIES`]) a connection is refused before it is routed, which would end without
//! a word otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use tarn_host::SlotId;
use tokio::time::Instant;

use self::tenancy::Zones;
use crate::{
    config::SlotLimits,
    egress::Span,
    filter::Filter,
    opened::OpenedNetworks,
    plan::{
        AddressRange, Block, GATEWAY, INSIDE, INSIDE6, MOST_SLOTS, Names, RESOLVER_PORT, mask,
        mask6,
    },
};

pub(crate) mod limits;
pub(crate) mod lists;
pub(crate) mod notes;
pub(crate) mod tenancy;

/// The set of claimed slots.
pub(crate) const LIVE: &str = "live";
/// The set of claimed slots that may reach anything beyond the host.
pub(crate) const INTERNET: &str = "internet";
/// The set of interfaces on which we switched forwarding on.
pub(crate) const GUARDED: &str = "guarded";
/// The same for IPv6.
pub(crate) const GUARDED6: &str = "guarded6";
/// The set of families that have a way out besides IPv4: IPv6 or nothing.
pub(crate) const FAMILIES: &str = "families";
/// The set of networks of IPv6 that the host itself is on.
pub(crate) const NEAR: &str = "near6";

/// The set of slots that may reach only what is allowed.
pub(crate) const LISTED: &str = "listed";
/// The set of addresses of allowed names that new flows may go to.
pub(crate) const FRESH: SetPair = SetPair { v4: "fresh", v6: "fresh6" };
/// The set of addresses of allowed names that flows which stand may go to.
pub(crate) const KNOWN: SetPair = SetPair { v4: "known", v6: "known6" };
/// The set of addresses of denied names.
pub(crate) const BLOCKED: SetPair = SetPair { v4: "blocked", v6: "blocked6" };

/// The names, or the beginnings of the names, of two sets that differ in their family alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SetPair {
    pub(crate) v4: &'static str,
    pub(crate) v6: &'static str,
}

/// Tells the addresses of a family.
pub(crate) type IsOfFamily = fn(&IpAddr) -> bool;

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

/// The same of IPv6: what is not global unicast (2000::/3), in which are unique local, link-local
/// and multicast addresses and the mapped and NAT64 forms of IPv4; Teredo and 6to4, which have
/// forms of IPv4 within it.
const CLOSED6: [(Ipv6Addr, u8); 5] = [
    (Ipv6Addr::UNSPECIFIED, 3),
    (Ipv6Addr::new(0x4000, 0, 0, 0, 0, 0, 0, 0), 2),
    (Ipv6Addr::new(0x8000, 0, 0, 0, 0, 0, 0, 0), 1),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
];

/// What the sets hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Openings {
    /// Claimed slots.
    pub(crate) live: BTreeSet<SlotId>,
    /// Claimed slots that may reach anything beyond the host, and those that the kernel may still
    /// take for such because it refused to close them.
    pub(crate) internet: BTreeSet<SlotId>,
    /// The ways out.
    pub(crate) ways: Ways,
    /// Slots that have sets and chains of their own, because they had lists once.
    pub(crate) furnished: BTreeSet<SlotId>,
    /// The filters of slots with lists.
    pub(crate) filters: BTreeMap<SlotId, Filter>,
    /// The conntrack zones of tenancies; none where the kernel or `nft` has no such thing.
    pub(crate) zones: Option<Zones>,
}

/// What the rules must know of the ways out of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ways {
    /// Interfaces on which we switched forwarding on.
    pub(crate) guarded: BTreeSet<String>,
    /// Those for IPv6.
    pub(crate) guarded6: BTreeSet<String>,
    /// Networks of IPv6 that the host itself is on: its neighbours, who are private by their
    /// addresses in IPv4.
    pub(crate) near6: BTreeSet<Span>,
    /// Whether IPv6 has a way out.
    pub(crate) has_ipv6: bool,
}

/// Says whether a sandbox may never reach any address of a network.
pub(crate) fn is_closed(network: impl Into<IpAddr>, prefix: u8) -> bool {
    match network.into() {
        IpAddr::V4(network) => PRIVATE.iter().any(|(closed, length)| {
            *length <= prefix && (closed.to_bits() ^ network.to_bits()) & mask(*length) == 0
        }),
        IpAddr::V6(network) => CLOSED6.iter().any(|(closed, length)| {
            *length <= prefix && (closed.to_bits() ^ network.to_bits()) & mask6(*length) == 0
        }),
    }
}

/// Writes the text that replaces the whole table in one transaction.
pub(crate) fn compile(
    names: &Names,
    (range, opened): (AddressRange, &OpenedNetworks),
    block: Block,
    limits: &SlotLimits,
    openings: &Openings,
    now: Instant,
) -> String {
    let table = names.table();
    let mut text = String::new();
    // Adding first makes the deletion good on a host that has no such table.
    writeln!(text, "add table inet {table}\ndelete table inet {table}\ntable inet {table} {{")
        .expect("a string takes every write");
    text.push_str(&sets(names, (range, opened), block, openings));
    text.push_str(&lists::shared(names, block, openings, now));
    text.push_str(&limits::sets());
    text.push_str(&notes::sets());
    let prefix = names.interface_prefix();
    text.push_str(&chains(&prefix, block));
    if let Some(zones) = &openings.zones {
        text.push_str(&tenancy::map(zones, block));
        text.push_str(&tenancy::chains(&prefix));
    }
    text.push_str(&limits::chains(limits));
    text.push_str(&notes::chains(block.note_group()));
    for slot in &openings.furnished {
        let filter = openings.filters.get(slot);
        text.push_str(&lists::own(*slot, filter.map(|filter| &filter.members)));
    }
    text.push_str("}\n");
    text
}

/// Writes the sets and maps that are neither lists nor meters.
fn sets(
    names: &Names,
    (range, opened): (AddressRange, &OpenedNetworks),
    block: Block,
    openings: &Openings,
) -> String {
    let slots = |set: &BTreeSet<SlotId>| {
        elements(set.iter().map(|slot| format!("\"{}\"", names.interface(*slot))))
    };
    let interfaces =
        |set: &BTreeSet<String>| elements(set.iter().map(|name| format!("\"{name}\"")));
    let addresses = |address: &dyn Fn(SlotId) -> IpAddr| {
        elements(
            (1..=MOST_SLOTS)
                .map(SlotId)
                .map(|slot| format!("\"{}\" : {}", names.interface(slot), address(slot))),
        )
    };
    let open = openings.live.intersection(&openings.internet).copied().collect();
    let Ways { guarded, guarded6, near6, has_ipv6 } = &openings.ways;
    let families = elements(has_ipv6.then(|| "ipv6".to_owned()).into_iter());
    let near = elements(near6.iter().map(ToString::to_string));
    let closed = PRIVATE.iter().flat_map(|(network, prefix)| rest(*network, *prefix, opened));
    let closed = elements(closed.chain([range.to_string()]));
    let closed6 = CLOSED6.iter().flat_map(|(network, prefix)| rest(*network, *prefix, opened));
    let closed6 = elements(closed6);
    format!(
        "  set {LIVE} {{ type ifname;{} }}
  set {INTERNET} {{ type ifname;{} }}
  set {GUARDED} {{ type ifname;{} }}
  set {GUARDED6} {{ type ifname;{} }}
  set {FAMILIES} {{ type nf_proto;{families} }}
  map address {{ type ifname : ipv4_addr;{} }}
  map address6 {{ type ifname : ipv6_addr;{} }}
  set closed {{ type ipv4_addr; flags interval; auto-merge;{closed} }}
  set closed6 {{ type ipv6_addr; flags interval;{closed6} }}
  set {NEAR} {{ type ipv6_addr; flags interval;{near} }}
",
        slots(&openings.live),
        slots(&open),
        interfaces(guarded),
        interfaces(guarded6),
        addresses(&|slot| block.address(slot).into()),
        addresses(&|slot| block.address6(slot).into()),
    )
}

/// Writes a closed network, without what is opened of it.
fn rest(network: impl Into<IpAddr>, prefix: u8, opened: &OpenedNetworks) -> Vec<String> {
    let network = network.into();
    if !opened.touch(network, prefix) {
        return vec![format!("{network}/{prefix}")];
    }
    let write = |span: Span| {
        // A row of one is none to `nft`.
        if span.first == span.last { span.first.to_string() } else { span.to_string() }
    };
    opened.out_of(network, prefix).into_iter().map(write).collect()
}

fn elements(list: impl Iterator<Item = String>) -> String {
    let list = list.collect::<Vec<_>>().join(", ");
    if list.is_empty() { list } else { format!(" elements = {{ {list} }};") }
}

/// Writes the chains; `prefix` begins the name of each of our interfaces.
fn chains(prefix: &str, block: Block) -> String {
    let (network6, length6) = block.network6();
    let block6 = format!("{network6}/{length6}");
    [
        ends(prefix),
        forwarded(prefix),
        format!(
            r#"
  chain received {{
    type filter hook input priority -10; policy accept;
    iifname "{prefix}*" jump received_from_slot
  }}
  chain received_from_slot {{
    meta nfproto != ipv4 goto dropped_closed
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
    ip6 daddr {block6} reject
  }}
  chain sent_to_slot {{
    meta nfproto ipv6 goto sent_to_slot6
    meta nfproto != ipv4 drop
    oifname != @{LIVE} reject
    # The rest of a connection that nobody remembers was to the slot's last sandbox. A host that
    # is strict about such (nf_conntrack_tcp_loose = 0) calls it invalid.
    ct state new tcp flags != syn / fin,syn,rst,ack reject with tcp reset
    ct state invalid tcp flags != syn / fin,syn,rst,ack drop
    accept
  }}
  # By IPv6 the host only refuses.
  chain sent_to_slot6 {{
    oifname != @{LIVE} drop
    tcp flags & rst == rst accept
    drop
  }}
  chain translated {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {block} oifname != "{prefix}*" masquerade
    ip6 saddr {block6} oifname != "{prefix}*" masquerade
  }}
"#
        ),
    ]
    .concat()
}

/// Writes the chains at the slots' ends of the way, where addresses are rewritten.
fn ends(prefix: &str) -> String {
    format!(
        r#"
  # Before connection tracking (-200), and before fragments are put together (-400).
  chain arriving {{
    type filter hook prerouting priority -450; policy accept;
    iifname "{prefix}*" jump from_slot
  }}
  chain from_slot {{
    iifname != @{LIVE} drop
    meta nfproto ipv6 goto from_slot6
    meta nfproto != ipv4 drop
    ip saddr != {INSIDE} drop
    ip saddr set iifname map @address
    ip saddr {INSIDE} drop
    ip daddr {GATEWAY} udp dport 53 udp dport set {RESOLVER_PORT}
    ip daddr {GATEWAY} tcp dport 53 tcp dport set {RESOLVER_PORT}
  }}
  chain from_slot6 {{
    ip6 saddr != {INSIDE6} drop
    # The next header is what it carries: no fragment, no route, no option comes between.
    ip6 nexthdr != {{ tcp, udp, ipv6-icmp }} drop
    # Nothing is said about neighbours, routers and errors.
    ip6 nexthdr ipv6-icmp icmpv6 type != echo-request drop
    ip6 saddr set iifname map @address6
    ip6 saddr {INSIDE6} drop
    meta nfproto != @{FAMILIES} goto refused_closed
  }}
  # After address translation (100) and every other filter.
  chain leaving {{
    type filter hook postrouting priority 350; policy accept;
    oifname "{prefix}*" jump to_slot
  }}
  chain to_slot {{
    meta nfproto ipv6 goto to_slot6
    meta nfproto != ipv4 drop
    ip saddr {GATEWAY} udp sport {RESOLVER_PORT} udp sport set 53
    ip saddr {GATEWAY} tcp sport {RESOLVER_PORT} tcp sport set 53
    ip daddr set {INSIDE}
  }}
  chain to_slot6 {{
    ip6 daddr set {INSIDE6}
  }}
"#
    )
}

/// Writes the chains of what passes between slots and the world.
fn forwarded(prefix: &str) -> String {
    format!(
        r#"
  chain forwarded {{
    type filter hook forward priority -10; policy accept;
    iifname "{prefix}*" jump forwarded_from_slot
    oifname "{prefix}*" jump forwarded_to_slot
    # Where we switched forwarding on, the host still is no router for its neighbours.
    meta nfproto ipv4 iifname @{GUARDED} ct direction original drop
    meta nfproto ipv6 iifname @{GUARDED6} ct direction original drop
  }}
  chain forwarded_from_slot {{
    iifname != @{INTERNET} goto refused_internet_off
    oifname "{prefix}*" goto dropped_closed
    ip daddr @closed goto refused_closed
    ip6 daddr @closed6 goto refused_closed
    ip6 daddr @{NEAR} goto refused_closed
    fib daddr type != unicast goto dropped_closed
    meta l4proto {{ tcp, udp }} th dport {{ 53, 853 }} goto refused_foreign_resolver
    ct state invalid drop
    ct direction reply drop
    # The rest of a connection that nobody remembers, as of a sandbox that was restored.
    ct state new tcp flags != syn / fin,syn,rst,ack goto refused
    iifname vmap @lists_from
    iifname != @{LISTED} goto passed
    ip saddr . ip daddr @{fresh} goto passed
    ip6 saddr . ip6 daddr @{fresh6} goto passed
    ct state established ip saddr . ip daddr @{known} goto passed
    ct state established ip6 saddr . ip6 daddr @{known6} goto passed
    goto refused_not_in_allow_out
  }}
  # Says so at once where that can be said: an ICMP error would not be understood inside.
  chain refused {{
    meta l4proto tcp reject with tcp reset
    drop
  }}
  chain forwarded_to_slot {{
    oifname != @{INTERNET} drop
    ct direction original drop
    ct state related goto taken
    ct state != established drop
    oifname vmap @lists_to
    oifname != @{LISTED} goto taken
    ip daddr . ip saddr @{known} goto taken
    ip6 daddr . ip6 saddr @{known6} goto taken
    drop
  }}
"#,
        fresh = FRESH.v4,
        fresh6 = FRESH.v6,
        known = KNOWN.v4,
        known6 = KNOWN.v6,
    )
}

// === impl SetPair ===

impl SetPair {
    /// Returns each with what tells the addresses that belong to it.
    pub(crate) fn each(self) -> [(&'static str, IsOfFamily); 2] {
        [(self.v4, IpAddr::is_ipv4), (self.v6, IpAddr::is_ipv6)]
    }

    /// Says whether a name is one of the two.
    pub(crate) fn has(self, name: &str) -> bool {
        [self.v4, self.v6].contains(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(openings: &Openings) -> String {
        let tag = "abc123".parse().expect("the test writes a good tag");
        let block = AddressRange::DEFAULT.candidates(&tag).next().expect("a range has blocks");
        let (names, range) = (Names::new(tag), AddressRange::DEFAULT);
        let opened = OpenedNetworks::default();
        let limits = SlotLimits::default();
        compile(&names, (range, &opened), block, &limits, openings, Instant::now())
    }

    #[test]
    fn what_the_operator_has_opened_is_not_closed() {
        let texts = ["10.1.2.0/24", "192.168.0.1", "fd80::/9"].map(str::to_owned);
        let opened = OpenedNetworks::read(&texts, AddressRange::DEFAULT).expect("private");
        let write = |network: &str, prefix| {
            rest(network.parse::<IpAddr>().expect("an address"), prefix, &opened).join(", ")
        };
        for (network, prefix, expected) in [
            ("10.0.0.0", 8, "10.0.0.0-10.1.1.255, 10.1.3.0-10.255.255.255"),
            ("192.168.0.0", 16, "192.168.0.0, 192.168.0.2-192.168.255.255"),
            ("169.254.0.0", 16, "169.254.0.0/16"),
            (
                "8000::",
                1,
                "8000::-fd7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff, \
                 fe00::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            ),
        ] {
            assert_eq!(write(network, prefix), expected, "{network}/{prefix}");
        }
    }

    #[test]
    fn sets_start_empty_and_carry_what_was_open() {
        let empty = text(&Openings::default());
        assert!(empty.contains("set live { type ifname; }"));
        assert!(empty.contains("set internet { type ifname; }"));
        let openings = Openings {
            live: [SlotId(1), SlotId(10)].into(),
            internet: [SlotId(10)].into(),
            ways: Ways {
                guarded: ["eth0".to_owned()].into(),
                guarded6: ["wg0".to_owned()].into(),
                near6: [Span::of("2001:db8:1::".parse().expect("an address"), 64)].into(),
                has_ipv6: true,
            },
            ..Openings::default()
        };
        let open = text(&openings);
        assert!(
            open.contains(
                r#"set live { type ifname; elements = { "tabc123001", "tabc12300a" }; }"#
            )
        );
        assert!(open.contains(r#"set internet { type ifname; elements = { "tabc12300a" }; }"#));
        let refused = Openings { live: [SlotId(1)].into(), ..openings.clone() };
        assert!(text(&refused).contains("set internet { type ifname; }"), "it is nobody's");
        assert!(open.contains(r#"set guarded { type ifname; elements = { "eth0" }; }"#));
        assert!(open.contains(r#"set guarded6 { type ifname; elements = { "wg0" }; }"#));
        assert!(empty.contains("set families { type nf_proto; }"));
        assert!(open.contains("set families { type nf_proto; elements = { ipv6 }; }"));
        let near = "elements = { 2001:db8:1::-2001:db8:1:0:ffff:ffff:ffff:ffff }";
        assert!(open.contains(near));
    }

    #[test]
    fn zones_are_written_where_there_are_any() {
        let none = text(&Openings::default());
        assert!(!none.contains("ct zone") && !none.contains(tenancy::TENANCY));
        let zones = Some(Zones::default().begin(7, &BTreeSet::new()));
        let some = text(&Openings { zones, ..Openings::default() });
        assert!(some.contains("map tenancy { typeof ip daddr : ct zone; elements = { 198."));
        assert_eq!(some.matches("priority -300; policy accept;").count(), 2);
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
            "sent_to_slot6",
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
            ("10.1.2.0", 24, true),
            ("172.31.0.0", 16, true),
            ("172.32.0.0", 16, false),
            ("169.254.169.254", 32, true),
            ("192.0.2.0", 24, false),
            ("203.0.113.0", 24, false),
            ("0.0.0.0", 0, false),
            ("0.0.0.0", 1, false),
            ("::", 0, false),
            ("2000::", 3, false),
            ("2001:db8::", 32, false),
            ("2a00::", 16, false),
            ("::ffff:0:0", 96, true),
            ("64:ff9b::", 96, true),
            ("fd00::", 8, true),
            ("fe80::", 64, true),
            ("ff02::1", 128, true),
            ("2001::", 32, true),
            ("2002:cb00:7107::", 48, true),
            ("3fff:ffff::", 32, false),
            ("4000::", 16, true),
        ] {
            let address: IpAddr = network.parse().expect("an address");
            assert_eq!(is_closed(address, prefix), expected, "{network}/{prefix}");
        }
    }
}
