//! The simulated runtime: the suite of all runtimes, its daemon, its faults, its size.

mod conformance;
mod daemon;
mod fault;
mod image;
mod scale;
mod support;
