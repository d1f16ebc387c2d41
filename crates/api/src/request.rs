//! What callers send: JSON and query strings, parsed strictly.

mod admin;
mod build;
mod change;
mod create;
mod fields;
mod image;
mod list;
mod log;
mod network;
mod pool;
mod query;
mod registered_image;
mod secret;
mod snapshot;
mod ssh_key;
mod template_build;
mod update;

pub use admin::{CreateKey, ListAllSandboxes, SetQuota};
pub(crate) use build::CreateBuildSchema;
pub use build::{CancelBuild, CreateBuild, SealContext, build_resources, registry_logins};
pub use change::{ChangeState, CopySandbox};
pub use create::{CreateSandbox, GpuRequest, ResourcesRequest};
pub use image::{
    DeleteRegistryLogin, ImageScope, ImportImage, PullImage, PutRegistryLogin, RemoveImage,
};
pub(crate) use image::{ImageRequest, RegistryLoginRequest};
pub use list::{Direction, ListSandboxes};
pub use log::{ListLogs, LogPart, LogToken};
pub use network::ReadNetwork;
pub use pool::{ClaimSandbox, SandboxPool};
pub use registered_image::{ListImages, RegisterCasImage, RegisterImage};
pub(crate) use secret::PutSecret;
pub use secret::{ListSecrets, PutProjectSecret, PutSecrets, SecretPlace};
pub use snapshot::CreateSnapshot;
pub use ssh_key::CreateSshKey;
pub(crate) use template_build::PrepareTemplateBuildSchema;
pub use template_build::{CompleteTemplateBuild, PrepareTemplateBuild};
pub use update::{NetworkChange, UpdateSandbox};

/// A parsed request, and the keys of it that nobody knew.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed<T> {
    /// The request.
    pub value: T,
    /// The JSON paths that were ignored, for a debug log line; at most sixteen.
    pub ignored: Vec<String>,
}
