//! What a policy means for one slot: address spans, names, and how far the resolver answers. Pure.
//!
//! The rules ask, for each packet, in this order (`ruleset.rs`): never reachable → closed; denied →
//! closed; no allow list → open; allowed → open; else closed. So deny wins. Both families are asked
//! alike; whether a sandbox has IPv6 at all is no matter of its policy.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use tarn_types::{DenialReason, EgressEntry, EgressPolicy, EgressTarget, HostName};

use crate::{
    netlink::Key,
    plan::{GATEWAY, mask, mask6},
    ruleset::is_closed,
};

/// A policy, compiled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Egress {
    /// Whether anything beyond the resolver may be reached at all.
    pub(crate) forwards: bool,
    /// Whether only what is allowed may be reached.
    pub(crate) listed: bool,
    /// What is allowed by address; spans that neither touch nor overlap.
    pub(crate) allow: BTreeSet<Span>,
    /// What is denied by address; likewise.
    pub(crate) deny: BTreeSet<Span>,
    /// What is allowed by name and not denied by name.
    pub(crate) allow_names: BTreeSet<HostName>,
    /// What is denied by name.
    pub(crate) deny_names: BTreeSet<HostName>,
    /// Which names the resolver answers.
    pub(crate) answers: Answers,
}

/// Addresses of one family in a row, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) first: IpAddr,
    pub(crate) last: IpAddr,
}

/// How far the resolver answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Answers {
    /// Nothing.
    #[default]
    Nothing,
    /// The allowed names alone; whatever else it answered would be a tunnel.
    Listed,
    /// Every name that is not denied.
    Open,
}

// === impl Egress ===

impl Egress {
    /// Compiles a policy.
    pub(crate) fn compile(policy: &EgressPolicy) -> Self {
        let listed = !policy.allow_out.is_empty();
        if !listed && !policy.allow_internet_access {
            return Self::default();
        }
        let (deny, deny_names) = sort(&policy.deny_out);
        let (allow, mut allow_names) = sort(&policy.allow_out);
        allow_names.retain(|name| !deny_names.contains(name));
        let has_resolver =
            |spans: &BTreeSet<Span>| spans.iter().any(|span| span.has(GATEWAY.into()));
        // The clients document: with the internet off it must be listed like anything else.
        let resolver_allowed = policy.allow_internet_access || has_resolver(&allow);
        let answers = match (resolver_allowed && !has_resolver(&deny), listed) {
            (false, _) => Answers::Nothing,
            (true, true) => Answers::Listed,
            (true, false) => Answers::Open,
        };
        Self { forwards: true, listed, allow, deny, allow_names, deny_names, answers }
    }

    /// Says why the resolver does not answer a question for a name, if it does not; `None` as name
    /// is one that no list can hold.
    pub(crate) fn refusal(&self, name: Option<&HostName>) -> Option<DenialReason> {
        let is_in = |names: &BTreeSet<HostName>| name.is_some_and(|name| names.contains(name));
        match self.answers {
            Answers::Nothing if !self.forwards => Some(DenialReason::InternetOff),
            Answers::Nothing if self.deny.iter().any(|span| span.has(GATEWAY.into())) => {
                Some(DenialReason::DenyOut)
            }
            Answers::Nothing => Some(DenialReason::NotInAllowOut),
            Answers::Listed | Answers::Open if is_in(&self.deny_names) => {
                Some(DenialReason::DenyOut)
            }
            Answers::Listed if is_in(&self.allow_names) => None,
            Answers::Listed => Some(DenialReason::NotInAllowOut),
            Answers::Open => None,
        }
    }

    /// Lists the names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &HostName> {
        self.deny_names.iter().chain(&self.allow_names)
    }

    /// Says whether a name is in a list.
    pub(crate) fn has_name(&self, name: &HostName) -> bool {
        self.deny_names.contains(name) || self.allow_names.contains(name)
    }

    /// Lists the names that only we will ask for.
    pub(crate) fn unasked_names(&self) -> impl Iterator<Item = &HostName> {
        let silent = self.answers == Answers::Nothing;
        self.deny_names.iter().chain(self.allow_names.iter().filter(move |_| silent))
    }

    /// Says whether there is more to it than open or closed.
    pub(crate) fn has_lists(&self) -> bool {
        self.listed || !self.deny.is_empty() || !self.deny_names.is_empty()
    }

    /// Says whether addresses of names must be known.
    pub(crate) fn has_names(&self) -> bool {
        !self.allow_names.is_empty() || !self.deny_names.is_empty()
    }
}

