//! What one sandbox may ask of the network, so that something is left for the others. Pure.
//!
//! Each limit is a set of the table, to which the kernel itself adds a member for each slot that
//! sends something, with a meter of its own. So a claim costs nothing; with the release the members
//! are deleted, and the next sandbox begins with full ones. The sets are keyed by the slot's
//! interface, which is nobody's to forge and the same for both families.
//!
//! A flow is looked at once, with the packet that begins it: it is not in the kernel's table of
//! flows yet, and one that is refused never gets in.
//!
//! The order matters. Counting flows walks over all that the slot has, and what is refused there
//! is remembered for a moment; so it is done only for what the rate has let through.

use super::notes::SENT;
use crate::{
    config::SlotLimits,
    netlink::{Element, Key, SetChange},
    plan::MOST_SLOTS,
};

/// The set with a meter of new flows for each slot. Whoever is not in it has begun none: a flow
/// that is let out, or asks the resolver, has passed it before the kernel remembers it.
pub(crate) const STARTS: &str = "starts";
/// The set with the flows of each slot.
const FLOWS: &str = "flows";

/// Writes the sets.
pub(super) fn sets() -> String {
    [STARTS, FLOWS].map(set).concat()
}

fn set(name: &str) -> String {
    // A slot that found its set full would not be bounded.
    format!("  set {name} {{ type ifname; size {}; flags dynamic; }}\n", 2 * MOST_SLOTS)
}

/// Writes the chains; in them ends what the policy lets out and what asks the resolver.
pub(super) fn chains(limits: &SlotLimits) -> String {
    let SlotLimits { connections, new_connections_per_sec, new_connections_burst, .. } = limits;
    let rate = format!("{new_connections_per_sec}/second burst {new_connections_burst} packets");
    format!(
        r#"
  chain passed {{
    ct status & confirmed == 0 jump counted
    tcp flags syn / syn,rst tcp option maxseg size set rt mtu
    add @{SENT} {{ iifname counter }}
    accept
  }}
  chain counted {{
    jump started
    add @{FLOWS} {{ iifname ct count over {connections} }} goto refused_limit
    jump note_begun
  }}
  # Without a word: TCP tries again in a second, when there is room.
  chain started {{
    update @{STARTS} {{ iifname limit rate over {rate} }} goto dropped_limit
  }}
  chain asked {{
    ct status & confirmed == 0 jump started
    accept
  }}
"#
    )
}

/// Lists what makes the kernel forget what slots have used, except that they have begun flows.
pub(crate) fn forget(interfaces: &[String]) -> impl Iterator<Item = SetChange> {
    let members: Vec<_> =
        interfaces.iter().cloned().map(Key::Interface).map(Element::lasting).collect();
    std::iter::once(SetChange::Remove(FLOWS.into(), members))
}

/// Makes the kernel forget that a slot has begun flows, once there are none left of them.
pub(crate) fn forget_starts(interface: String) -> SetChange {
    SetChange::Remove(STARTS.into(), vec![Element::lasting(Key::Interface(interface))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_written_once() {
        let limits = SlotLimits {
            connections: 7,
            new_connections_per_sec: 5,
            new_connections_burst: 9,
            ..SlotLimits::default()
        };
        let text = chains(&limits);
        for line in [
            "add @flows { iifname ct count over 7 } goto refused_limit",
            "update @starts { iifname limit rate over 5/second burst 9 packets } goto dropped_limit",
        ] {
            assert_eq!(text.matches(line).count(), 1, "{line} in {text}");
        }
    }

    #[test]
    fn a_flow_is_counted_only_when_its_rate_is_kept() {
        let text = chains(&SlotLimits::default());
        let counted = text.split("chain counted {").nth(1).expect("the chain is there");
        let (rate, count) = (counted.find("jump started"), counted.find("ct count"));
        assert!(rate.expect("the rate is asked") < count.expect("the count is asked"));
    }

    #[test]
    fn whatever_is_kept_for_a_slot_is_forgotten() {
        let kept = sets().matches("flags dynamic").count();
        let slots = ["tabc123001", "tabc123002"].map(str::to_owned);
        let mut forgotten = Vec::new();
        for change in forget(&slots).chain(slots.clone().map(forget_starts)) {
            let SetChange::Remove(set, members) = change else { panic!("{change:?}") };
            forgotten.extend(members.into_iter().map(|member| (set.clone(), member.key)));
        }
        assert_eq!(forgotten.len(), kept * slots.len());
        for slot in slots {
            for set in [STARTS, FLOWS] {
                assert!(sets().contains(&format!("set {set} ")));
                assert!(forgotten.contains(&(set.into(), Key::Interface(slot.clone()))));
            }
        }
    }
}
