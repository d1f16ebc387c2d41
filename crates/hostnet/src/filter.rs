//! What the sets of the kernel hold for one slot with lists, and how it changes. Pure.
//!
//! Addresses of names come and go. A new flow needs one that is *fresh*: told within its record's
//! lifetime. A flow that stands needs only one that is *known* to have been the name's: it is not
//! cut because a record expired, but it is when the policy no longer has the name.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tarn_types::HostName;
use tokio::time::Instant;

use crate::{
    egress::{Egress, Span},
    netlink::{Element, Key, SetChange, SetName},
    plan::Face,
    ruleset::{
        BLOCKED, FRESH, KNOWN, LISTED,
        lists::{ALLOWED, DENIED, set_of},
    },
};

/// The addresses that one slot's names may have at a time; the oldest are forgotten.
const MOST_ADDRESSES: usize = 4096;
/// The shortest and the longest time an allowed address is good for, whatever its record says.
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(86_400);
/// How much longer than its record an address is good, so that nobody acts on the last second.
const GRACE: Duration = Duration::from_secs(30);
/// How long an address of a denied name stays blocked after it was last seen.
const BLOCKED_FOR: Duration = Duration::from_secs(3600);

/// The filter of one slot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Filter {
    /// What it is made from; `None` of a slot that an earlier life left and nobody adopted yet.
    pub(crate) egress: Option<Arc<Egress>>,
    /// What the kernel holds.
    pub(crate) members: Members,
    /// Which addresses the names have had, and until when.
    names: BTreeMap<HostName, BTreeMap<IpAddr, Instant>>,
}

/// What the sets hold for one slot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Members {
    /// Whether only what is allowed may be reached.
    pub(crate) listed: bool,
    /// Allowed spans.
    pub(crate) allowed: BTreeSet<Span>,
    /// Denied spans.
    pub(crate) denied: BTreeSet<Span>,
    /// Addresses of allowed names for new flows.
    pub(crate) fresh: BTreeMap<IpAddr, Instant>,
    /// Addresses of allowed names for flows that stand.
    pub(crate) known: BTreeSet<IpAddr>,
    /// Addresses of denied names.
    pub(crate) blocked: BTreeMap<IpAddr, Instant>,
}

/// An address that a name has, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) address: IpAddr,
    pub(crate) ttl: Duration,
}

/// Lists what makes one content of a slot's sets out of another.
pub(crate) fn changes(face: &Face, old: &Members, new: &Members, now: Instant) -> Vec<SetChange> {
    let mut changes = Vec::new();
    for (kinds, old, new) in
        [(ALLOWED, &old.allowed, &new.allowed), (DENIED, &old.denied, &new.denied)]
    {
        for (kind, is_its) in kinds.each() {
            spans(
                &mut changes,
                set_of(face.slot, kind).into(),
                [old, new].map(|spans| {
                    spans.iter().filter(|span| is_its(&span.first)).copied().collect()
                }),
            );
        }
    }
    let mut push = |make: fn(SetName, Vec<Element>) -> SetChange, set: &'static str, members| {
        let members: Vec<Element> = members;
        if !members.is_empty() {
            changes.push(make(set.into(), members));
        }
    };
    let listed = || vec![Element::lasting(Key::Interface(face.interface.clone()))];
    match (old.listed, new.listed) {
        (true, false) => push(SetChange::Remove, LISTED, listed()),
        (false, true) => push(SetChange::Add, LISTED, listed()),
        (true, true) | (false, false) => {}
    }
    let pair = |other: &IpAddr| Element::lasting(Key::Pair(face.beside(*other), *other));
    for (set, is_its) in KNOWN.each() {
        let only = |from: &BTreeSet<IpAddr>, not: &BTreeSet<IpAddr>| {
            from.difference(not).filter(|other| is_its(other)).map(pair).collect()
        };
        push(SetChange::Remove, set, only(&old.known, &new.known));
        push(SetChange::Add, set, only(&new.known, &old.known));
    }
    for (sets, old, new) in [(FRESH, &old.fresh, &new.fresh), (BLOCKED, &old.blocked, &new.blocked)]
    {
        for (set, is_its) in sets.each() {
            let timed = |(other, end): (&IpAddr, &Instant)| Element {
                lifetime: Some(end.saturating_duration_since(now)),
                ..pair(other)
            };
            let before = || old.iter().filter(|(other, _)| is_its(other));
            let after = || new.iter().filter(|(other, _)| is_its(other));
            let gone = before().map(|(other, _)| other).filter(|other| !new.contains_key(other));
            let added = after().filter(|(other, _)| !old.contains_key(other));
            // Only those: a renewal deletes, and a deletion soon after another waits in the kernel.
            let renewed =
                after().filter(|(other, end)| old.get(other).is_some_and(|old| old != *end));
            push(SetChange::Remove, set, gone.map(pair).collect());
            push(SetChange::Add, set, added.map(timed).collect());
            push(SetChange::Renew, set, renewed.map(timed).collect());
        }
    }
    changes
}

