//! A node over a simulated host and runtime: every step's undo, restarts, limits, orphans.

mod adopt;
mod archive;
mod claim;
mod gpu;
mod image;
mod life;
mod log;
mod prestart;
mod reboot;
mod resize;
mod room;
mod secret;
mod stage;
mod state;
mod world;
