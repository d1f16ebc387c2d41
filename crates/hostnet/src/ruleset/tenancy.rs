//! Which tenancy of a slot a packet between it and the host belongs to. Pure.
//!
//! The address stays when the sandbox of a slot changes, and the host may still hold connections to
//! the last one. So what passes between a slot and the host is tracked in a conntrack zone of the
//! slot's tenancy, and the next has another: what either end sends over an old connection is of no
//! flow there, as if it had been forgotten. That costs nothing where a walk over the kernel's table
//! would cost 5 ms of a CPU for each sandbox. What is left in the table is swept at leisure.
//!
//! What passes between a slot and the world has no zone: what comes back by an uplink could not be
//! told whose it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use tarn_host::SlotId;

use super::elements;
use crate::{
    netlink::{Element, Key, SetChange},
    plan::{Block, GATEWAY, MOST_SLOTS},
};

/// The map from a slot's address to the zone of its tenancy.
pub(crate) const TENANCY: &str = "tenancy";

/// The zone of each slot's tenancy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Zones {
    /// That of slots which have no other yet.
    first: u16,
    own: BTreeMap<SlotId, u16>,
    /// Slots that the kernel refused to move on, or perhaps did not.
    unsure: BTreeSet<SlotId>,
}

/// Writes the map; it has every slot.
pub(super) fn map(zones: &Zones, block: Block) -> String {
    let pair = |slot| format!("{} : {}", block.address(slot), zones.of(slot));
    let members = elements((1..=MOST_SLOTS).map(SlotId).map(pair));
    format!("  map {TENANCY} {{ typeof ip daddr : ct zone;{members} }}\n")
}

/// Writes the chains; `prefix` begins the name of each of our interfaces.
pub(super) fn chains(prefix: &str) -> String {
    format!(
        r#"
  # Before connection tracking (-200), and after fragments are put together (-400).
  chain receiving {{
    type filter hook prerouting priority -300; policy accept;
    iifname "{prefix}*" ip daddr {GATEWAY} ct zone set ip saddr map @{TENANCY}
  }}
  chain sending {{
    type filter hook output priority -300; policy accept;
    oifname "{prefix}*" jump sending_to_slot
  }}
  chain sending_to_slot {{
    ip saddr {GATEWAY} ct zone set ip daddr map @{TENANCY}
    # By another address of the host, whose answers cannot be told from what goes to the world.
    ct original zone set ip daddr map @{TENANCY}
  }}
"#
    )
}

// === impl Zones ===

impl Zones {
    /// Takes over those of a table that an earlier life of the server left.
    pub(crate) fn carried(own: BTreeMap<SlotId, u16>) -> Self {
        Self { own, ..Self::default() }
    }

    /// Gives every slot one that has none. `number` is any; another in each life of a server, so
    /// that none returns soon.
    pub(crate) fn begin(mut self, number: u16, live: &BTreeSet<SlotId>) -> Self {
        self.first = number.max(1);
        // A version without zones let them in, and their connections go on.
        for slot in live {
            self.own.entry(*slot).or_insert(0);
        }
        self
    }

    fn of(&self, slot: SlotId) -> u16 {
        self.own.get(&slot).copied().unwrap_or(self.first)
    }

    /// Says whether a flow between the host and a slot that is in a zone is of an earlier tenancy.
    pub(crate) fn is_past(&self, slot: SlotId, zone: u16) -> bool {
        !self.unsure.contains(&slot) && zone != self.of(slot)
    }

    /// Says whether a slot is to be moved on before anybody moves in.
    pub(crate) fn is_unsure(&self, slot: SlotId) -> bool {
        self.unsure.contains(&slot)
    }

    /// Lists what moves slots on to their next tenancy. It counts once [`Zones::moved_on`].
    pub(crate) fn move_on(&mut self, slots: &[SlotId], block: Block) -> SetChange {
        self.unsure.extend(slots);
        let next = |slot: &SlotId| {
            let address = IpAddr::V4(block.address(*slot));
            Element::mapped(Key::Address(address), self.next(*slot))
        };
        SetChange::Replace(TENANCY.into(), slots.iter().map(next).collect())
    }

    /// Notes that the kernel has moved slots on.
    pub(crate) fn moved_on(&mut self, slots: &[SlotId]) {
        for slot in slots {
            self.own.insert(*slot, self.next(*slot));
            self.unsure.remove(slot);
        }
    }

    fn next(&self, slot: SlotId) -> u16 {
        // Not 0, which is everybody's.
        self.of(slot).checked_add(1).unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: SlotId = SlotId(3);

    fn block() -> Block {
        Block::from_reservation("tarn_net_198_18_0_0").expect("a block")
    }

    fn begun(number: u16) -> Zones {
        Zones::default().begin(number, &BTreeSet::new())
    }

    #[test]
    fn every_slot_has_a_zone_and_the_next_tenancy_another() {
        let mut zones = begun(u16::MAX);
        let text = map(&zones, block());
        assert_eq!(text.matches(" : 65535").count(), usize::from(MOST_SLOTS));
        for expected in [1, 2] {
            let change = zones.move_on(&[SLOT], block());
            let member = Key::Address(block().address(SLOT).into());
            let changed = vec![Element::mapped(member, expected)];
            assert_eq!(change, SetChange::Replace(TENANCY.into(), changed));
            zones.moved_on(&[SLOT]);
            assert_eq!((zones.of(SLOT), zones.of(SlotId(4))), (expected, u16::MAX));
            assert!(map(&zones, block()).contains(&format!("198.18.0.3 : {expected}")));
        }
        assert_ne!(begun(0).of(SLOT), 0, "it is everybody's");
    }

    #[test]
    fn nothing_is_past_where_the_kernel_may_have_moved_on_or_not() {
        let mut zones = begun(7);
        assert!(!zones.is_past(SLOT, 7) && zones.is_past(SLOT, 6) && zones.is_past(SLOT, 0));
        let _refused = zones.move_on(&[SLOT], block());
        assert!(zones.is_unsure(SLOT) && !zones.is_past(SLOT, 7) && !zones.is_past(SLOT, 8));
        let again = zones.move_on(&[SLOT], block());
        assert!(format!("{again:?}").contains("zone: Some(8)"), "nobody was in it");
        zones.moved_on(&[SLOT]);
        assert!(!zones.is_unsure(SLOT) && zones.is_past(SLOT, 7) && !zones.is_past(SLOT, 8));
    }

    #[test]
    fn what_an_earlier_life_gave_is_kept() {
        let carried = Zones::carried([(SLOT, 300)].into());
        let zones = carried.begin(7, &[SLOT, SlotId(5)].into());
        let of = [SLOT, SlotId(4), SlotId(5)].map(|slot| zones.of(slot));
        assert_eq!(of, [300, 7, 0], "the last one was let in by a version without zones");
    }
}