/// Replaces the spans of one set if they differ.
fn spans(changes: &mut Vec<SetChange>, set: SetName, [old, new]: [BTreeSet<Span>; 2]) {
    if old == new {
        return;
    }
    if !old.is_empty() {
        changes.push(SetChange::Clear(set.clone()));
    }
    if !new.is_empty() {
        let ends = new.iter().flat_map(Span::ends).map(Element::lasting);
        changes.push(SetChange::Add(set, ends.collect()));
    }
}

/// What was found out about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) name: HostName,
    pub(crate) records: Vec<Record>,
}

// === impl Filter ===

impl Filter {
    /// Makes a filter of what an earlier life of the server left in the kernel.
    pub(crate) fn carried(members: Members) -> Self {
        Self { egress: None, members, names: BTreeMap::new() }
    }

    /// Returns the filter under another policy. What is known of names that stay is kept, what was
    /// found out about names that come is added.
    pub(crate) fn under(&self, egress: &Arc<Egress>, found: &[Found], now: Instant) -> Self {
        let mut names = self.names.clone();
        names.retain(|name, _| egress.has_name(name));
        let mut next = Self { egress: Some(Arc::clone(egress)), names, ..Self::default() };
        let all_stay = match &self.egress {
            Some(old) => {
                old.allow_names.is_subset(&egress.allow_names)
                    && old.deny_names.is_subset(&egress.deny_names)
            }
            // The ledger's policy is the one that was in force.
            None => egress.has_names(),
        };
        if all_stay {
            // Whose each address is need not be known.
            next.members = self.members.clone();
        } else {
            next.members = next.resolved(now);
        }
        next.members.listed = egress.listed;
        next.members.allowed.clone_from(&egress.allow);
        next.members.denied.clone_from(&egress.deny);
        for Found { name, records } in found {
            next = next.learned(name, records, now).unwrap_or(next);
        }
        next
    }

    /// Returns the filter with addresses of a name, or `None` if it knows them for long enough.
    pub(crate) fn learned(
        &self,
        name: &HostName,
        records: &[Record],
        now: Instant,
    ) -> Option<Self> {
        let egress = self.egress.as_ref()?;
        let denied = egress.deny_names.contains(name);
        if !denied && !egress.allow_names.contains(name) {
            return None;
        }
        let held = if denied { &self.members.blocked } else { &self.members.fresh };
        let own = self.names.get(name);
        // Another name may have it, too, and be gone from the next policy.
        let enough = |record: &Record| {
            let until = now + record.ttl.min(LONGEST);
            let lasts = |ends: &BTreeMap<IpAddr, Instant>| {
                ends.get(&record.address).is_some_and(|end| *end >= until)
            };
            lasts(held) && own.is_some_and(lasts)
        };
        if records.iter().all(enough) {
            return None;
        }
        let mut next = self.clone();
        let known = next.names.entry(name.clone()).or_default();
        for record in records {
            let ttl = record.ttl.min(LONGEST);
            let end = now + if denied { ttl.max(BLOCKED_FOR) } else { ttl.max(SHORTEST) } + GRACE;
            let until = known.entry(record.address).or_insert(end);
            *until = end.max(*until);
            let held = if denied { &mut next.members.blocked } else { &mut next.members.fresh };
            let lasts = held.entry(record.address).or_insert(*until);
            *lasts = (*lasts).max(*until);
            if !denied {
                next.members.known.insert(record.address);
            }
        }
        next.shed(now);
        Some(next)
    }

