//! A little netlink: enough for links, addresses, queues, set elements and flows.
//!
//! `ip` and `nft` cost 2–6 ms a call on an idle machine; a claim is one set element, so it goes to
//! the kernel directly (0.1 ms). The rule set itself, loaded once a start, is left to `nft`.
//! Sockets are made for each exchange, but for the one over which the kernel tells what rules note;
//! they belong to the network namespace of the calling thread.

mod flow;
mod message;
mod note;
mod route;
mod rule;
mod shape;
mod socket;

pub(crate) use flow::{
    End, Ends, Flow, FlowBytes, FlowState, flows_are_few, flows_of, forget_flows, forget_flows_of,
    forget_flows_to,
};
pub(crate) use note::{Heard, Networks, Note, NoteSocket};
pub(crate) use route::{
    Interface, Place, Route, add_address, add_neighbour, add_route, addresses6, delete_interface,
    forbid_source, forward, interfaces, is_running, lift, make_no_addresses, new_veth,
    permit_source, routes, routes6, run as change_routes,
};
pub(crate) use rule::{
    Element, Key, SetChange, SetName, change_sets, has_member, read_counts, table_exists,
};
pub(crate) use shape::{Rate, Spared, shape, unshape};
pub(crate) use socket::NetlinkError;
