//! The [`Runtime`] trait: one driver for one isolation technology.
//!
//! A runtime reports the state of its own backend and nothing else; what a user sees is composed
//! elsewhere. It knows no images, networks or ledgers: it gets a mounted root file system, a
//! network namespace and limits. [`sim`] is the runtime for tests and benches; [`conformance`] is
//! what every runtime must do.

pub mod conformance;
mod contract;
pub mod sim;

pub use contract::{
    Adopted, Capabilities, CpuShare, ImageFacts, Runtime, RuntimeError, RuntimeEvent, RuntimeExit,
    RuntimeKind, RuntimeSpec, RuntimeStats, Started,
};
