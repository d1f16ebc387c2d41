//! The network log of one sandbox. Pure: it is told the time and what happened.
//!
//! What was allowed, what was denied and which names were refused have room of their own each, so
//! that a flood of one kind pushes nothing of another out.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use tarn_types::{
    DenialReason, NetworkCounters, NetworkEntry, NetworkLog, NetworkLost, NetworkProtocol,
    NetworkVerdict, UnixMillis,
};

use super::ring::{Item, Ring};
use crate::netlink::{Flow, FlowBytes, FlowState};

/// Entries of connections, of denials, and of refused names: a thousand in all.
const MOST_ALLOWED: usize = 400;
const MOST_DENIED: usize = 400;
const MOST_REFUSED: usize = 200;
/// Addresses whose names are remembered; the oldest are forgotten.
const MOST_NAMES: usize = 1024;
/// Connections whose bytes are followed at a time: as many as one sandbox may have by default.
const MOST_FLOWS: usize = 4096;

/// What makes two attempts alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Target {
    name: Option<Arc<str>>,
    address: Option<IpAddr>,
    port: Option<u16>,
    protocol: NetworkProtocol,
    verdict: NetworkVerdict,
}

/// What the kernel counts of one sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counted {
    pub(crate) sent_packets: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) received_packets: u64,
    pub(crate) received_bytes: u64,
    pub(crate) connections: u64,
    pub(crate) denied_packets: u64,
    /// What came too fast to be noted.
    pub(crate) unnoted: u64,
}

/// The network log of one sandbox.
#[derive(Debug)]
pub(crate) struct Journal {
    since: UnixMillis,
    /// When the sandbox left its slot, and what the kernel had counted by then.
    ended: Option<(UnixMillis, Counted)>,
    allowed: Ring<Target>,
    denied: Ring<Target>,
    refused: Ring<Target>,
    names: Names,
    /// The entries of the connections that stand.
    flows: HashMap<Flow, u64>,
    dns_answered: u64,
    dns_refused: u64,
    lost_by_node: u64,
}

/// The connections of one entry that stand.
#[derive(Debug, Clone, Copy, Default)]
struct Live {
    open: u64,
    bytes: FlowBytes,
}

/// Which name led to an address.
#[derive(Debug, Default)]
struct Names {
    by_address: HashMap<IpAddr, Arc<str>>,
    oldest: VecDeque<IpAddr>,
}

// === impl Journal ===

impl Journal {
    pub(crate) fn new(since: UnixMillis) -> Self {
        Self {
            since,
            ended: None,
            allowed: Ring::new(MOST_ALLOWED),
            denied: Ring::new(MOST_DENIED),
            refused: Ring::new(MOST_REFUSED),
            names: Names::default(),
            flows: HashMap::new(),
            dns_answered: 0,
            dns_refused: 0,
            lost_by_node: 0,
        }
    }

    /// Notes a connection with the packet that opens it.
    pub(crate) fn opened(&mut self, flow: Flow, at: UnixMillis) {
        let number = self.allowed.note(self.target(flow, NetworkVerdict::Allowed), at);
        if self.flows.len() < MOST_FLOWS || self.flows.contains_key(&flow) {
            self.flows.insert(flow, number);
        }
    }

    /// Notes that the kernel has forgotten a connection. One that is not known was another's.
    pub(crate) fn closed(&mut self, flow: Flow, bytes: FlowBytes) {
        let Some(number) = self.flows.remove(&flow) else { return };
        let Some(item) = self.allowed.item(number) else { return };
        item.sent += bytes.sent;
        item.received += bytes.received;
    }

    /// Notes a packet that was not let out.
    pub(crate) fn denied(&mut self, flow: Flow, reason: DenialReason, at: UnixMillis) {
        self.denied.note(self.target(flow, NetworkVerdict::Denied(reason)), at);
    }

    /// Notes a question that was refused.
    pub(crate) fn refused(&mut self, name: &str, reason: DenialReason, at: UnixMillis) {
        self.dns_refused += 1;
        self.refused.note(question(Some(name), NetworkVerdict::Denied(reason)), at);
    }

    /// Notes a question that was answered, and which addresses the sandbox knows by it.
    pub(crate) fn answered(&mut self, name: &str, addresses: impl Iterator<Item = IpAddr>) {
        self.dns_answered += 1;
        let name: Arc<str> = name.into();
        addresses.for_each(|address| self.names.learn(address, &name));
    }