// === impl Span ===

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl Span {
    /// Returns the addresses of a network.
    pub(crate) fn of(network: IpAddr, prefix: u8) -> Self {
        let last = match network {
            IpAddr::V4(it) => Ipv4Addr::from_bits(it.to_bits() | !mask(prefix)).into(),
            IpAddr::V6(it) => Ipv6Addr::from_bits(it.to_bits() | !mask6(prefix)).into(),
        };
        Self { first: network, last }
    }

    /// Returns the row of one address.
    pub(crate) fn alone(address: IpAddr) -> Self {
        Self { first: address, last: address }
    }

    /// Returns what the kernel holds of it in a set of spans.
    pub(crate) fn ends(&self) -> impl Iterator<Item = Key> + use<> {
        [Key::First(self.first)].into_iter().chain(behind(self.last).map(Key::Behind))
    }

    /// Says whether an address is in it.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        (self.first..=self.last).contains(&address)
    }
}

/// Returns the address behind another, if there is one.
pub(crate) fn behind(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(it) => it.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(it) => it.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

/// Says whether the rules let no sandbox reach an address, whatever its policy (spec 07), unless
/// the operator has opened it.
pub(crate) fn is_never_reachable(address: IpAddr) -> bool {
    is_closed(address, if address.is_ipv4() { 32 } else { 128 })
}

/// Says whether an address is private, so that an answer which names it is an attempt to lead a
/// sandbox astray. Other addresses that are never reached, such as public ones behind NAT64, are
/// what an honest resolver may answer.
///
/// Covers the IPv4 forms of IPv6 too: mapped (`::ffff:0:0/96`), compatible (`::/96`), NAT64
/// (RFC 6052, and the local prefix of RFC 8215) and 6to4 (RFC 3056).
pub(crate) fn leads_astray(address: IpAddr) -> bool {
    let address = match address {
        IpAddr::V4(_) => return is_never_reachable(address),
        IpAddr::V6(address) => address,
    };
    if let Some(inner) = embedded(address) {
        return is_never_reachable(inner.into());
    }
    let [first, ..] = address.segments();
    // Unique local, link-local and site-local, multicast, RFC 8215.
    first & 0xfe00 == 0xfc00
        || first & 0xff80 == 0xfe80
        || first >= 0xff00
        || address.segments()[..3] == [0x64, 0xff9b, 1]
}

fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let low = |bits: u128| Ipv4Addr::from_bits(u32::try_from(bits & 0xffff_ffff).unwrap_or(0));
    let bits = address.to_bits();
    match address.segments() {
        // `::` and `::1` fall into 0/8, which is closed.
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(low(bits)),
        [0x2002, ..] => Some(low(bits >> 80)),
        _ => None,
    }
}

/// Sorts the entries of a list into spans and names.
fn sort(entries: &[EgressEntry]) -> (BTreeSet<Span>, BTreeSet<HostName>) {
    let (mut spans, mut names) = (Vec::new(), BTreeSet::new());
    for entry in entries {
        match entry.target() {
            EgressTarget::V4 { network, prefix } => {
                spans.push(Span::of((*network).into(), *prefix));
            }
            EgressTarget::V6 { network, prefix } => {
                spans.push(Span::of((*network).into(), *prefix));
            }
            EgressTarget::Name(name) => {
                names.insert(name.clone());
            }
        }
    }
    (merge(spans), names)
}

/// Joins spans that overlap or touch: the kernel takes no overlapping ones.
pub(crate) fn merge(mut spans: Vec<Span>) -> BTreeSet<Span> {
    spans.sort_unstable();
    let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match merged.last_mut() {
            Some(before) if joins(before.last, span.first) => {
                before.last = before.last.max(span.last);
            }
            Some(_) | None => merged.push(span),
        }
    }
    merged.into_iter().collect()
}

/// Says whether a span that begins at `first` touches or overlaps one before it that ends at
/// `last`.
fn joins(last: IpAddr, first: IpAddr) -> bool {
    last.is_ipv4() == first.is_ipv4() && behind(last).is_none_or(|behind| first <= behind)
}

#[cfg(test)]
#[path = "egress_tests.rs"]
mod tests;
