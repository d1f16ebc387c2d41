//! The control plane: application services and reconcilers. It knows no HTTP and no host.
//!
//! [`Control`] is a cheap handle. Its services decide through `lifecycle` and `scheduler`, store
//! through `tarn_store::Store`, and tell nodes through `tarn_node_api::Node`. Everything it needs
//! between a client's request and its sandbox it answers from memory ([`tarn_route_api::Routes`]).

mod ask;
mod build;
mod error;
mod gpu;
mod image;
mod key;
mod limits;
mod log;
mod place;
mod pool;
mod project;
mod reconcile;
mod resize;
mod route;
mod sandbox;
mod secret;
mod service;
mod snapshot;
mod ssh_key;
mod suspend;
mod table;
mod text;
mod transition;
mod usage;

pub use ask::{
    Caller, CreateAsk, GpuAsk, ListAsk, ListPage, NetworkPatch, NewKey, PatchAsk, PoolAsk,
    PoolContainer, PoolView, ProjectView, ResizeAsk, SandboxView,
};
pub use build::{BuildBase, BuildSandbox, PublishAsk};
pub use error::ControlError;
pub use image::{
    AwaitedSandbox, DOCKERFILE_MAX, ImageAsk, ImageFiles, ImageKey, ImagePage, ImagePlace,
    ImageTarget, ImageView,
};
pub use limits::Limits;
pub use log::{LogAsk, LogCounts, LogEntry, LogView};
pub use pool::PoolCounts;
pub use secret::{SecretKeyError, SecretKeys, ServiceKey};
pub use service::{Control, ControlConfig, ControlParts};
pub use snapshot::{ArchiveStatus, ArchiveTrouble, Attempt, SnapshotCounts, Verdict};
// What callers see of images.
pub use tarn_host::{PullProgress, StoredImage};
// What callers see of transfers.
pub use suspend::Settled;
pub use tarn_node_api::{Direction, Endpoint, GpuState, GpuView, Transfer};
// What callers see of stored things; only this crate uses the store.
pub use tarn_store::{
    KeyRecord, Order, PageKey, ProjectRecord,
    log::{LogFilter, LogPlace, LogProcessRecord, LogRecord, LogStart},
};