    /// Works the addresses out again from the names.
    fn resolved(&self, now: Instant) -> Members {
        let mut members = Members::default();
        let Some(egress) = &self.egress else { return members };
        for (name, addresses) in &self.names {
            let denied = egress.deny_names.contains(name);
            for (address, end) in addresses {
                if denied {
                    let end = (*end).max(now + BLOCKED_FOR);
                    let lasts = members.blocked.entry(*address).or_insert(end);
                    *lasts = end.max(*lasts);
                    continue;
                }
                members.known.insert(*address);
                if *end > now {
                    let lasts = members.fresh.entry(*address).or_insert(*end);
                    *lasts = (*lasts).max(*end);
                }
            }
        }
        members
    }

    /// Forgets what the kernel forgot by itself, and the oldest addresses if there are too many.
    fn shed(&mut self, now: Instant) {
        self.members.fresh.retain(|_, end| *end > now);
        self.members.blocked.retain(|_, end| *end > now);
        let count: usize = self.names.values().map(BTreeMap::len).sum();
        let surplus = count.saturating_sub(MOST_ADDRESSES);
        let carried = self.members.known.len().saturating_sub(MOST_ADDRESSES);
        if surplus == 0 && carried == 0 {
            return;
        }
        let mut ends: Vec<Instant> =
            self.names.values().flat_map(BTreeMap::values).copied().collect();
        ends.sort_unstable();
        if let Some(oldest) = surplus.checked_sub(1).and_then(|last| ends.get(last)) {
            self.names.values_mut().for_each(|known| known.retain(|_, end| *end > *oldest));
        }
        let Members { listed, allowed, denied, .. } = std::mem::take(&mut self.members);
        self.members = Members { listed, allowed, denied, ..self.resolved(now) };
    }
}

#[cfg(test)]
mod tests {
    use tarn_host::SlotId;
    use tarn_types::EgressPolicy;

    use super::*;
    use crate::plan::{Block, Names};

    fn egress(allow: &[&str], deny: &[&str]) -> Arc<Egress> {
        let read = |list: &[&str]| {
            list.iter().map(|text| text.parse().expect("a good entry")).collect::<Vec<_>>()
        };
        Arc::new(Egress::compile(&EgressPolicy {
            allow_internet_access: true,
            allow_out: read(allow),
            deny_out: read(deny),
        }))
    }

    fn name(text: &str) -> HostName {
        HostName::read(text).expect("a good name")
    }

    fn record(last: u8, ttl: u64) -> Record {
        let address = std::net::Ipv4Addr::new(203, 0, 113, last).into();
        Record { address, ttl: Duration::from_secs(ttl) }
    }

    fn after(start: Instant, secs: u64) -> Instant {
        start + Duration::from_secs(secs)
    }

