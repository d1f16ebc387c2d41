//! A node: owns the sandboxes of one host.
//!
//! One task owns one sandbox ([`sandbox`](self)); what is wanted of it lies in a `watch` channel,
//! so whoever wants something never waits. What a node made is in its ledger, one directory a
//! sandbox; after a restart that is enough to adopt or to clean up. It names no concrete runtime,
//! storage or network.

mod adopt;
mod ahead;
mod archive;
mod capture;
mod clock;
mod daemon;
mod gauge;
mod gpu;
mod handle;
mod image;
mod ledger;
mod log;
mod prestart;
mod remains;
mod resize;
mod room;
mod sandbox;
mod service;
mod stage;
mod start;
mod suspend;

pub use ahead::AheadCounts;
pub use archive::{DirectionCounts, NodeArchive, TransferCounts};
pub use daemon::DaemonError;
pub use gauge::{FixedMemory, MemoryFacts, MemoryGauge, ProcMemory};
pub use ledger::LedgerError;
pub use log::LogRate;
pub use prestart::PrestartConfig;
pub use service::{NodeConfig, NodeParts, NodeService, NodeStartError};
