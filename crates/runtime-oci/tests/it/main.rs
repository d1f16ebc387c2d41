//! The driver on real gVisor. Needs root, and gVisor from `./x setup` and `./x build`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports by printing, helpers included"
)]

mod conformance;
mod crash;
mod doctor;
mod host;
mod image;
mod inside;
mod life;
mod memory;
mod resize;
mod speed;