    #[test]
    fn an_address_is_good_for_its_lifetime_and_at_least_the_minimum() {
        let now = Instant::now();
        let filter = Filter::default().under(&egress(&["a.com"], &[]), &[], now);
        for (ttl, expected) in [(0, 90), (5, 90), (300, 330), (999_999, 86_430)] {
            let learned = filter.learned(&name("a.com"), &[record(1, ttl)], now).expect("new");
            let end = learned.members.fresh[&record(1, ttl).address];
            assert_eq!(end, after(now, expected), "{ttl}");
        }
        let learned = filter.learned(&name("a.com"), &[record(1, 300)], now).expect("new");
        assert_eq!(learned.learned(&name("a.com"), &[record(1, 290)], after(now, 10)), None);
        let again = learned.learned(&name("a.com"), &[record(1, 300)], after(now, 200));
        let end = again.expect("longer").members.fresh[&record(1, 0).address];
        assert_eq!(end, after(now, 530));
        assert_eq!(filter.learned(&name("b.com"), &[record(1, 300)], now), None, "not listed");
    }

    #[test]
    fn an_expired_address_stays_known_until_the_name_goes() {
        let now = Instant::now();
        let start = Filter::default().under(&egress(&["a.com", "b.com"], &[]), &[], now);
        let filter = start.learned(&name("a.com"), &[record(1, 0)], now).expect("new");
        let filter = filter.learned(&name("b.com"), &[record(2, 999)], now).expect("new");
        let later = after(now, 500);
        let kept = filter.under(&egress(&["a.com", "b.com", "203.0.113.9"], &[]), &[], later);
        assert_eq!(kept.members.known.len(), 2);
        let fewer = filter.under(&egress(&["a.com", "c.com"], &[]), &[], later);
        assert_eq!(fewer.members.known, [record(1, 0).address].into());
        assert!(fewer.members.fresh.is_empty(), "expired");
        let without = filter.under(&egress(&["203.0.113.9"], &[]), &[], later);
        assert!(without.members.known.is_empty() && without.members.fresh.is_empty());
    }

    #[test]
    fn an_address_of_two_names_stays_with_the_one_that_stays() {
        let now = Instant::now();
        let address = record(1, 0).address;
        for (before, after_it) in [
            (egress(&["a.com", "b.com"], &[]), egress(&["b.com"], &[])),
            (egress(&[], &["a.com", "b.com"]), egress(&[], &["b.com"])),
        ] {
            let filter = Filter::default().under(&before, &[], now);
            let filter = filter.learned(&name("a.com"), &[record(1, 9000)], now).expect("new");
            let until = |filter: &Filter| {
                let Members { fresh, blocked, .. } = &filter.members;
                fresh.get(&address).or_else(|| blocked.get(&address)).copied()
            };
            let both = filter.learned(&name("b.com"), &[record(1, 300)], now).expect("its, too");
            assert_eq!(until(&both), until(&filter), "the longer one counts");
            assert_eq!(both.learned(&name("b.com"), &[record(1, 300)], now), None);
            let one = both.under(&after_it, &[], after(now, 200));
            assert!(until(&one).is_some(), "{one:?}");
            assert_eq!(one.members.known.is_empty(), one.members.fresh.is_empty());
        }
    }

    #[test]
    fn a_name_that_becomes_denied_takes_its_addresses_along() {
        let now = Instant::now();
        let filter = Filter::default().under(&egress(&["a.com"], &[]), &[], now);
        let filter = filter.learned(&name("a.com"), &[record(1, 0)], now).expect("new");
        let denied = filter.under(&egress(&[], &["a.com"]), &[], after(now, 500));
        assert_eq!(denied.members.blocked.len(), 1);
        assert!(denied.members.known.is_empty() && !denied.members.listed);
    }

    #[test]
    fn what_an_earlier_life_left_is_kept_under_the_same_names() {
        let now = Instant::now();
        let members = Members {
            known: [record(1, 0).address].into(),
            fresh: [(record(1, 0).address, after(now, 50))].into(),
            ..Members::default()
        };
        let carried = Filter::carried(members);
        let adopted = carried.under(&egress(&["a.com"], &[]), &[], now);
        assert_eq!((adopted.members.known.len(), adopted.members.fresh.len()), (1, 1));
        let more = adopted.under(&egress(&["a.com", "b.com"], &["c.com"]), &[], now);
        assert_eq!((more.members.known.len(), more.members.fresh.len()), (1, 1));
        let other = carried.under(&egress(&["203.0.113.9"], &[]), &[], now);
        assert!(other.members.known.is_empty() && other.members.fresh.is_empty());
    }

