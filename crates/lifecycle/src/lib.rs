//! The rules of a sandbox's life, as pure functions.
//!
//! ```text
//!  create → pending ──────────▶ running
//!              │                   │
//!              └──▶ terminated ◀───┘
//! ```
//!
//! [`step`] takes a record and an event and returns the next record and the effects that a driver
//! performs; [`status`] composes the public status from what is asked, intended and observed;
//! [`limit`] says when a time limit ends a sandbox. No clock, no randomness, no logging in here.

mod limit;
mod step;

pub use limit::{Limit, limit};
pub use step::{Effect, Event, Ignored, Patch, Step, status, step};

#[cfg(test)]
mod tests;
