//! Flows the kernel remembers (`linux/netfilter/nfnetlink_conntrack.h`).

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv4Addr},
};

use nix::errno::Errno;

use super::{
    message::{Attributes, Message, NLM_F_ACK, NLM_F_DUMP, read_address, read_be_u16, read_be_u64},
    socket::{Family, NetlinkError, dump, transact},
};

const SUBSYSTEM: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_PROTOINFO: u16 = 4;
const CTA_COUNTERS_ORIG: u16 = 9;
const CTA_COUNTERS_REPLY: u16 = 10;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMPV6_ID: u16 = 7;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
const CTA_COUNTERS_BYTES: u16 = 2;
const CTA_FILTER_F_CTA_IP_SRC: u32 = 1;
const CTA_FILTER_F_CTA_IP_DST: u32 = 2;
/// struct nfgenmsg of every family; of one it begins with its number.
const NFGENMSG: [u8; 4] = [0; 4];
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The last state of TCP in which both ends may still send (`nf_conntrack_tcp.h`: none, SYN_SENT,
/// SYN_RECV, ESTABLISHED, FIN_WAIT, ...).
const TCP_CONNTRACK_ESTABLISHED: u8 = 3;

/// How many flows the kernel remembers.
const FLOW_COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
/// So many flows are shown in the time of a walk over the kernel's table (5 ms).
const FEW_FLOWS: u32 = 4000;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const TCP: u8 = 6;
/// Protocols that have ports where TCP has them: TCP, UDP, DCCP, SCTP, UDP-Lite.
const WITH_PORTS: [u8; 5] = [TCP, 17, 33, 132, 136];

/// One conversation of whoever began it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Flow {
    /// The number of its protocol.
    pub(crate) protocol: u8,
    /// With whom.
    pub(crate) to: IpAddr,
    /// From which port; of a ping, its id; else 0.
    pub(crate) from_port: u16,
    /// To which port; else 0.
    pub(crate) to_port: u16,
}

/// What went over a conversation, headers included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct FlowBytes {
    /// From who began it.
    pub(crate) sent: u64,
    /// To who began it.
    pub(crate) received: u64,
}

/// What the kernel knows of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct FlowState {
    /// Whether it goes on.
    pub(crate) open: bool,
    /// What went over it, if the kernel counts that.
    pub(crate) bytes: FlowBytes,
}

/// A conversation as the kernel shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// Who began it.
    pub(super) from: IpAddr,
    pub(super) flow: Flow,
    pub(super) state: FlowState,
}

/// The two ends of a flow, and which of several with the same ends it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends {
    /// Who began it.
    pub(crate) from: IpAddr,
    /// With whom, as far as who began it knows.
    pub(crate) to: IpAddr,
    /// The conntrack zone of what who began it sends.
    pub(crate) zone: u16,
}

/// Which end of a flow an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    From,
    To,
}

/// Lists the flows that an address began.
pub(crate) fn flows_of(address: IpAddr) -> Result<HashMap<Flow, FlowState>, NetlinkError> {
    let flows = dump(Family::Netfilter, list_of(address, End::From), |flow| {
        let seen = read_flow(flow).filter(|seen| seen.from == address);
        seen.map(|seen| (seen.flow, seen.state))
    })?;
    Ok(flows.into_iter().collect())
}

/// Reads a flow.
pub(super) fn read_flow(payload: &[u8]) -> Option<Seen> {
    let attributes = Attributes::behind(payload, NFGENMSG.len());
    let tuple = Attributes::inside(attributes.find(CTA_TUPLE_ORIG)?);
    let ip = Attributes::inside(tuple.find(CTA_TUPLE_IP)?);
    let ports = Attributes::inside(tuple.find(CTA_TUPLE_PROTO)?);
    let address = |v4, v6| read_address(ip.find(v4).or_else(|| ip.find(v6))?);
    let port = |kind| Some(u16::from_be_bytes(ports.find(kind)?.try_into().ok()?));
    let protocol = *ports.find(CTA_PROTO_NUM)?.first()?;
    let to = address(CTA_IP_V4_DST, CTA_IP_V6_DST)?;
    let mut flow = Flow { protocol, to, from_port: 0, to_port: 0 };
    if flow.has_ports() {
        (flow.from_port, flow.to_port) = (port(CTA_PROTO_SRC_PORT)?, port(CTA_PROTO_DST_PORT)?);
    } else if flow.is_ping() {
        let id = if protocol == ICMP { CTA_PROTO_ICMP_ID } else { CTA_PROTO_ICMPV6_ID };
        flow.from_port = port(id).unwrap_or(0);
    }
    let bytes = |counters: u16| {
        let counters = Attributes::inside(attributes.find(counters)?);
        read_be_u64(counters.find(CTA_COUNTERS_BYTES)?)
    };
    let tcp_state = || {
        let info = Attributes::inside(attributes.find(CTA_PROTOINFO)?);
        let tcp = Attributes::inside(info.find(CTA_PROTOINFO_TCP)?);
        tcp.find(CTA_PROTOINFO_TCP_STATE)?.first().copied()
    };
    let state = FlowState {
        open: protocol != TCP || tcp_state().is_none_or(|state| state <= TCP_CONNTRACK_ESTABLISHED),
        bytes: FlowBytes {
            sent: bytes(CTA_COUNTERS_ORIG).unwrap_or(0),
            received: bytes(CTA_COUNTERS_REPLY).unwrap_or(0),
        },
    };
    Some(Seen { from: address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?, flow, state })
}

