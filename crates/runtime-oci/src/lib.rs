//! The runtimes that speak the OCI command line; today gVisor's `runsc`.
//!
//! Pure parts decide, and are tested by tables: the bundle's `config.json` ([`oci`]), the limits
//! ([`limits`]), the memory policy ([`pressure`]), the backend's state file ([`state`]), whether a
//! sandbox is paused ([`stack`]), the layout of cgroups ([`cgroup`]). [`gvisor`] performs, and
//! [`control`] what a sandbox is asked while it runs.
//!
//! The driver knows no images, networks or ledgers, and takes no command inside a sandbox: the
//! daemon there is somebody else's.
//!
//! # What this crate leaves on a host
//!
//! For a sandbox: its cgroups `tarn_<tag>/<id>`, while it starts `tarn_<tag>_aside/<id>`, the
//! directory `bundle/<id>`, three files and a shape file under `root/`, and the processes in the
//! cgroups. Every one of them carries the id, so what a crash leaves half made is found and removed
//! by [`tarn_runtime::Runtime::delete`].
//! For a server: the cgroups `tarn_<tag>` and `tarn_<tag>_aside` while it runs or has sandboxes,
//! and, while it runs, its own, `tarn_<tag>_server`, and one pinned empty network namespace.

mod bundle;
mod cgroup;
mod command;
mod config;
mod control;
mod doctor;
mod gvisor;
mod huge;
mod image;
mod limits;
mod netns;
mod oci;
mod paths;
mod pressure;
mod process;
mod programs;
mod remains;
mod stack;
mod state;
mod straggler;
mod sys;
mod urpc;
mod volatile;
mod watch;

pub use config::{GvisorConfig, GvisorDeadlines};
pub use doctor::{Fact, driver_obstacle, examine};
pub use gvisor::{GvisorRuntime, GvisorStartError};
pub use remains::{GvisorRemoveError, remove_all};
pub use volatile::let_go_if_unused;
