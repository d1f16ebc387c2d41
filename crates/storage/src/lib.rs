//! The storage of a node: the pool, the layers and captures in it, the images, the daemon's
//! binaries.
//!
//! Knows nothing of runtimes, networks or the control plane; reads no environment. What it makes
//! on a host lies beneath one data directory, so everything of ours is found by path: files,
//! mounts, and loop devices by their backing file.

mod archive;
mod blank;
mod capture;
mod daemon;
mod durable;
mod ext4;
mod fact;
mod image;
mod key_lock;
mod layer;
mod loopdev;
mod mount;
mod pool;
mod step;
mod straggler;
mod template;
mod tool;
mod trash;
mod xfs;

pub use archive::{
    Claimed, ExpectedMark, MasterKey, ObjectArchive, ObjectStoreConfig, ObjectStoreConfigError,
};
pub use capture::HostCaptures;
pub use daemon::Daemons;
pub use fact::{StorageFact, host_facts};
pub use image::{OnDemandImage, StockImages, on_demand_images};
pub use layer::HostLayers;
pub use pool::{Pool, PoolChoice, PoolError, PoolKind, PoolOptions, PoolSizing, remove_all_mounts};
pub use step::HostStepError;
pub use template::{HostImages, ImageRules};