/// Makes the kernel forget the flows that others began with an address. One walk over the kernel's
/// table, which takes 5 ms (262144 buckets) even when it is empty.
pub(crate) fn forget_flows_to(address: Ipv4Addr) -> Result<usize, NetlinkError> {
    let address = IpAddr::from(address);
    forget(list_of(address, End::To), |ends| ends.to == address)
}

/// Makes the kernel forget the flows of which addresses are one of some ends.
pub(crate) fn forget_flows_of(addresses: &[IpAddr], at: &[End]) -> Result<usize, NetlinkError> {
    let chosen = |ends: Ends| {
        at.iter().any(|end| match end {
            End::From => addresses.contains(&ends.from),
            End::To => addresses.contains(&ends.to),
        })
    };
    if flows_are_few() {
        return forget_flows(chosen);
    }
    // A walk for each end rather than one that shows whatever the host has.
    let mut count = 0;
    for address in addresses {
        // Of IPv6 one is a list of all.
        let walks = if address.is_ipv4() { at.len() } else { 1 };
        for end in at.iter().take(walks) {
            count += forget(list_of(*address, *end), chosen)?;
        }
    }
    Ok(count)
}

/// Makes the kernel forget every flow that is chosen by its ends.
pub(crate) fn forget_flows(chosen: impl Fn(Ends) -> bool) -> Result<usize, NetlinkError> {
    forget(Message::new(kind(IPCTNL_MSG_CT_GET), NLM_F_DUMP, &NFGENMSG), chosen)
}

/// Says whether all that the kernel remembers are soon shown.
pub(crate) fn flows_are_few() -> bool {
    let count = fs::read_to_string(FLOW_COUNT).ok().and_then(|text| text.trim().parse().ok());
    count.is_some_and(|count: u32| count <= FEW_FLOWS)
}

/// Asks for the flows that an address is one end of, or for more than those: whoever asks looks
/// again.
fn list_of(address: IpAddr, end: End) -> Message {
    let list = |family| Message::new(kind(IPCTNL_MSG_CT_GET), NLM_F_DUMP, &of_family(family));
    let IpAddr::V4(address) = address else {
        // Kernels as of 2026 (`ctnetlink_filter_match_tuple`) take a filter of IPv6 addresses the
        // wrong way round: they list all flows but the ones asked for.
        return list(AF_INET6);
    };
    let (place, flag) = match end {
        End::From => (CTA_IP_V4_SRC, CTA_FILTER_F_CTA_IP_SRC),
        End::To => (CTA_IP_V4_DST, CTA_FILTER_F_CTA_IP_DST),
    };
    // A kernel older than 5.8 takes no filter, and lists every flow.
    list(AF_INET)
        .nested(CTA_TUPLE_ORIG, |tuple| {
            tuple.nested(CTA_TUPLE_IP, |ip| ip.attribute(place, &address.octets()))
        })
        .nested(CTA_FILTER, |filter| filter.attribute(CTA_FILTER_ORIG_FLAGS, &flag.to_ne_bytes()))
}

