//! Flows the kernel remembers (`linux/netfilter/nfnetlink_conntrack.h`).

use std::net::Ipv4Addr;

use nix::errno::Errno;

use super::{
    message::{Attributes, Message, NLM_F_ACK, NLM_F_DUMP},
    socket::{Family, NetlinkError, dump, transact},
};

const SUBSYSTEM: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_FILTER_F_CTA_IP_SRC: u32 = 1;
const NFGENMSG: [u8; 4] = [2, 0, 0, 0];

/// Makes the kernel forget the flows that an address began.
///
/// Listed and deleted one by one: deleting by filter needs Linux 6.8. Walking the kernel's table
/// takes 5 ms (262144 buckets) even when it is empty, so once for an address has to do: of flows
/// toward it, which only the host begins, nothing is left that could reach the next sandbox.
pub(crate) fn forget_flows_of(address: Ipv4Addr) -> Result<usize, NetlinkError> {
    let message = Message::new(kind(IPCTNL_MSG_CT_GET), NLM_F_DUMP, &NFGENMSG)
        .nested(CTA_TUPLE_ORIG, |tuple| {
            tuple.nested(CTA_TUPLE_IP, |ip| ip.attribute(CTA_IP_V4_SRC, &address.octets()))
        })
        .nested(CTA_FILTER, |filter| {
            filter.attribute(CTA_FILTER_ORIG_FLAGS, &CTA_FILTER_F_CTA_IP_SRC.to_ne_bytes())
        });
    // A kernel older than 5.8 lists every flow instead of the filtered ones, so look again.
    forget(message, |source| source == address)
}

/// Makes the kernel forget the flows of every address that is chosen.
pub(crate) fn forget_flows(chosen: impl Fn(Ipv4Addr) -> bool) -> Result<usize, NetlinkError> {
    forget(Message::new(kind(IPCTNL_MSG_CT_GET), NLM_F_DUMP, &NFGENMSG), chosen)
}

fn forget(list: Message, chosen: impl Fn(Ipv4Addr) -> bool) -> Result<usize, NetlinkError> {
    let mut doomed = Vec::new();
    dump(Family::Netfilter, list, |flow| doomed.extend(deletion(flow, &chosen)))?;
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

fn deletion(flow: &[u8], chosen: impl Fn(Ipv4Addr) -> bool) -> Option<Message> {
    let attributes = Attributes::behind(flow, NFGENMSG.len());
    let tuple = attributes.find(CTA_TUPLE_ORIG)?;
    let ip = Attributes::inside(Attributes::inside(tuple).find(CTA_TUPLE_IP)?);
    let source: [u8; 4] = ip.find(CTA_IP_V4_SRC)?.try_into().ok()?;
    if !chosen(source.into()) {
        return None;
    }
    let message = Message::new(kind(IPCTNL_MSG_CT_DELETE), NLM_F_ACK, &NFGENMSG)
        .nested(CTA_TUPLE_ORIG, |inner| inner.raw(tuple));
    Some(match attributes.find(CTA_ZONE) {
        Some(zone) => message.attribute(CTA_ZONE, zone),
        None => message,
    })
}

fn kind(message: u16) -> u16 {
    (SUBSYSTEM << 8) | message
}