    #[test]
    fn a_change_touches_only_what_differs() {
        let now = Instant::now();
        let block = Block::from_reservation("tarn_net_198_18_0_0").expect("a block");
        let slot = &Names::new("abc123".parse().expect("a good tag")).face(block, SlotId(1));
        let first =
            Filter::default().under(&egress(&["203.0.113.0/24", "a.com"], &["1.2.3.4"]), &[], now);
        let made = changes(slot, &Members::default(), &first.members, now);
        let sets = |changes: &[SetChange]| -> Vec<String> {
            let show = |change: &SetChange| match change {
                SetChange::Add(set, members) => format!("+{set}:{}", members.len()),
                SetChange::Remove(set, members) => format!("-{set}:{}", members.len()),
                SetChange::Renew(set, members) => format!("~{set}:{}", members.len()),
                SetChange::Replace(set, members) => format!("={set}:{}", members.len()),
                SetChange::Clear(set) => format!("!{set}"),
            };
            changes.iter().map(show).collect()
        };
        assert_eq!(sets(&made), ["+allowed_001:2", "+denied_001:2", "+listed:1"]);
        let learned = first.learned(&name("a.com"), &[record(1, 0)], now).expect("new");
        let made = changes(slot, &first.members, &learned.members, now);
        assert_eq!(sets(&made), ["+known:1", "+fresh:1"]);
        let later = after(now, 80);
        let again = learned.learned(&name("a.com"), &[record(1, 30)], later).expect("longer");
        let made = changes(slot, &learned.members, &again.members, later);
        assert_eq!(sets(&made), ["~fresh:1"]);
        let wider = learned.under(&egress(&["203.0.0.0/16", "a.com"], &["1.2.3.4"]), &[], now);
        let made = changes(slot, &learned.members, &wider.members, now);
        assert_eq!(sets(&made), ["!allowed_001", "+allowed_001:2"]);
        let made = changes(slot, &wider.members, &Members::default(), now);
        assert_eq!(
            sets(&made),
            ["!allowed_001", "!denied_001", "-listed:1", "-known:1", "-fresh:1"]
        );
        assert_eq!(changes(slot, &wider.members, &wider.members, now), []);
        let lists = egress(&["2001:db8::/32", "a.com", "1.1.1.1"], &["2001:db8::/48", "::/1"]);
        let six = Record { address: "2001:db8::1".parse().expect("ok"), ..record(1, 5) };
        let found = Found { name: name("a.com"), records: vec![record(1, 5), six] };
        let both = Filter::default().under(&lists, &[found], now);
        let made = changes(slot, &Members::default(), &both.members, now);
        let expected = ["+allowed_001:2", "+allowed6_001:2", "+denied6_001:2", "+listed:1"];
        assert_eq!(sets(&made)[..4], expected, "what touches or overlaps is one");
        assert_eq!(sets(&made)[4..], ["+known:1", "+known6:1", "+fresh:1", "+fresh6:1"]);
    }

    #[test]
    fn addresses_are_bounded() {
        let now = Instant::now();
        let mut filter = Filter::default().under(&egress(&["a.com"], &[]), &[], now);
        for round in 0..50_u8 {
            let records: Vec<Record> = (0..100)
                .map(|last| Record {
                    address: std::net::Ipv4Addr::new(203, 1, round, last).into(),
                    ttl: Duration::from_secs(60),
                })
                .collect();
            let now = after(now, u64::from(round));
            filter = filter.learned(&name("a.com"), &records, now).expect("new");
        }
        assert!(filter.members.known.len() <= MOST_ADDRESSES);
        let newest = IpAddr::from([203, 1, 49, 99]);
        assert!(filter.members.known.contains(&newest), "the newest stay");
    }
}
