//! What slots with lists have in the table. Pure.
//!
//! Prefixes lie in interval sets of each slot's own, two of each family: a set that all slots
//! shared would be copied as a whole for each change of one. A slot gets them, and the two chains
//! that ask them, with its first lists, and keeps them. Addresses of names come one by one, and lie
//! in hash sets that all share, keyed by the slot's host-side address: where they are asked, the
//! address inside has been rewritten to it, and it is nobody's to forge. So is the interface that
//! tells the slot elsewhere.

use std::{collections::BTreeMap, net::IpAddr};

use tarn_host::SlotId;
use tokio::time::Instant;

use super::{BLOCKED, FRESH, KNOWN, LISTED, Openings, SetPair, elements};
use crate::{
    egress::Span,
    filter::Members,
    plan::{Block, Face, Names},
};

/// Begins the names of the sets of what one slot may reach.
pub(crate) const ALLOWED: SetPair = SetPair { v4: "allowed_", v6: "allowed6_" };
/// Begins the names of the sets of what one slot may not reach.
pub(crate) const DENIED: SetPair = SetPair { v4: "denied_", v6: "denied6_" };

/// Names a set of one slot.
pub(crate) fn set_of(slot: SlotId, kind: &str) -> String {
    format!("{kind}{:03x}", slot.0)
}

/// Reads a slot back from [`set_of`] of either set of a pair.
pub(crate) fn slot_of(set: &str, kinds: SetPair) -> Option<SlotId> {
    let number = set.strip_prefix(kinds.v4).or_else(|| set.strip_prefix(kinds.v6))?;
    u16::from_str_radix(number, 16).ok().map(SlotId)
}

/// Writes the sets and maps that all slots share.
pub(super) fn shared(names: &Names, block: Block, openings: &Openings, now: Instant) -> String {
    let filters: Vec<(Face, &Members)> = openings
        .filters
        .iter()
        .map(|(slot, filter)| (names.face(block, *slot), &filter.members))
        .collect();
    let listed = filters.iter().filter(|(_, members)| members.listed);
    let listed = elements(listed.map(|(face, _)| format!("\"{}\"", face.interface)));
    let mut text = format!("  set {LISTED} {{ type ifname;{listed} }}\n");
    let timed = |addresses: &BTreeMap<IpAddr, Instant>, face: &Face| {
        let left = |end: &Instant| end.saturating_duration_since(now).as_secs();
        let lasting = addresses.iter().filter(|(_, end)| left(end) > 0);
        let written = lasting.map(|(other, end)| {
            let own = face.beside(*other);
            (*other, format!("{own} . {other} timeout {}s", left(end)))
        });
        written.collect()
    };
    let lasting = |members: &Members, face: &Face| {
        let known = members.known.iter();
        known.map(|other| (*other, format!("{} . {other}", face.beside(*other)))).collect()
    };
    type Write<'a> = &'a dyn Fn(&Members, &Face) -> Vec<(IpAddr, String)>;
    let each: [(SetPair, &str, Write<'_>); 3] = [
        (FRESH, " flags timeout;", &|members, face| timed(&members.fresh, face)),
        (KNOWN, "", &lasting),
        (BLOCKED, " flags timeout;", &|members, face| timed(&members.blocked, face)),
    ];
    for (sets, flags, write) in each {
        for ((set, is_its), kind) in sets.each().into_iter().zip(["ipv4_addr", "ipv6_addr"]) {
            let all = filters.iter().flat_map(|(face, members)| write(members, face));
            let members = elements(all.filter(|(other, _)| is_its(other)).map(|(_, text)| text));
            text.push_str(&format!("  set {set} {{ type {kind} . {kind};{flags}{members} }}\n"));
        }
    }
    for direction in ["from", "to"] {
        let jumps = openings.furnished.iter().map(|slot| jump(names, *slot, direction));
        let jumps = elements(jumps);
        text.push_str(&format!("  map lists_{direction} {{ type ifname : verdict;{jumps} }}\n"));
    }
    text
}

/// Writes the sets and chains of one slot.
pub(super) fn own(slot: SlotId, members: Option<&Members>) -> String {
    let nothing = Members::default();
    let members = members.unwrap_or(&nothing);
    let mut text = String::new();
    for (sets, spans) in [(ALLOWED, &members.allowed), (DENIED, &members.denied)] {
        for ((kind, is_its), of) in sets.each().into_iter().zip(["ipv4_addr", "ipv6_addr"]) {
            let spans = spans.iter().filter(|span| is_its(&span.first)).map(Span::to_string);
            let (set, spans) = (set_of(slot, kind), elements(spans));
            text.push_str(&format!("  set {set} {{ type {of}; flags interval;{spans} }}\n"));
        }
    }
    let [allowed, allowed6] = [ALLOWED.v4, ALLOWED.v6].map(|kind| set_of(slot, kind));
    let [denied, denied6] = [DENIED.v4, DENIED.v6].map(|kind| set_of(slot, kind));
    let (blocked, blocked6) = (BLOCKED.v4, BLOCKED.v6);
    let chain = |direction: &str| set_of(slot, direction);
    text + &format!(
        "  chain {} {{
    ip daddr @{denied} goto refused_deny_out
    ip6 daddr @{denied6} goto refused_deny_out
    ip saddr . ip daddr @{blocked} goto refused_deny_out
    ip6 saddr . ip6 daddr @{blocked6} goto refused_deny_out
    iifname != @{LISTED} goto passed
    ip daddr @{allowed} goto passed
    ip6 daddr @{allowed6} goto passed
  }}
  chain {} {{
    ip saddr @{denied} drop
    ip6 saddr @{denied6} drop
    ip daddr . ip saddr @{blocked} drop
    ip6 daddr . ip6 saddr @{blocked6} drop
    oifname != @{LISTED} goto taken
    ip saddr @{allowed} goto taken
    ip6 saddr @{allowed6} goto taken
  }}
",
        chain("from_"),
        chain("to_"),
    )
}

