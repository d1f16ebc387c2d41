//! The SQLite store: the suite of all stores, durability, and files that are not as they should be.

mod conformance;
mod crash;
mod durable;
mod log;
mod open;
mod support;
