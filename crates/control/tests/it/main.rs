//! The control plane over the in-memory store and a node that does what the test says.

mod archive;
mod copy;
mod create;
mod fake;
mod gpu;
mod image;
mod key;
mod pool;
mod quota;
mod reconcile;
mod registered_image;
mod resize;
mod restore;
mod route;
mod snapshot;
mod suspend;
mod verify;
