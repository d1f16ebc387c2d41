//! The in-memory model runs through its own suite; stored bytes stay readable.

mod format;
mod memory;
mod unreliable;
