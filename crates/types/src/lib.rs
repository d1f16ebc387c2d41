//! The vocabulary every other crate of tarn shares: ids, names, sizes, specs, states, policies
//! and generations.
//!
//! Values are parsed once, at the border, into types that cannot hold anything invalid. This
//! crate does no I/O, reads no clock and draws no randomness.

mod build;
mod class;
mod generation;
mod gpu;
mod id;
mod image;
mod log;
mod name;
mod network;
mod policy;
mod pool;
mod record;
mod registered_image;
mod resources;
mod secret;
mod size;
mod snapshot;
mod spec;
mod ssh_key;
mod state;
mod tag;
mod time;
mod token;

pub use build::{BuildKind, BuildPhase, BuildRecord, BuildStatus, KeptStep};
pub use class::ErrorClass;
pub use generation::Generation;
pub use gpu::{GpuDeviceNode, GpuFiles, GpuId, GpuModel, GpuModelError, GpuMount, GpuStock, Gpus};
pub use id::{
    BuildId, IdError, ImageId, KeyId, NodeId, PoolId, ProjectId, SandboxId, SecretId, SnapshotId,
    SshKeyId,
};
pub use image::{
    BootImage, ImageConfig, ImageDigest, ImageDigestError, ImageNameRecord, ImagePin,
    RegistryLogin, RegistryLoginRecord,
};
pub use log::{LogBatch, LogLevel, LogLine, LogProcess};
pub use name::{ImageName, ImageNameError, NameError, SandboxName, SandboxRef};
pub use network::{
    DenialReason, NetworkCounters, NetworkEntry, NetworkLog, NetworkLost, NetworkProtocol,
    NetworkVerdict,
};
pub use policy::{EgressEntry, EgressEntryError, EgressPolicy, EgressTarget, HostName};
pub use pool::{PoolDefinition, PoolMember, PoolRecord};
pub use record::{
    Intent, Observed, ObservedPhase, Resize, ResizeOutcome, SandboxRecord, Shape, Target,
};
pub use registered_image::{ImageFamily, ImageRecord, RegisteredImage, TemplateId};
pub use resources::Resources;
pub use secret::{SecretName, SecretNameError, SecretRecord, SecretValue, SecretValueError};
pub use size::{ByteSize, MilliCpu, SizeError};
pub use snapshot::{
    Archival, ArchiveFacts, CaptureFacts, Captured, Lasting, Pace, Restore, SnapshotKind,
    SnapshotRecord, SnapshotStatus,
};
pub use spec::{ExposedPorts, Launch, PortAccess, PortError, SandboxSpec};
pub use ssh_key::{SshKeyRecord, SshPublicKey};
pub use state::{
    EndCause, FailedStep, Outcome, PendingReason, SandboxStatus, StartFailure, TerminationReason,
};
pub use tag::InstanceTag;
pub use time::{BootId, UnixMillis};
pub use token::DaemonToken;
