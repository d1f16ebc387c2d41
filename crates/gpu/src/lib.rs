//! NVIDIA's GPUs: found through the driver's library, and handed to sandboxes with the files that
//! their driver needs.
//!
//! ```text
//!  libnvidia-ml.so.1 ──▶ Nvidia ──▶ list, check
//!  CDI files (JSON)  ──▶ cdi    ──▶ files: device nodes, libraries
//! ```
//!
//! The library is loaded while the server runs, if it is there: a machine without it has no GPU,
//! and lacks nothing. Nothing of a CDI file is executed: its hooks are read for what they would do
//! (see [`cdi`]). This crate knows no runtime and gives nothing out.

mod cdi;
mod examine;
mod model;
mod nvidia;

pub use examine::{GpuFact, examine};
pub use nvidia::{CDI_DIRS, Nvidia};