    /// Notes a question that came too soon after others to be looked at.
    pub(crate) fn unheard(&mut self, at: UnixMillis) {
        self.dns_refused += 1;
        let verdict = NetworkVerdict::Denied(DenialReason::Limit);
        self.refused.note(question(None, verdict), at);
    }

    /// Counts notes that were lost, whoever's they were.
    pub(crate) fn lost(&mut self, count: u64) {
        self.lost_by_node += count;
    }

    /// Ends the log.
    pub(crate) fn end(&mut self, at: UnixMillis, counted: Counted) {
        self.ended.get_or_insert((at, counted));
        self.names = Names::default();
    }

    /// Returns when it ended, if it has.
    pub(crate) fn ended(&self) -> Option<UnixMillis> {
        self.ended.map(|(at, _)| at)
    }

    /// Returns how many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.allowed.len() + self.denied.len() + self.refused.len()
    }

    /// Returns what there is to be seen. `standing` are the connections that the kernel knows now,
    /// `counted` is what it has counted; of a log that has ended both are passed over.
    pub(crate) fn show(&self, standing: &HashMap<Flow, FlowState>, counted: Counted) -> NetworkLog {
        let (until, counted) = match self.ended {
            Some((at, counted)) => (Some(at), counted),
            None => (None, counted),
        };
        let mut live: HashMap<u64, Live> = HashMap::new();
        if until.is_none() {
            // One that is not among them is younger than the list, or its end is on the way.
            for (flow, number) in &self.flows {
                if let Some(state) = standing.get(flow) {
                    live.entry(*number).or_default().add(*state);
                }
            }
        }
        let nothing = Live::default();
        let allowed = self
            .allowed
            .items()
            .map(|(number, item)| entry(item, live.get(&number).unwrap_or(&nothing)));
        let mut entries: Vec<NetworkEntry> = allowed
            .chain(self.denied.items().map(|(_, item)| entry(item, &nothing)))
            .chain(self.refused.items().map(|(_, item)| entry(item, &nothing)))
            .collect();
        entries.sort_by_key(|entry| (entry.first, entry.last));
        NetworkLog {
            since: self.since,
            until,
            entries,
            counters: NetworkCounters {
                sent_packets: counted.sent_packets,
                sent_bytes: counted.sent_bytes,
                received_packets: counted.received_packets,
                received_bytes: counted.received_bytes,
                connections: counted.connections,
                denied_packets: counted.denied_packets,
                dns_answered: self.dns_answered,
                dns_refused: self.dns_refused,
            },
            lost: NetworkLost {
                rate: counted.unnoted,
                room: self.allowed.dropped() + self.denied.dropped() + self.refused.dropped(),
                node: self.lost_by_node,
            },
        }
    }

    fn target(&self, flow: Flow, verdict: NetworkVerdict) -> Target {
        Target {
            name: self.names.by_address.get(&flow.to).cloned(),
            address: Some(flow.to),
            port: flow.has_ports().then_some(flow.to_port),
            protocol: match flow.protocol {
                1 | 58 => NetworkProtocol::Icmp,
                6 => NetworkProtocol::Tcp,
                17 => NetworkProtocol::Udp,
                other => NetworkProtocol::Ip(other),
            },
            verdict,
        }
    }
}

// === impl Live ===

impl Live {
    fn add(&mut self, state: FlowState) {
        self.open += u64::from(state.open);
        self.bytes.sent += state.bytes.sent;
        self.bytes.received += state.bytes.received;
    }
}

// === impl Names ===

impl Names {
    fn learn(&mut self, address: IpAddr, name: &Arc<str>) {
        if self.by_address.insert(address, Arc::clone(name)).is_some() {
            return;
        }
        self.oldest.push_back(address);
        if self.oldest.len() > MOST_NAMES
            && let Some(oldest) = self.oldest.pop_front()
        {
            self.by_address.remove(&oldest);
        }
    }
}

fn question(name: Option<&str>, verdict: NetworkVerdict) -> Target {
    let (name, protocol) = (name.map(Arc::from), NetworkProtocol::Dns);
    Target { name, address: None, port: None, protocol, verdict }
}

fn entry(item: &Item<Target>, live: &Live) -> NetworkEntry {
    let Target { name, address, port, protocol, verdict } = &item.key;
    NetworkEntry {
        first: item.first,
        last: item.last,
        name: name.as_deref().map(str::to_owned),
        address: *address,
        port: *port,
        protocol: *protocol,
        verdict: *verdict,
        count: item.count,
        open: live.open,
        sent: item.sent + live.bytes.sent,
        received: item.received + live.bytes.received,
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
