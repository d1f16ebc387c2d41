//! The resolver of every sandbox: the only one it can reach (design §8).
//!
//! Each claimed slot has its own sockets, bound to its interface: a sandbox that floods fills its
//! own buffer and nobody else's, and two servers on one host do not meet. They are opened with the
//! claim and closed with it, so nothing of one sandbox is left for the next.
//!
//! Under an allow list it answers the listed names alone, and their addresses are in the slot's
//! sets before the answer leaves. Names that are denied are refused, whoever points to them, and
//! so is every answer that leads to an address which no sandbox may ever reach.

mod answer;
mod ears;
mod follow;
mod forward;
mod learn;
mod message;
mod rate;

pub(crate) use ears::{Ears, Resolver, serve};
pub(crate) use follow::{follow, look_up};
pub(crate) use forward::Forwarder;
pub(crate) use learn::Learner;
