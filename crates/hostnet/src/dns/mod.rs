//! The resolver of every sandbox: the only one it can reach (design §8).
//!
//! Each claimed slot has its own sockets, bound to its interface: a sandbox that floods fills its
//! own buffer and nobody else's, and two servers on one host do not meet. They are opened with the
//! claim and closed with it, so nothing of one sandbox is left for the next.

mod ears;
mod forward;
mod message;

pub(crate) use ears::{Ears, serve};
pub(crate) use forward::Forwarder;