/// Lists flows and deletes them one by one: deleting by filter needs Linux 6.8.
fn forget(list: Message, chosen: impl Fn(Ends) -> bool) -> Result<usize, NetlinkError> {
    let doomed = dump(Family::Netfilter, list, |flow| deletion(flow, &chosen))?;
    let count = doomed.len();
    for message in doomed {
        match transact(Family::Netfilter, vec![message]) {
            Ok(()) => {}
            // It ended by itself meanwhile.
            Err(error) if error.errno == Errno::ENOENT => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

fn deletion(flow: &[u8], chosen: impl Fn(Ends) -> bool) -> Option<Message> {
    let attributes = Attributes::behind(flow, NFGENMSG.len());
    let tuple = attributes.find(CTA_TUPLE_ORIG)?;
    let inside = Attributes::inside(tuple);
    let ip = Attributes::inside(inside.find(CTA_TUPLE_IP)?);
    let address = |v4, v6| read_address(ip.find(v4).or_else(|| ip.find(v6))?);
    let from = address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?;
    let to = address(CTA_IP_V4_DST, CTA_IP_V6_DST)?;
    // Of both directions, or of this one alone; the tuple is named with the zone that is in it.
    let both = attributes.find(CTA_ZONE);
    let zone = both.or_else(|| inside.find(CTA_TUPLE_ZONE)).and_then(read_be_u16).unwrap_or(0);
    if !chosen(Ends { from, to, zone }) {
        return None;
    }
    let head = of_family(if from.is_ipv4() { AF_INET } else { AF_INET6 });
    let message = Message::new(kind(IPCTNL_MSG_CT_DELETE), NLM_F_ACK, &head)
        .nested(CTA_TUPLE_ORIG, |inner| inner.raw(tuple));
    Some(match both {
        Some(zone) => message.attribute(CTA_ZONE, zone),
        None => message,
    })
}

fn of_family(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

fn kind(message: u16) -> u16 {
    (SUBSYSTEM << 8) | message
}

// === impl Flow ===

impl Flow {
    /// Says whether its protocol has ports.
    pub(crate) fn has_ports(self) -> bool {
        WITH_PORTS.contains(&self.protocol)
    }

    pub(super) fn is_ping(self) -> bool {
        [ICMP, ICMPV6].contains(&self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::message::{HEADER, octets};

    /// A flow as the kernel tells it.
    fn told(from: &str, to: &str, zone: Option<(u16, u16)>) -> Vec<u8> {
        let [from, to] = [from, to].map(|text| octets(text.parse().expect("an address")));
        let is_ipv4 = from.len() == 4;
        let family = if is_ipv4 { AF_INET } else { AF_INET6 };
        let [source, target] =
            if is_ipv4 { [CTA_IP_V4_SRC, CTA_IP_V4_DST] } else { [CTA_IP_V6_SRC, CTA_IP_V6_DST] };
        let put = |place: u16, message: Message| match zone {
            Some((kind, zone)) if kind == place => message.attribute(kind, &zone.to_be_bytes()),
            Some(_) | None => message,
        };
        let message = Message::new(0, 0, &of_family(family)).nested(CTA_TUPLE_ORIG, |tuple| {
            let ends = |ip: Message| ip.attribute(source, &from).attribute(target, &to);
            put(CTA_TUPLE_ZONE, tuple.nested(CTA_TUPLE_IP, ends))
        });
        put(CTA_ZONE, message).finish(1).split_off(HEADER)
    }

    #[test]
    fn a_flow_is_chosen_by_either_end() {
        let slot = ["198.18.0.1", "fd74:6172:6e00:1::c612:1"];
        let slot = slot.map(|text| text.parse::<IpAddr>().expect("an address"));
        for (from, to, [began, was_reached]) in [
            ("198.18.0.1", "203.0.113.7", [true, false]),
            ("169.254.77.1", "198.18.0.1", [false, true]),
            ("169.254.77.1", "198.18.0.2", [false, false]),
            ("fd74:6172:6e00:1::c612:1", "2001:db8::1", [true, false]),
            ("fd74:6172:6e00:1::c612:2", "2001:db8::1", [false, false]),
        ] {
            let flow = told(from, to, None);
            let is = |chosen: &dyn Fn(Ends) -> bool| deletion(&flow, chosen).is_some();
            assert_eq!(is(&|ends| slot.contains(&ends.from)), began, "{from} began");
            assert_eq!(is(&|ends| slot.contains(&ends.to)), was_reached, "{to} was reached");
        }
    }

    #[test]
    fn a_flow_is_named_with_its_zone_be_it_of_both_directions_or_of_one() {
        for (place, expected) in [(None, 0), (Some(CTA_ZONE), 300), (Some(CTA_TUPLE_ZONE), 300)] {
            let flow = told("169.254.77.1", "198.18.0.1", place.map(|place| (place, 300)));
            assert!(deletion(&flow, |ends| ends.zone != expected).is_none(), "{place:?}");
            let named = deletion(&flow, |ends| ends.zone == expected).expect("it is chosen");
            let named = named.finish(1).split_off(HEADER);
            let attributes = Attributes::behind(&named, NFGENMSG.len());
            let tuple = attributes.find(CTA_TUPLE_ORIG).expect("it has ends");
            let inside = Attributes::inside(tuple);
            let zones = [attributes.find(CTA_ZONE), inside.find(CTA_TUPLE_ZONE)];
            let is_in = [CTA_ZONE, CTA_TUPLE_ZONE].map(|kind| place == Some(kind));
            assert_eq!(zones.map(|zone| zone.is_some()), is_in);
            assert!(zones.into_iter().flatten().all(|zone| zone == 300_u16.to_be_bytes()));
        }
    }
}
