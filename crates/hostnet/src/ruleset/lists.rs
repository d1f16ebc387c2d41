//! What slots with lists have in the table. Pure.
//!
//! Prefixes lie in two interval sets of each slot's own: a set that all slots shared would be
//! copied as a whole for each change of one. A slot gets them, and the two chains that ask them,
//! with its first lists, and keeps them. Addresses of names come one by one, and lie in hash sets
//! that all share, keyed by the slot's host-side address: where they are asked, the address inside
//! has been rewritten to it, and it is nobody's to forge.

use std::{collections::BTreeMap, net::Ipv4Addr};

use tarn_host::SlotId;
use tokio::time::Instant;

use super::{BLOCKED, FRESH, KNOWN, LISTED, Openings, elements};
use crate::{egress::Span, filter::Members, plan::Block};

/// Begins the name of the set of what one slot may reach.
pub(crate) const ALLOWED: &str = "allowed_";
/// Begins the name of the set of what one slot may not reach.
pub(crate) const DENIED: &str = "denied_";

/// Names a set of one slot.
pub(crate) fn set_of(slot: SlotId, kind: &str) -> String {
    format!("{kind}{:03x}", slot.0)
}

/// Reads a slot back from [`set_of`].
pub(crate) fn slot_of(set: &str, kind: &str) -> Option<SlotId> {
    u16::from_str_radix(set.strip_prefix(kind)?, 16).ok().map(SlotId)
}

/// Writes the sets and maps that all slots share.
pub(super) fn shared(block: Block, openings: &Openings, now: Instant) -> String {
    const PAIR: &str = "type ipv4_addr . ipv4_addr;";
    let each = |write: &dyn Fn(&Members, Ipv4Addr) -> Vec<String>| {
        let written = openings.filters.iter();
        elements(written.flat_map(|(slot, filter)| write(&filter.members, block.address(*slot))))
    };
    let timed = |addresses: &BTreeMap<Ipv4Addr, Instant>, slot: Ipv4Addr| {
        let left = |end: &Instant| end.saturating_duration_since(now).as_secs();
        let lasting = addresses.iter().filter(|(_, end)| left(end) > 0);
        lasting.map(|(ip, end)| format!("{slot} . {ip} timeout {}s", left(end))).collect()
    };
    let listed =
        each(&|members, slot| members.listed.then(|| slot.to_string()).into_iter().collect());
    let fresh = each(&|members, slot| timed(&members.fresh, slot));
    let blocked = each(&|members, slot| timed(&members.blocked, slot));
    let known = each(&|members, slot| {
        members.known.iter().map(|address| format!("{slot} . {address}")).collect()
    });
    let jumps = |direction: &str| {
        elements(openings.furnished.iter().map(|slot| jump(*slot, block, direction)))
    };
    format!(
        "  set {LISTED} {{ type ipv4_addr;{listed} }}
  set {FRESH} {{ {PAIR} flags timeout;{fresh} }}
  set {KNOWN} {{ {PAIR}{known} }}
  set {BLOCKED} {{ {PAIR} flags timeout;{blocked} }}
  map lists_from {{ type ipv4_addr : verdict;{} }}
  map lists_to {{ type ipv4_addr : verdict;{} }}
",
        jumps("from"),
        jumps("to"),
    )
}

/// Writes the sets and chains of one slot.
pub(super) fn own(slot: SlotId, members: Option<&Members>) -> String {
    let nothing = Members::default();
    let members = members.unwrap_or(&nothing);
    let span = |span: &Span| format!("{}-{}", span.first, span.last);
    let (allowed, denied) = (set_of(slot, ALLOWED), set_of(slot, DENIED));
    format!(
        "  set {allowed} {{ type ipv4_addr; flags interval;{} }}
  set {denied} {{ type ipv4_addr; flags interval;{} }}
  chain {} {{
    ip daddr @{denied} goto refused_deny_out
    ip saddr . ip daddr @{BLOCKED} goto refused_deny_out
    ip saddr != @{LISTED} goto passed
    ip daddr @{allowed} goto passed
  }}
  chain {} {{
    ip saddr @{denied} drop
    ip daddr . ip saddr @{BLOCKED} drop
    ip daddr != @{LISTED} goto taken
    ip saddr @{allowed} goto taken
  }}
",
        elements(members.allowed.iter().map(span)),
        elements(members.denied.iter().map(span)),
        set_of(slot, "from_"),
        set_of(slot, "to_"),
    )
}

/// Writes the text that gives a slot its empty sets and its chains.
pub(crate) fn furnish(table: &str, slot: SlotId, block: Block) -> String {
    let mut text = format!("table inet {table} {{\n{}}}\n", own(slot, None));
    for direction in ["from", "to"] {
        let jump = jump(slot, block, direction);
        text.push_str(&format!("add element inet {table} lists_{direction} {{ {jump} }}\n"));
    }
    text
}

fn jump(slot: SlotId, block: Block, direction: &str) -> String {
    format!("{} : jump {direction}_{:03x}", block.address(slot), slot.0)
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
        let address = |last| Ipv4Addr::new(203, 0, 113, last);
        let members = Members {
            listed: true,
            denied: [Span { first: address(1), last: address(4) }].into(),
            fresh: [(address(5), end(60)), (address(6), end(0))].into(),
            known: [address(6)].into(),
            ..Members::default()
        };
        let slot = Ipv4Addr::new(198, 18, 0, 10);
        let block = Block::from_reservation("tarn_net_198_18_0_0").expect("a block");
        let openings = Openings {
            furnished: [SlotId(10)].into(),
            filters: [(SlotId(10), Filter::carried(members.clone()))].into(),
            ..Openings::default()
        };
        let text = shared(block, &openings, now) + &own(SlotId(10), Some(&members));
        for line in [
            format!("set listed {{ type ipv4_addr; elements = {{ {slot} }}; }}"),
            format!("flags timeout; elements = {{ {slot} . 203.0.113.5 timeout 60s }}; }}"),
            format!("ipv4_addr; elements = {{ {slot} . 203.0.113.6 }}; }}"),
            format!("map lists_to {{ type ipv4_addr : verdict; elements = {{ {slot} : jump to_00a }}; }}"),
            "set denied_00a { type ipv4_addr; flags interval; elements = { 203.0.113.1-203.0.113.4 }; }".into(),
            "set allowed_00a { type ipv4_addr; flags interval; }".to_owned(),
        ] {
            assert!(text.contains(&line), "{line} in {text}");
        }
        assert_eq!(slot_of("denied_00a", DENIED), Some(SlotId(10)));
        assert_eq!(slot_of("denied_00a", ALLOWED), None);
    }
}
