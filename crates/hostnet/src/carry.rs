//! Reads back what an earlier life of this server left in the kernel's sets, so that a restart
//! cuts off no sandbox that lived on.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
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
        BLOCKED, FAMILIES, FRESH, GUARDED, GUARDED6, INTERNET, KNOWN, LISTED, LIVE, NEAR, Openings,
        lists::{ALLOWED, DENIED, slot_of},
        tenancy::{TENANCY, Zones},
    },
};

/// A member of a set, as `nft -j` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Member {
    Interface(String),
    Span(Span),
    /// A slot's address and another, and for how long.
    Pair(IpAddr, IpAddr, Option<Duration>),
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
    let slot_at = |address: IpAddr| block.and_then(|block| block.slot(address));
    for (set, members) in sets(listing) {
        let spans = |members: &[Member]| -> BTreeSet<Span> {
            members.iter().filter_map(Member::span).collect()
        };
        if let Some(slot) = slot_of(set, ALLOWED) {
            openings.furnished.insert(slot);
            carried.entry(slot).or_default().allowed.extend(spans(&members));
        } else if let Some(slot) = slot_of(set, DENIED) {
            carried.entry(slot).or_default().denied.extend(spans(&members));
        }
        for member in members {
            match (set, member) {
                (LIVE, Member::Interface(name)) => openings.live.extend(names.slot(&name)),
                (INTERNET, Member::Interface(name)) => openings.internet.extend(names.slot(&name)),
                (GUARDED, Member::Interface(name)) => {
                    openings.ways.guarded.insert(name);
                }
                (GUARDED6, Member::Interface(name)) => {
                    openings.ways.guarded6.insert(name);
                }
                (FAMILIES, Member::Interface(_family)) => openings.ways.has_ipv6 = true,
                (NEAR, Member::Span(span)) => {
                    openings.ways.near6.insert(span);
                }
                (LISTED, member) => {
                    let slot = match member {
                        Member::Interface(name) => names.slot(&name),
                        // As versions without IPv6 wrote it.
                        Member::Span(span) => slot_at(span.first),
                        Member::Pair(..) => None,
                    };
                    if let Some(slot) = slot {
                        carried.entry(slot).or_default().listed = true;
                    }
                }
                (set, Member::Pair(slot, other, lifetime)) => {
                    let Some(slot) = slot_at(slot) else { continue };
                    let members = carried.entry(slot).or_default();
                    match lifetime.map(|lifetime| now + lifetime) {
                        Some(end) if FRESH.has(set) => drop(members.fresh.insert(other, end)),
                        Some(end) if BLOCKED.has(set) => drop(members.blocked.insert(other, end)),
                        Some(_) | None => {
                            if KNOWN.has(set) {
                                members.known.insert(other);
                            }
                        }
                    }
                }
                (_, Member::Interface(_) | Member::Span(_)) => {}
            }
        }
    }
    carried.retain(|_, members| *members != Members::default());
    openings.filters =
        carried.into_iter().map(|(slot, members)| (slot, Filter::carried(members))).collect();
    openings.zones = Some(Zones::carried(zones(listing, block)));
    openings
}

