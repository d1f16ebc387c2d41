//! Terminals (spec 05 §4).
//!
//! A program on a pseudo-terminal, its last output, and the clients that look at it. Several may
//! look at once: all see the same output, and what they type is mixed, as on any shared terminal.
//!
//! ```text
//!   program ─▶ device ─▶ pump ─▶ history ─▶ client: at its own position
//!      ▲                   │                   │
//!      │                   └─ waits while a client's position would fall out of the history,
//!      └─ input ◀──────────── and a client that stands still for 10 s then is sent away
//! ```

mod client;
mod device;
mod history;
mod rate;
mod session;
mod state;
mod table;

pub(crate) use self::{
    client::serve,
    session::Session,
    table::{OpenError, Terminals},
};