/// Writes the text that gives a slot its empty sets and its chains.
pub(crate) fn furnish(names: &Names, slot: SlotId) -> String {
    let table = names.table();
    let mut text = format!("table inet {table} {{\n{}}}\n", own(slot, None));
    for direction in ["from", "to"] {
        let jump = jump(names, slot, direction);
        text.push_str(&format!("add element inet {table} lists_{direction} {{ {jump} }}\n"));
    }
    text
}

fn jump(names: &Names, slot: SlotId, direction: &str) -> String {
    format!("\"{}\" : jump {direction}_{:03x}", names.interface(slot), slot.0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::filter::Filter;

    #[test]
    fn lists_are_written_with_what_is_left_of_their_lifetimes() {
        let now = Instant::now();
        let end = |secs| now + Duration::from_secs(secs) + Duration::from_millis(500);
        let address = |last| IpAddr::from([203, 0, 113, last]);
        let six = |last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
        let members = Members {
            listed: true,
            denied: [Span { first: address(1), last: address(4) }, Span::of(six(0), 120)].into(),
            fresh: [(address(5), end(60)), (address(6), end(0)), (six(5), end(60))].into(),
            known: [address(6)].into(),
            ..Members::default()
        };
        let (slot, slot6) = ("198.18.0.10", "fd74:6172:6e00:1::c612:a");
        let names = Names::new("abc123".parse().expect("a good tag"));
        let block = Block::from_reservation("tarn_net_198_18_0_0").expect("a block");
        let openings = Openings {
            furnished: [SlotId(10)].into(),
            filters: [(SlotId(10), Filter::carried(members.clone()))].into(),
            ..Openings::default()
        };
        let text = shared(&names, block, &openings, now) + &own(SlotId(10), Some(&members));
        for line in [
            "set listed { type ifname; elements = { \"tabc12300a\" }; }".to_owned(),
            format!("flags timeout; elements = {{ {slot} . 203.0.113.5 timeout 60s }}; }}"),
            format!("flags timeout; elements = {{ {slot6} . 2001:db8::5 timeout 60s }}; }}"),
            format!("ipv4_addr; elements = {{ {slot} . 203.0.113.6 }}; }}"),
            "map lists_to { type ifname : verdict; elements = { \"tabc12300a\" : jump to_00a }; }".into(),
            "set denied_00a { type ipv4_addr; flags interval; elements = { 203.0.113.1-203.0.113.4 }; }".into(),
            "set denied6_00a { type ipv6_addr; flags interval; elements = { 2001:db8::-2001:db8::ff }; }".into(),
            "set allowed_00a { type ipv4_addr; flags interval; }".to_owned(),
        ] {
            assert!(text.contains(&line), "{line} in {text}");
        }
        assert_eq!(slot_of("denied_00a", DENIED), Some(SlotId(10)));
        assert_eq!(slot_of("denied6_00a", DENIED), Some(SlotId(10)));
        assert_eq!(slot_of("denied_00a", ALLOWED), None);
    }
}
