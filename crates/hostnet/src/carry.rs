//! Reads back what an earlier life of this server left in the kernel's sets, so that a restart
//! cuts off no sandbox that lived on.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

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
    ruleset::{
        BLOCKED, FRESH, GUARDED, INTERNET, KNOWN, LISTED, LIVE, Openings,
        lists::{ALLOWED, DENIED, slot_of},
    },
};

/// A member of a set, as `nft -j` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Member {
    Interface(String),
    Span(Span),
    /// A slot's address and another, and for how long.
    Pair(Ipv4Addr, Ipv4Addr, Option<Duration>),
}

/// Reads the sets of a table that an earlier life of this server left. Blocking.
pub(crate) fn carried_over(names: &Names, block: Option<Block>) -> Result<Openings, StepFailure> {
    let table = names.table();
    if !table_exists(&table).step("look for our table")? {
        return Ok(Openings::default());
    }
    // The clock is read before the list: nothing lives longer than it did.
    let now = Instant::now();
    let text = nft(&["-j", "list", "table", "inet", &table], "")?;
    let value: Value = serde_json::from_str(&text).step("read the answer of nft")?;
    Ok(read(&value, names, block, now))
}

fn read(listing: &Value, names: &Names, block: Option<Block>, now: Instant) -> Openings {
    let mut openings = Openings::default();
    let mut carried: BTreeMap<SlotId, Members> = BTreeMap::new();
    let slot_at = |address: Ipv4Addr| block.and_then(|block| block.slot(address));
    for (set, members) in sets(listing) {
        let spans = |members: &[Member]| -> BTreeSet<Span> {
            members.iter().filter_map(Member::span).collect()
        };
        if let Some(slot) = slot_of(set, ALLOWED) {
            openings.furnished.insert(slot);
            carried.entry(slot).or_default().allowed = spans(&members);
        } else if let Some(slot) = slot_of(set, DENIED) {
            carried.entry(slot).or_default().denied = spans(&members);
        }
        for member in members {
            match (set, member) {
                (LIVE, Member::Interface(name)) => openings.live.extend(names.slot(&name)),
                (INTERNET, Member::Interface(name)) => openings.internet.extend(names.slot(&name)),
                (GUARDED, Member::Interface(name)) => {
                    openings.guarded.insert(name);
                }
                (LISTED, Member::Span(span)) => {
                    if let Some(slot) = slot_at(span.first) {
                        carried.entry(slot).or_default().listed = true;
                    }
                }
                (FRESH | KNOWN | BLOCKED, Member::Pair(slot, other, lifetime)) => {
                    let Some(slot) = slot_at(slot) else { continue };
                    let members = carried.entry(slot).or_default();
                    let end = lifetime.map(|lifetime| now + lifetime);
                    match (set, end) {
                        (FRESH, Some(end)) => drop(members.fresh.insert(other, end)),
                        (BLOCKED, Some(end)) => drop(members.blocked.insert(other, end)),
                        (KNOWN, _) => {
                            members.known.insert(other);
                        }
                        _ => {}
                    }
                }
                _ => {}
            }
        }
    }
    carried.retain(|_, members| *members != Members::default());
    openings.filters =
        carried.into_iter().map(|(slot, members)| (slot, Filter::carried(members))).collect();
    openings
}

/// Lists the sets in the answer to `list table`.
fn sets(listing: &Value) -> impl Iterator<Item = (&str, Vec<Member>)> {
    let entries = listing.get("nftables").and_then(Value::as_array).into_iter().flatten();
    entries.filter_map(|entry| {
        let set = entry.get("set")?;
        let elements = set.get("elem").and_then(Value::as_array).into_iter().flatten();
        Some((set.get("name")?.as_str()?, elements.filter_map(Member::read).collect()))
    })
}

// === impl Member ===

