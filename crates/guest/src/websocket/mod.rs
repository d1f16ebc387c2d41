//! WebSockets, the server's side (RFC 6455).
//!
//! Our own, because the libraries at hand answer a close by themselves and then take no more data:
//! a tunnel whose client has closed must go on delivering what the sandbox still sends. It also
//! lets a quiet connection own no buffer at all. No extension is ever agreed to.
//!
//! ```text
//!   handshake: the answer to the upgrade        pure
//!   frame:     bytes ⇄ frames                   pure
//!   heartbeat: when to ping, when to give up    pure
//!   socket:    a TCP connection that speaks them
//! ```

mod frame;
pub(crate) mod handshake;
mod heartbeat;
mod socket;

pub(crate) use self::{
    frame::{Decoder, HEADER_BYTES, Item},
    heartbeat::Beat,
    socket::{Broken, WebSocket},
};

/// Why a connection is closed, on the wire (RFC 6455 §7.4).
pub(crate) mod close_code {
    /// All is done.
    pub(crate) const NORMAL: u16 = 1000;
    /// The session, or the sandbox, ends.
    pub(crate) const GOING_AWAY: u16 = 1001;
    /// The peer does not speak WebSocket.
    pub(crate) const PROTOCOL_ERROR: u16 = 1002;
    /// A text message: only binary ones mean something here.
    pub(crate) const UNSUPPORTED_DATA: u16 = 1003;
    /// A limit of ours was exceeded.
    pub(crate) const POLICY: u16 = 1008;
    /// A message over the limit.
    pub(crate) const TOO_BIG: u16 = 1009;
    /// Something failed on our side.
    pub(crate) const INTERNAL_ERROR: u16 = 1011;
}