/// Reads which conntrack zones the slots of a table have.
fn zones(listing: &Value, block: Option<Block>) -> BTreeMap<SlotId, u16> {
    let entries = listing.get("nftables").and_then(Value::as_array).into_iter().flatten();
    let map = entries.filter_map(|entry| entry.get("map"));
    let map = map.filter(|map| map.get("name").and_then(Value::as_str) == Some(TENANCY));
    let members = map.filter_map(|map| map.get("elem")?.as_array()).flatten();
    let read = |member: &Value| {
        let slot = block?.slot(address(member.get(0)?)?)?;
        Some((slot, u16::try_from(member.get(1)?.as_u64()?).ok()?))
    };
    members.filter_map(read).collect()
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
            Some(address) => Some(Self::Span(Span::alone(address))),
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

fn address(value: &Value) -> Option<IpAddr> {
    value.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_table_is_read_back() {
        let now = serde_json::json!(["tabc123001"]);
        let before_ipv6 = serde_json::json!(["198.18.0.1", "198.19.0.1"]);
        for listed in [now, before_ipv6] {
            check(&listed);
        }
    }

    fn check(listed: &Value) {
        let listing = serde_json::json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "inet", "name": "tarn_abc123"}},
            {"set": {"name": "live", "elem": ["tabc123001", "tabc123002", "eth0"]}},
            {"set": {"name": "internet", "elem": ["tabc123001"]}},
            {"set": {"name": "guarded", "elem": ["eth0"]}},
            {"set": {"name": "closed", "elem": [{"prefix": {"addr": "10.0.0.0", "len": 8}}]}},
            {"set": {"name": "listed", "elem": listed}},
            {"set": {"name": "allowed_001", "elem": [
                {"prefix": {"addr": "10.0.0.0", "len": 8}}, {"range": ["1.1.1.1", "1.1.1.9"]}, "11.0.0.1"]}},
            {"set": {"name": "denied_001"}},
            {"set": {"name": "denied6_001", "elem": [{"prefix": {"addr": "2001:db8::", "len": 32}}]}},
            {"set": {"name": "guarded6", "elem": ["wg0"]}},
            {"set": {"name": "families", "elem": ["ipv6"]}},
            {"set": {"name": "near6", "elem": ["2001:db8::1"]}},
            {"set": {"name": "known6", "elem": [{"concat": ["fd74:6172:6e00:1::c612:1", "2001:db9::4"]}]}},
            {"set": {"name": "allowed_002"}},
            {"set": {"name": "known", "elem": [{"concat": ["198.18.0.1", "1.2.3.4"]}]}},
            {"set": {"name": "fresh", "elem": [
                {"elem": {"val": {"concat": ["198.18.0.1", "1.2.3.4"]}, "timeout": 60, "expires": 59}}]}},
            {"map": {"name": "address", "elem": [["tabc123001", "198.18.0.1"]]}},
            {"map": {"name": "tenancy", "type": "ipv4_addr", "map": "integer",
                "elem": [["198.18.0.1", 300], ["198.18.0.2", 0], ["198.19.0.1", 7]]}},
        ]});
        let names = Names::new("abc123".parse().expect("the test writes a good tag"));
        let block = Block::from_reservation("tarn_net_198_18_0_0");
        let now = Instant::now();
        let openings = read(&listing, &names, block, now);
        assert_eq!(openings.live, [SlotId(1), SlotId(2)].into());
        assert_eq!(openings.internet, [SlotId(1)].into());
        assert_eq!(openings.ways.guarded, ["eth0".to_owned()].into());
        assert_eq!(openings.furnished, [SlotId(1), SlotId(2)].into());
        assert_eq!(openings.filters.len(), 1, "the other holds nothing");
        let members = &openings.filters[&SlotId(1)].members;
        let span = |first: [u8; 4], last: [u8; 4]| Span { first: first.into(), last: last.into() };
        let six = |text: &str| text.parse::<IpAddr>().expect("an address");
        let allowed = [
            span([1, 1, 1, 1], [1, 1, 1, 9]),
            span([10, 0, 0, 0], [10, 255, 255, 255]),
            span([11, 0, 0, 1], [11, 0, 0, 1]),
        ];
        assert_eq!(members.allowed, allowed.into());
        let named = IpAddr::from([1, 2, 3, 4]);
        assert_eq!(members.known, [named, six("2001:db9::4")].into());
        assert_eq!(members.fresh, [(named, now + Duration::from_secs(59))].into());
        assert_eq!(members.denied, [Span::of(six("2001:db8::"), 32)].into());
        let zones = Zones::carried([(SlotId(1), 300), (SlotId(2), 0)].into());
        assert_eq!(openings.zones, Some(zones));
        assert!(members.listed && openings.ways.has_ipv6);
        assert_eq!(openings.ways.guarded6, ["wg0".to_owned()].into());
        assert_eq!(openings.ways.near6, [Span::alone(six("2001:db8::1"))].into());
    }
}
