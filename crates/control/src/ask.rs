//! What callers ask of the sandbox service, and what they get: no HTTP, no JSON.

use tarn_store::{Order, PageKey, ProjectRecord};
use tarn_types::{
    ByteSize, EgressPolicy, ExposedPorts, ImageName, MilliCpu, NodeId, PoolRecord, PortAccess,
    ProjectId, SandboxId, SandboxName, SandboxRecord, SandboxStatus, SecretName, SnapshotId,
};

/// A request for a sandbox: every field parsed, none checked against limits yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CreateAsk {
    /// The name, for a named sandbox.
    pub name: Option<SandboxName>,
    /// The image; `None` = the default.
    pub image: Option<ImageName>,
    /// CPU; `None` = one.
    pub cpu: Option<MilliCpu>,
    /// Memory; `None` = 1024 MiB.
    pub memory: Option<ByteSize>,
    /// Disk; `None` = 10240 MiB.
    pub disk: Option<ByteSize>,
    /// The GPUs asked for, all of one model; `None` = none, or those of the snapshot.
    pub gpus: Option<Vec<GpuAsk>>,
    /// The limit in seconds; `None` = 600, 0 = the configured maximum.
    pub timeout_secs: Option<u64>,
    /// Command run at start.
    pub entrypoint: Option<Vec<String>>,
    /// What the sandbox may reach; `None` = everything.
    pub network: Option<EgressPolicy>,
    /// Who may reach its user ports.
    pub ports: PortAccess,
    /// Whether traffic wakes it; `None` = true. Only a named one may say so.
    pub auto_resume: Option<bool>,
    /// After how many seconds pending it is given up.
    pub max_pending_secs: Option<u64>,
    /// The snapshot it is restored from.
    pub restore: Option<SnapshotId>,
    /// Whether the key `resources` was there and not null, however empty: on a restore, what is
    /// there overrides the snapshot.
    pub resources_present: bool,
    /// The secrets asked for; an empty list is a wish too.
    pub secret_names: Option<Vec<SecretName>>,
    /// The registered image asked for by its id, as it was written.
    pub template_id: Option<String>,
}

/// Some GPUs of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuAsk {
    /// Whatever the caller calls it.
    pub model: String,
    /// How many; at least one.
    pub count: u32,
}

/// What a PATCH does to the network policy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NetworkPatch {
    /// The key was absent.
    #[default]
    Keep,
    /// The key was null.
    Clear,
    /// The key held a policy.
    Replace(EgressPolicy),
}

/// A change of a sandbox: absent fields stay. All or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PatchAsk {
    /// A new name.
    pub name: Option<SandboxName>,
    /// New exposed ports; an empty list clears.
    pub exposed_ports: Option<ExposedPorts>,
    /// Whether exposed ports answer without credentials.
    pub allow_unauthenticated_access: Option<bool>,
    /// Whether traffic wakes it.
    pub auto_resume: Option<bool>,
    /// What it may reach.
    pub network: NetworkPatch,
}

/// What a running sandbox shall have; what is absent stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResizeAsk {
    /// CPU.
    pub cpu: Option<MilliCpu>,
    /// Memory.
    pub memory: Option<ByteSize>,
    /// Disk; it only grows.
    pub disk: Option<ByteSize>,
}

/// All that a pool shall be: what is absent has its default, but the policy (see there).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolAsk {
    /// The image.
    pub image: ImageName,
    /// CPU; `None` = one.
    pub cpu: Option<MilliCpu>,
    /// Memory; `None` = 1024 MiB.
    pub memory: Option<ByteSize>,
    /// Disk; `None` = 10240 MiB.
    pub disk: Option<ByteSize>,
    /// The GPUs asked for, all of one model; `None` = none.
    pub gpus: Option<Vec<GpuAsk>>,
    /// The limit of a claimed sandbox in seconds; `None` and 0 = the configured maximum.
    pub timeout_secs: Option<u64>,
    /// Command run at start.
    pub entrypoint: Option<Vec<String>>,
    /// How many containers there may be; `None` = any number.
    pub max_containers: Option<u32>,
    /// How many wait to be claimed; `None` = none.
    pub warm_containers: Option<u32>,
    /// What the containers may reach. `Keep` keeps what the pool has; a new one has none.
    pub network: NetworkPatch,
}

/// A pool as a caller may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolView {
    /// Everything stored of it.
    pub record: PoolRecord,
    /// Its containers: those that wait, and those of claimed sandboxes that are not suspended.
    pub containers: Vec<PoolContainer>,
}

/// A container of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolContainer {
    /// The id of its sandbox, whether anybody has claimed that yet or not.
    pub id: SandboxId,
    /// Whether somebody has.
    pub claimed: bool,
    /// The node that has it.
    pub node: NodeId,
}

/// Which sandboxes to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListAsk {
    /// The archived ones, or the others.
    pub archived: bool,
    /// Only those with this status.
    pub status: Option<SandboxStatus>,
    /// Where the page starts, exclusive.
    pub from: Option<PageKey>,
    /// Which way it goes.
    pub order: Order,
    /// At most so many; the caller has applied the caps of spec 01 §4.
    pub limit: usize,
}

/// A page of sandboxes, newest first, with the keys of its neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListPage {
    /// The sandboxes.
    pub items: Vec<SandboxView>,
    /// Pass it backward for the page before; `None` at the newest.
    pub prev: Option<PageKey>,
    /// Pass it forward for the page after; `None` at the oldest.
    pub next: Option<PageKey>,
}

/// A sandbox as a caller may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxView {
    /// Everything stored of it.
    pub record: SandboxRecord,
    /// Its public status, composed by `lifecycle`.
    pub status: SandboxStatus,
    /// The isolation technology its node uses, such as `gvisor`.
    pub runtime: &'static str,
    /// When it moves to the archive; set for terminated ones.
    pub archived_at: Option<tarn_types::UnixMillis>,
    /// Why it is frozen, or why the last suspend left it running, or the last resume left it
    /// suspended; for `error_details`. `None` again once its state has changed.
    pub trouble: Option<String>,
}

/// A project, and how it stands to its quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectView {
    /// Everything stored of it.
    pub record: ProjectRecord,
    /// How many sandboxes it has that are not suspended.
    pub sandboxes: u64,
    /// How many it may have; 0 = any number.
    pub quota: u32,
    /// Whether that is the server's default.
    pub is_default: bool,
}

/// Who is calling, as far as a key tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The key's id.
    pub key: tarn_types::KeyId,
    /// The project it opens.
    pub project: ProjectId,
    /// That project's name.
    pub project_name: String,
}

/// A key just made: the only moment its secret is known.
#[derive(Clone, PartialEq, Eq)]
pub struct NewKey {
    /// What finds it later.
    pub id: tarn_types::KeyId,
    /// The project it opens.
    pub project: ProjectId,
    /// The key itself.
    pub secret: String,
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKey")
            .field("id", &self.id)
            .field("project", &self.project)
            .finish_non_exhaustive()
    }
}
