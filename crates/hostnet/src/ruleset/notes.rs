//! What the rules note and count of one sandbox, for its network log. Pure.
//!
//! As with the limits, each set takes the slots as members by itself and is emptied with the
//! release, so a claim costs nothing. Notes go to whoever listens for the group (`netlink::note`);
//! nobody waits for that. What is noted is bounded by slot, apart for what is let out and what is
//! not, so that a flood of one hides nothing of the other; beyond that it is only counted.

use tarn_types::DenialReason;

use crate::{
    netlink::{Element, Key, SetChange},
    plan::MOST_SLOTS,
};

/// What a note of an allowed connection says; one of a denied packet says the reason.
pub(crate) const ALLOWED: &str = "allowed";

/// What was let out, let in, begun, denied, and not noted.
pub(crate) const SENT: &str = "count_sent";
pub(crate) const RECEIVED: &str = "count_received";
pub(crate) const BEGUN: &str = "count_begun";
pub(crate) const DENIED: &str = "count_denied";
pub(crate) const UNNOTED: &str = "count_unnoted";
/// How much of what is let out, and of what is not, may still be noted.
const RATE_ALLOWED: &str = "rate_allowed";
const RATE_DENIED: &str = "rate_denied";
const SETS: [&str; 7] = [SENT, RECEIVED, BEGUN, DENIED, UNNOTED, RATE_ALLOWED, RATE_DENIED];

/// Notes of one slot of each kind, over time and at once. A start of a package installer opens
/// some hundred connections.
const NOTES_PER_SEC: u32 = 100;
const NOTES_AT_ONCE: u32 = 400;
/// As much of a packet as is looked at: the longest IPv4 header, and the ports behind it; the
/// header of IPv6 is shorter, and the rules let nothing come between.
const NOTED_BYTES: u32 = 68;

/// Writes the sets.
pub(super) fn sets() -> String {
    SETS.map(|name| {
        format!("  set {name} {{ type ifname; size {}; flags dynamic; }}\n", 2 * MOST_SLOTS)
    })
    .concat()
}

/// Writes the chains: `refused_REASON` says no at once, `dropped_REASON` without a word, and both
/// note it before.
pub(super) fn chains(group: u16) -> String {
    let note = |rate: &str, prefix: &str| {
        let limit = format!("limit rate over {NOTES_PER_SEC}/second burst {NOTES_AT_ONCE} packets");
        format!(
            "    update @{rate} {{ iifname {limit} }} goto unnoted
    log prefix \"{prefix}\" group {group} snaplen {NOTED_BYTES}
  }}
"
        )
    };
    let begun = format!(
        "
  chain unnoted {{
    add @{UNNOTED} {{ iifname counter }}
  }}
  chain note_begun {{
    add @{BEGUN} {{ iifname counter }}
{}  chain taken {{
    add @{RECEIVED} {{ oifname counter }}
    accept
  }}
",
        note(RATE_ALLOWED, ALLOWED)
    );
    let reasons = DenialReason::ALL.map(|reason| {
        let reason = reason.as_str();
        format!(
            "  chain note_{reason} {{
    add @{DENIED} {{ iifname counter }}
{}  chain refused_{reason} {{
    jump note_{reason}
    goto refused
  }}
  chain dropped_{reason} {{
    jump note_{reason}
    drop
  }}
",
            note(RATE_DENIED, reason)
        )
    });
    begun + &reasons.concat()
}

/// Lists what makes the kernel forget what it has counted of slots.
pub(crate) fn forget(interfaces: &[String]) -> impl Iterator<Item = SetChange> {
    let members: Vec<_> =
        interfaces.iter().cloned().map(Key::Interface).map(Element::lasting).collect();
    SETS.into_iter().map(move |set| SetChange::Remove(set.into(), members.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_denied_is_noted_and_counted_before_it_is_refused() {
        let text = chains(7);
        for reason in DenialReason::ALL.map(DenialReason::as_str) {
            for (chain, last) in [("refused", "goto refused"), ("dropped", "drop")] {
                let body =
                    format!("chain {chain}_{reason} {{\n    jump note_{reason}\n    {last}\n");
                assert!(text.contains(&body), "{body} in {text}");
            }
            let note = format!("log prefix \"{reason}\" group 7 ");
            assert_eq!(text.matches(&note).count(), 1, "{note}");
        }
        let notes = text.matches("log prefix").count();
        assert_eq!(text.matches("limit rate over").count(), notes, "every note is bounded");
    }

    #[test]
    fn whatever_is_kept_for_a_slot_is_forgotten() {
        let kept = sets().matches("flags dynamic").count();
        let changes: Vec<_> = forget(&["tabc123001".to_owned()]).collect();
        assert_eq!(changes.len(), kept);
        for set in SETS {
            let used = [format!("@{set} {{ iifname "), format!("@{set} {{ oifname ")];
            let text = chains(7) + &super::super::limits::chains(&crate::SlotLimits::default());
            assert!(used.iter().any(|it| text.contains(it)), "{set} is kept for nothing");
        }
    }
}
