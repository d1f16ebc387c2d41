//! Reads back what an earlier life of this server left in the kernel's sets, so that a restart
//! cuts off no sandbox that lived on.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use serde_json::Value;
use tarn_host::SlotId;
use tokio::time::Instant;

use crate::{
    egress::Span,
    error::{Step as _, StepFailure},
    filter::{Filter, Members},
    netlink::table_exists,
    plan::{Block, Names},
    rules::nft,
    ruleset::{ALLOWED, BLOCKED, DENIED, FRESH, GUARDED, INTERNET, KNOWN, LISTED, LIVE, Openings},
};

/// A member of a set with pairs, as `nft -j` shows it.
struct Entry {
    slot: SlotId,
    span: Span,
    lifetime: Option<Duration>,
}

/// Reads the sets of a table that an earlier life of this server left. Blocking.
pub(crate) fn carried_over(names: &Names, block: Option<Block>) -> Result<Openings, StepFailure> {
    let table = names.table();
    let mut openings = Openings::default();
    if !table_exists(&table).step("look for our table")? {
        return Ok(openings);
    }
    let list = |set: &str| -> Result<Vec<Value>, StepFailure> {
        // An older version had fewer sets.
        let Ok(text) = nft(&["-j", "list", "set", "inet", &table, set], "") else {
            return Ok(Vec::new());
        };
        let value: Value = serde_json::from_str(&text).step("read the answer of nft")?;
        Ok(members(&value).cloned().collect())
    };
    let texts = |set: &str| -> Result<Vec<String>, StepFailure> {
        Ok(list(set)?.iter().filter_map(|member| member.as_str().map(str::to_owned)).collect())
    };
    openings.live = texts(LIVE)?.iter().filter_map(|name| names.slot(name)).collect();
    openings.internet = texts(INTERNET)?.iter().filter_map(|name| names.slot(name)).collect();
    openings.guarded = texts(GUARDED)?.into_iter().collect();
    let Some(block) = block else { return Ok(openings) };
    let mut carried: BTreeMap<SlotId, Members> = BTreeMap::new();
    for address in texts(LISTED)? {
        let slot = address.parse().ok().and_then(|address| block.slot(address));
        if let Some(slot) = slot {
            carried.entry(slot).or_default().listed = true;
        }
    }
    // The clock is read before the lists: nothing lives longer than it did.
    let now = Instant::now();
    for set in [ALLOWED, DENIED, FRESH, KNOWN, BLOCKED] {
        for entry in list(set)?.iter().filter_map(|member| read(member, block)) {
            let members = carried.entry(entry.slot).or_default();
            let address = entry.span.first;
            match (set, entry.lifetime) {
                (ALLOWED, _) => {
                    members.allowed.insert(entry.span);
                }
                (DENIED, _) => {
                    members.denied.insert(entry.span);
                }
                (KNOWN, _) => {
                    members.known.insert(address);
                }
                (FRESH, Some(left)) => {
                    members.fresh.insert(address, now + left);
                }
                (BLOCKED, Some(left)) => {
                    members.blocked.insert(address, now + left);
                }
                _ => {}
            }
        }
    }
    openings.filters =
        carried.into_iter().map(|(slot, members)| (slot, Filter::carried(members))).collect();
    Ok(openings)
}

/// Lists the members in the answer to `list set`.
fn members(listing: &Value) -> impl Iterator<Item = &Value> {
    let sets = listing.get("nftables").and_then(Value::as_array).into_iter().flatten();
    sets.filter_map(|entry| entry.get("set")?.get("elem")?.as_array()).flatten()
}

fn read(member: &Value, block: Block) -> Option<Entry> {
    let (value, lifetime) = match member.get("elem") {
        Some(elem) => (elem.get("val")?, elem.get("expires").and_then(Value::as_u64)),
        None => (member, None),
    };
    let parts = value.get("concat")?.as_array()?;
    let slot = block.slot(address(parts.first()?)?)?;
    let other = parts.get(1)?;
    let span = if let Some(prefix) = other.get("prefix") {
        let length = u8::try_from(prefix.get("len")?.as_u64()?).ok()?;
        Span::of(address(prefix.get("addr")?)?, length)
    } else if let Some(ends) = other.get("range") {
        Span { first: address(ends.get(0)?)?, last: address(ends.get(1)?)? }
    } else {
        Span::of(address(other)?, 32)
    };
    Some(Entry { slot, span, lifetime: lifetime.map(Duration::from_secs) })
}

fn address(value: &Value) -> Option<Ipv4Addr> {
    value.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_a_listed_set() {
        let listing = serde_json::json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"set": {"name": "live", "elem": ["tabc123001", "tabc123002"]}},
        ]});
        let names: Vec<_> = members(&listing).filter_map(Value::as_str).collect();
        assert_eq!(names, ["tabc123001", "tabc123002"]);
        let empty = serde_json::json!({"nftables": [{"set": {"name": "live"}}]});
        assert_eq!(members(&empty).count(), 0);
    }

    #[test]
    fn pairs_are_read_as_nft_shows_them() {
        let block = Block::from_reservation("tarn_net_198_18_0_0").expect("a block");
        let shown = |value: Value| {
            let entry = read(&value, block)?;
            let Span { first, last } = entry.span;
            Some(format!("{} {first}-{last} {:?}", entry.slot.0, entry.lifetime))
        };
        for (value, expected) in [
            (
                serde_json::json!({"concat": ["198.18.0.1", {"prefix": {"addr": "10.0.0.0", "len": 8}}]}),
                Some("1 10.0.0.0-10.255.255.255 None"),
            ),
            (
                serde_json::json!({"concat": ["198.18.1.0", {"range": ["1.1.1.1", "1.1.1.9"]}]}),
                Some("256 1.1.1.1-1.1.1.9 None"),
            ),
            (
                serde_json::json!({"concat": ["198.18.0.1", "11.0.0.1"]}),
                Some("1 11.0.0.1-11.0.0.1 None"),
            ),
            (
                serde_json::json!({"elem": {"val": {"concat": ["198.18.0.1", "1.1.1.1"]},
                                   "timeout": 60, "expires": 59}}),
                Some("1 1.1.1.1-1.1.1.1 Some(59s)"),
            ),
            (serde_json::json!({"concat": ["198.19.0.1", "11.0.0.1"]}), None),
            (serde_json::json!("198.18.0.1"), None),
        ] {
            assert_eq!(shown(value.clone()).as_deref(), expected, "{value}");
        }
    }
}
