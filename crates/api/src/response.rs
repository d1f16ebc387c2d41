//! What the control plane answers. The official clients read these through strict structs: which
//! keys may be `null`, which must be absent, and which must be there is spec 00 §5.

mod admin;
mod build;
mod image;
mod log;
mod network;
mod platform;
mod pool;
mod registered_image;
mod sandbox;
mod secret;
mod snapshot;
mod ssh_key;
mod template_build;

pub use admin::{
    AdminGpu, AdminGpuList, AdminProject, AdminProjectList, AdminSandbox, AdminSandboxList,
    KeyEntry, KeyList, NewKeyBody, OrphanList, SnapshotVerdict, UnfoundSandbox,
};
pub use build::{BuildBody, BuildCancelled, BuildConflict, ContextUpload};
pub use image::{
    AdminImage, AdminImageList, AdminImageName, AdminImageNames, AdminPull, AdminRegisteredImage,
    AdminRegistryLogin, AdminRegistryLoginList,
};
pub use log::{LogFacts, LogList, LogProcessEntry, LogProcessList, LogRecord};
pub use network::{NetworkMissing, NetworkReport, NetworkReportEntry, NetworkSums};
pub use platform::{HealthBody, KeyIdentity, ORGANIZATION_ID, ProjectBody, rfc3339_secs};
pub use pool::{CreatePoolResponse, PoolContainerInfo, PoolInfo, PoolList};
pub use registered_image::{
    CasImageBody, CasImageId, CasImageList, NextPage, TemplateBody, TemplateList,
};
pub use sandbox::{
    CreateSandboxResponse, ErrorDetails, GpuInfo, IngressAddress, NetworkConfig, ResizeInfo,
    ResourcesInfo, SandboxFacts, SandboxInfo, SandboxList,
};
pub use secret::{
    AdminSecret, AdminSecretList, NamespaceSecretBody, NamespaceSecretList, Pagination, SecretBody,
    SecretKeyReplaced, SecretList,
};
pub use snapshot::{
    CopySandboxResponse, CreateSnapshotResponse, SnapshotInfo, SnapshotList, TransferEntry,
    TransferList, TransferTrouble,
};
pub use ssh_key::{SshKeyBody, SshKeyList};
pub use template_build::{TemplateBuildBody, TemplateBuilder, TemplateParent};
