//! Links, addresses, routes and neighbours (`linux/rtnetlink.h`).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, BorrowedFd},
};

use super::{
    message::{
        Attributes, Message, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE,
        octets, read_address, read_u32,
    },
    socket::{Family, NetlinkError, dump, transact},
};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INET_CONF: u16 = 1;
const IPV4_DEVCONF_FORWARDING: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFF_UP: u32 = 1;
const IF_OPER_UP: u8 = 6;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// Good at once, without asking whether another has it.
const IFA_F_NODAD: u8 = 2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RT_TABLE_MAIN: u8 = 254;
const RT_TABLE_LOCAL: u32 = 255;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;

const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FR_ACT_PROHIBIT: u8 = 8;
/// Of the rule about sources: before all tables but that of the host's own addresses.
const PRIORITY: u32 = 77;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFADDRMSG: usize = 8;
const IFINFOMSG: usize = 16;
const RTMSG: usize = 12;

/// One end of a veth pair: what it is called and where it lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Its hardware address.
    pub(crate) mac: [u8; 6],
    /// Its namespace; the calling thread's if none.
    pub(crate) netns: Option<BorrowedFd<'a>>,
}

/// An interface of the calling thread's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mtu: u32,
}

/// A route of the calling thread's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) network: IpAddr,
    pub(crate) prefix: u8,
    /// Whether it leads to other hosts, rather than to the host itself or nowhere.
    pub(crate) onward: bool,
    /// Whether what it leads to is on the link, rather than behind a router.
    pub(crate) near: bool,
    /// The interfaces it leads out of.
    pub(crate) interfaces: Vec<u32>,
}

/// Carries changes out, in order.
pub(crate) fn run(messages: Vec<Message>) -> Result<(), NetlinkError> {
    transact(Family::Route, messages)
}

/// Makes a veth pair; both ends are down.
pub(crate) fn new_veth(near: Place<'_>, far: Place<'_>, mtu: u32) -> Message {
    let end = |message: Message, place: Place<'_>| {
        let message = message
            .attribute(IFLA_IFNAME, &terminated(place.name))
            .attribute(IFLA_ADDRESS, &place.mac)
            .attribute(IFLA_MTU, &mtu.to_ne_bytes());
        match place.netns {
            Some(netns) => message.attribute(IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes()),
            None => message,
        }
    };
    let message =
        Message::new(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &link_head(0, 0));
    end(message, near).nested(IFLA_LINKINFO, |info| {
        info.attribute(IFLA_INFO_KIND, b"veth").nested(IFLA_INFO_DATA, |data| {
            data.nested(VETH_INFO_PEER, |peer| end(peer.raw(&link_head(0, 0)), far))
        })
    })
}

/// Sets an interface up.
pub(crate) fn lift(index: u32) -> Message {
    Message::new(RTM_NEWLINK, NLM_F_ACK, &link_head(index, IFF_UP))
}

/// Has the host take IPv4 packets that come in by an interface and are for others.
pub(crate) fn forward(index: u32) -> Message {
    Message::new(RTM_NEWLINK, NLM_F_ACK, &link_head(index, 0)).nested(IFLA_AF_SPEC, |families| {
        families.nested(AF_INET.into(), |inet| {
            inet.nested(IFLA_INET_CONF, |conf| {
                conf.attribute(IPV4_DEVCONF_FORWARDING, &1_u32.to_ne_bytes())
            })
        })
    })
}

/// Keeps an interface that is down from making IPv6 addresses of its own.
pub(crate) fn make_no_addresses(index: u32) -> Message {
    Message::new(RTM_NEWLINK, NLM_F_ACK, &link_head(index, 0)).nested(IFLA_AF_SPEC, |families| {
        families.nested(AF_INET6.into(), |inet6| {
            inet6.attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE])
        })
    })
}

/// Deletes an interface, and with it its peer.
pub(crate) fn delete_interface(name: &str) -> Message {
    Message::new(RTM_DELLINK, NLM_F_ACK, &link_head(0, 0)).attribute(IFLA_IFNAME, &terminated(name))
}

/// Gives an interface an address, or leaves it there.
pub(crate) fn add_address(index: u32, address: impl Into<IpAddr>, prefix: u8) -> Message {
    let address = address.into();
    let flags = if address.is_ipv4() { 0 } else { IFA_F_NODAD };
    let mut head = [family(address), prefix, flags, RT_SCOPE_UNIVERSE, 0, 0, 0, 0];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    Message::new(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, &head)
        .attribute(IFA_LOCAL, &octets(address))
        .attribute(IFA_ADDRESS, &octets(address))
}

/// Adds a route, or replaces the one to the same place.
///
/// `via` is the gateway; without one the place is on the link itself, and `source` is the address
/// that the host uses toward it.
pub(crate) fn add_route(
    index: u32,
    network: impl Into<IpAddr>,
    prefix: u8,
    via: Option<IpAddr>,
    source: Option<Ipv4Addr>,
) -> Message {
    let network = network.into();
    let scope = if via.is_some() { RT_SCOPE_UNIVERSE } else { RT_SCOPE_LINK };
    let head = [
        family(network),
        prefix,
        0,
        0,
        RT_TABLE_MAIN,
        RTPROT_STATIC,
        scope,
        RTN_UNICAST,
        0,
        0,
        0,
        0,
    ];
    let mut message = Message::new(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, &head)
        .attribute(RTA_OIF, &index.to_ne_bytes());
    if prefix > 0 {
        message = message.attribute(RTA_DST, &octets(network));
    }
    if let Some(via) = via {
        message = message.attribute(RTA_GATEWAY, &octets(via));
    }
    if let Some(source) = source {
        message = message.attribute(RTA_PREFSRC, &source.octets());
    }
    message
}