impl Member {
    fn read(value: &Value) -> Option<Self> {
        if let Some(element) = value.get("elem") {
            let lifetime = element.get("expires").and_then(Value::as_u64).map(Duration::from_secs);
            return match Self::read(element.get("val")?)? {
                Self::Pair(slot, other, _) => Some(Self::Pair(slot, other, lifetime)),
                Self::Interface(_) | Self::Span(_) => None,
            };
        }
        if let Some(parts) = value.get("concat") {
            return Some(Self::Pair(address(parts.get(0)?)?, address(parts.get(1)?)?, None));
        }
        if let Some(prefix) = value.get("prefix") {
            let length = u8::try_from(prefix.get("len")?.as_u64()?).ok()?;
            return Some(Self::Span(Span::of(address(prefix.get("addr")?)?, length)));
        }
        if let Some(ends) = value.get("range") {
            let (first, last) = (address(ends.get(0)?)?, address(ends.get(1)?)?);
            return Some(Self::Span(Span { first, last }));
        }
        match address(value) {
            Some(address) => Some(Self::Span(Span::of(address, 32))),
            None => value.as_str().map(|name| Self::Interface(name.to_owned())),
        }
    }

    fn span(&self) -> Option<Span> {
        match self {
            Self::Span(span) => Some(*span),
            Self::Interface(_) | Self::Pair(..) => None,
        }
    }
}

fn address(value: &Value) -> Option<Ipv4Addr> {
    value.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_table_is_read_back() {
        let listing = serde_json::json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "inet", "name": "tarn_abc123"}},
            {"set": {"name": "live", "elem": ["tabc123001", "tabc123002", "eth0"]}},
            {"set": {"name": "internet", "elem": ["tabc123001"]}},
            {"set": {"name": "guarded", "elem": ["eth0"]}},
            {"set": {"name": "closed", "elem": [{"prefix": {"addr": "10.0.0.0", "len": 8}}]}},
            {"set": {"name": "listed", "elem": ["198.18.0.1", "198.19.0.1"]}},
            {"set": {"name": "allowed_001", "elem": [
                {"prefix": {"addr": "10.0.0.0", "len": 8}}, {"range": ["1.1.1.1", "1.1.1.9"]}, "11.0.0.1"]}},
            {"set": {"name": "denied_001"}},
            {"set": {"name": "allowed_002"}},
            {"set": {"name": "known", "elem": [{"concat": ["198.18.0.1", "1.2.3.4"]}]}},
            {"set": {"name": "fresh", "elem": [
                {"elem": {"val": {"concat": ["198.18.0.1", "1.2.3.4"]}, "timeout": 60, "expires": 59}}]}},
            {"map": {"name": "address", "elem": [["tabc123001", "198.18.0.1"]]}},
        ]});
        let names = Names::new("abc123".parse().expect("the test writes a good tag"));
        let block = Block::from_reservation("tarn_net_198_18_0_0");
        let now = Instant::now();
        let openings = read(&listing, &names, block, now);
        assert_eq!(openings.live, [SlotId(1), SlotId(2)].into());
        assert_eq!(openings.internet, [SlotId(1)].into());
        assert_eq!(openings.guarded, ["eth0".to_owned()].into());
        assert_eq!(openings.furnished, [SlotId(1), SlotId(2)].into());
        assert_eq!(openings.filters.len(), 1, "the other holds nothing");
        let members = &openings.filters[&SlotId(1)].members;
        let span = |first: [u8; 4], last: [u8; 4]| Span { first: first.into(), last: last.into() };
        let allowed = [
            span([1, 1, 1, 1], [1, 1, 1, 9]),
            span([10, 0, 0, 0], [10, 255, 255, 255]),
            span([11, 0, 0, 1], [11, 0, 0, 1]),
        ];
        assert_eq!(members.allowed, allowed.into());
        let named = Ipv4Addr::new(1, 2, 3, 4);
        assert_eq!(members.known, [named].into());
        assert_eq!(members.fresh, [(named, now + Duration::from_secs(59))].into());
        assert!(members.listed && members.denied.is_empty());
    }
}
