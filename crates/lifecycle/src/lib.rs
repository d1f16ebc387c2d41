//! The rules of a sandbox's life, as pure functions.
//!
//! ```text
//!  create → pending ──────────▶ running ⇄ snapshotting
//!              │                   │  ▲
//!              │          suspending  │ (a resume)
//!              │                   ▼  │
//!              │                suspended
//!              │                   │
//!              └──▶ terminated ◀───┘
//! ```
//!
//! [`step`] takes a record and an event and returns the next record and the effects that a driver
//! performs; [`status`] composes the public status from what is asked, intended and observed;
//! [`limit`] says when a time limit ends a sandbox; [`restored`] says what a sandbox has that is
//! restored from a snapshot; [`may_resize`] whether one can be resized; [`care`] says what is to be
//! done about a snapshot. No clock, no randomness, no logging in here.

mod limit;
mod resize;
mod restore;
mod snapshot;
mod step;

pub use limit::{Limit, limit};
pub use resize::may_resize;
pub use restore::{Override, Overrides, RestoreRefusal, restored};
pub use snapshot::{
    CAPTURE_LIMIT_MILLIS, Care, Kept, ObjectStore, archived, begun, captured, care, completed,
    retry_delay,
};
pub use step::{
    Effect, Event, Ignored, Patch, Refusal, Step, lasting, status, step, waits_to_resume,
};

#[cfg(test)]
mod tests;