/// Fixes the hardware address of a neighbour for good.
pub(crate) fn add_neighbour(index: u32, address: impl Into<IpAddr>, mac: [u8; 6]) -> Message {
    let address = address.into();
    let mut head = [family(address), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
    Message::new(RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, &head)
        .attribute(NDA_DST, &octets(address))
        .attribute(NDA_LLADDR, &mac)
}

/// Has the kernel route nothing onward that comes from an IPv6 address. Refused with `EEXIST` if
/// that is so already.
pub(crate) fn forbid_source(address: Ipv6Addr) -> Message {
    source_rule(RTM_NEWRULE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, address)
}

/// Takes that back. Refused with `ENOENT` if it is not so.
pub(crate) fn permit_source(address: Ipv6Addr) -> Message {
    source_rule(RTM_DELRULE, NLM_F_ACK, address)
}

/// struct fib_rule_hdr, with the length of the source in its third byte.
fn source_rule(kind: u16, flags: u16, address: Ipv6Addr) -> Message {
    let head = [AF_INET6, 0, 128, 0, 0, 0, 0, FR_ACT_PROHIBIT, 0, 0, 0, 0];
    Message::new(kind, flags, &head)
        .attribute(FRA_SRC, &address.octets())
        .attribute(FRA_PRIORITY, &PRIORITY.to_ne_bytes())
}

/// Lists the interfaces.
pub(crate) fn interfaces() -> Result<Vec<Interface>, NetlinkError> {
    let message = Message::new(RTM_GETLINK, NLM_F_DUMP, &link_head(0, 0));
    dump(Family::Route, message, read_interface)
}

/// Says whether an interface carries packets yet: it does a moment after both ends are up.
pub(crate) fn is_running(name: &str) -> Result<bool, NetlinkError> {
    let message = Message::new(RTM_GETLINK, NLM_F_ACK, &link_head(0, 0))
        .attribute(IFLA_IFNAME, &terminated(name));
    let states = dump(Family::Route, message, |payload| {
        let state = Attributes::behind(payload, IFINFOMSG).find(IFLA_OPERSTATE);
        Some(state == Some(&[IF_OPER_UP]))
    })?;
    Ok(states == [true])
}

/// Lists the IPv4 routes of every table but the host's own addresses'.
pub(crate) fn routes() -> Result<Vec<Route>, NetlinkError> {
    routes_of(AF_INET)
}

/// Lists the IPv6 routes likewise; none where the kernel has no IPv6.
pub(crate) fn routes6() -> Result<Vec<Route>, NetlinkError> {
    routes_of(AF_INET6)
}

fn routes_of(family: u8) -> Result<Vec<Route>, NetlinkError> {
    let head = [family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    dump(Family::Route, Message::new(RTM_GETROUTE, NLM_F_DUMP, &head), |payload| {
        // A kernel without a family answers with those of all others.
        if payload.first() == Some(&family) { read_route(payload) } else { None }
    })
}

/// Lists the IPv6 addresses that reach beyond a link.
pub(crate) fn addresses6() -> Result<Vec<IpAddr>, NetlinkError> {
    let head = [AF_INET6, 0, 0, 0, 0, 0, 0, 0];
    dump(Family::Route, Message::new(RTM_GETADDR, NLM_F_DUMP, &head), |payload| {
        if payload.first() != Some(&AF_INET6) || payload.get(3) != Some(&RT_SCOPE_UNIVERSE) {
            return None;
        }
        Attributes::behind(payload, IFADDRMSG).find(IFA_ADDRESS).and_then(read_address)
    })
}

fn read_interface(payload: &[u8]) -> Option<Interface> {
    let attributes = Attributes::behind(payload, IFINFOMSG);
    let name = attributes.find(IFLA_IFNAME)?;
    Some(Interface {
        index: read_u32(payload, 4)?,
        name: String::from_utf8_lossy(name).trim_end_matches('\0').to_owned(),
        mtu: read_u32(attributes.find(IFLA_MTU)?, 0)?,
    })
}

fn read_route(payload: &[u8]) -> Option<Route> {
    let attributes = Attributes::behind(payload, RTMSG);
    let prefix = *payload.get(1)?;
    let table = attributes
        .find(RTA_TABLE)
        .and_then(|value| read_u32(value, 0))
        .unwrap_or(u32::from(*payload.get(4)?));
    let network = match (attributes.find(RTA_DST), *payload.first()?) {
        (Some(value), _) => read_address(value)?,
        (None, AF_INET6) => Ipv6Addr::UNSPECIFIED.into(),
        (None, _) => Ipv4Addr::UNSPECIFIED.into(),
    };
    let mut interfaces: Vec<u32> =
        attributes.find(RTA_OIF).and_then(|value| read_u32(value, 0)).into_iter().collect();
    // struct rtnexthop: length (2), flags, hops, interface (4), attributes.
    let mut hops = attributes.find(RTA_MULTIPATH).unwrap_or_default();
    while let Some(index) = read_u32(hops, 4) {
        interfaces.push(index);
        let size = usize::from(u16::from_ne_bytes([hops[0], hops[1]])).next_multiple_of(4);
        hops = if size < 8 { &[] } else { hops.get(size..).unwrap_or_default() };
    }
    let onward = table != RT_TABLE_LOCAL && *payload.get(7)? == RTN_UNICAST;
    let near = [RTA_GATEWAY, RTA_MULTIPATH].iter().all(|kind| attributes.find(*kind).is_none());
    Some(Route { network, prefix, onward, near, interfaces })
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn link_head(index: u32, flags: u32) -> [u8; IFINFOMSG] {
    let mut head = [0; IFINFOMSG];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..16].copy_from_slice(&flags.to_ne_bytes());
    head
}

fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}
