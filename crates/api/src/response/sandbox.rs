//! Sandboxes as the clients read them (spec 01 §2–§4).

use serde::Serialize;
use tarn_types::{
    EgressEntry, EgressPolicy, EndCause, Gpus, Resize, ResizeOutcome, Resources, SandboxId,
    SandboxRecord, SandboxStatus, TerminationReason, UnixMillis,
};
use utoipa::ToSchema;

/// Where clients find the ingress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngressAddress {
    /// The absolute URL of a sandbox's daemon, such as `http://127.0.0.1:9443`.
    pub sandbox_url: String,
    /// The base from which clients build the URLs of user ports, such as `http://localhost:9443`.
    pub ingress_endpoint: String,
}

/// Everything that the answers about one sandbox are made from.
#[derive(Debug, Clone, Copy)]
pub struct SandboxFacts<'a> {
    /// What is stored of it.
    pub record: &'a SandboxRecord,
    /// Its public status.
    pub status: SandboxStatus,
    /// The name of its project.
    pub namespace: &'a str,
    /// The isolation technology of its node.
    pub runtime: &'a str,
    /// When it was archived; only in answers about archived ones.
    pub archived_at: Option<UnixMillis>,
    /// Why it is not where it was asked to be, although it lives.
    pub trouble: Option<&'a str>,
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SandboxInfo {
    /// Its id. Never `sandbox_id` beside it: the clients hold that for a duplicate.
    pub id: String,
    /// The name of its project.
    pub namespace: String,
    /// `pending`, `running`, `snapshotting`, `suspending`, `suspended` or `terminated`.
    pub status: &'static str,
    /// Its name, if it is a named one.
    pub name: Option<String>,
    /// The image it was booted from.
    pub image: String,
    /// The registered image that the request named by its id, as it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_id: Option<String>,
    /// Its shape.
    pub resources: ResourcesInfo,
    /// Its last resize, if there was one; `resources` is what it has until that succeeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_resize: Option<ResizeInfo>,
    /// The effective time limit in seconds; 0 = unlimited.
    pub timeout_secs: u64,
    /// The entrypoint as requested.
    pub entrypoint: Option<Vec<String>>,
    /// The policy as set; null = never set, which means open.
    pub network_policy: Option<NetworkConfig>,
    /// Whether exposed user ports answer without credentials.
    pub allow_unauthenticated_access: bool,
    /// The user ports that the ingress routes; null = only the daemon's.
    pub exposed_ports: Option<Vec<u16>>,
    /// The mounted file systems.
    pub file_systems: Vec<serde_json::Value>,
    /// Whether ingress traffic wakes it.
    pub auto_resume: bool,
    /// Why it is still pending, or suspended although a resume was asked for.
    pub pending_reason: Option<&'static str>,
    /// How it ended; null unless terminated.
    pub outcome: Option<String>,
    /// Why it ended, where that has a word of its own.
    pub termination_reason: Option<&'static str>,
    /// What went wrong, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_details: Option<ErrorDetails>,
    /// The URL of its daemon: while it is running, suspended, suspending or snapshotting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox_url: Option<String>,
    /// The base of its user ports' URLs, whenever `sandbox_url` is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_endpoint: Option<String>,
    /// The pool that it was claimed from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_id: Option<String>,
    /// Its container in that pool, while it has one: a suspended sandbox has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// The node that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executor_id: Option<String>,
    /// The isolation technology, such as `gvisor`.
    pub runtime: String,
    /// When it was accepted, in milliseconds since the epoch.
    pub created_at: i64,
    /// When it ended, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminated_at: Option<i64>,
    /// When it was archived, in milliseconds since the epoch; only in the archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archived_at: Option<i64>,
}

/// The shape of a sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ResourcesInfo {
    /// CPUs, fractions included.
    pub cpus: f64,
    /// Memory in MiB.
    pub memory_mb: u64,
    /// Disk in MiB.
    pub disk_mb: u64,
    /// The same number as `disk_mb`, for older clients.
    pub ephemeral_disk_mb: u64,
    /// Its GPUs.
    pub gpus: Vec<GpuInfo>,
}

/// A resize, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = SandboxResourceResize)]
pub struct ResizeInfo {
    /// Which one: it grows with each.
    pub generation: u64,
    /// What was asked for.
    pub requested: ResourcesInfo,
    /// `pending`, `succeeded` or `failed`.
    pub status: &'static str,
    /// Why it failed, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
}

/// Some GPUs of one model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct GpuInfo {
    /// How many.
    pub count: u32,
    /// Which.
    pub model: String,
}

/// What a sandbox may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NetworkConfig {
    /// Whether the internet is open.
    #[schema(default = true, required = false)]
    pub allow_internet_access: bool,
    /// If not empty, what alone may be reached: IPv4 or IPv6 addresses, prefixes, host names.
    #[schema(required = false, max_items = 256)]
    pub allow_out: Vec<String>,
    /// What may not be reached, in the same forms; wins over `allow_out`.
    #[schema(required = false, max_items = 256)]
    pub deny_out: Vec<String>,
}

/// What went wrong, in words for a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorDetails {
    /// What happened, and what to do.
    pub message: String,
}

/// The answer to a create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CreateSandboxResponse {
    /// The new sandbox's id.
    pub sandbox_id: String,
    /// Its status; `terminated` when its start failed.
    pub status: &'static str,
    /// Its name, if it is a named one.
    pub name: Option<String>,
    /// Why it is still pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_reason: Option<&'static str>,
    /// The URL of its daemon, once it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox_url: Option<String>,
    /// The base of its user ports' URLs, once it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_endpoint: Option<String>,
    /// How it ended, if it has; of a copy, also why it is still pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it ended, where that has a word of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub termination_reason: Option<&'static str>,
    /// What went wrong, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_details: Option<ErrorDetails>,
}

/// A page of sandboxes, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SandboxList {
    /// The sandboxes.
    pub sandboxes: Vec<SandboxInfo>,
    /// With `direction=backward`: the page before; null at the newest.
    pub prev_cursor: Option<String>,
    /// The page after; null at the oldest.
    pub next_cursor: Option<String>,
}

// === impl SandboxFacts ===

impl SandboxFacts<'_> {
    /// Says whether clients may route to it (spec 01 §3.1).
    fn is_routable(&self) -> bool {
        match self.status {
            SandboxStatus::Running
            | SandboxStatus::Snapshotting
            | SandboxStatus::Suspending
            | SandboxStatus::Suspended => true,
            SandboxStatus::Pending | SandboxStatus::Terminated => false,
        }
    }

    /// Returns the ingress's address while the sandbox is routable.
    fn address<'a>(&self, ingress: &'a IngressAddress) -> Option<&'a IngressAddress> {
        self.is_routable().then_some(ingress)
    }

    fn container_id(&self) -> Option<String> {
        let has_one = match self.status {
            SandboxStatus::Running | SandboxStatus::Snapshotting | SandboxStatus::Suspending => {
                true
            }
            SandboxStatus::Pending => self.record.intent.node.is_some(),
            SandboxStatus::Suspended | SandboxStatus::Terminated => false,
        };
        let shown = has_one && self.record.member.is_some();
        shown.then(|| container_id(&self.record.id))
    }

    fn name(&self) -> Option<String> {
        self.record.asked.name.as_ref().map(ToString::to_string)
    }

    fn pending_reason(&self) -> Option<&'static str> {
        // A suspended one has a reason while a resume waits for room (spec 02 §1).
        let waits = match self.status {
            SandboxStatus::Pending | SandboxStatus::Suspended => true,
            SandboxStatus::Running
            | SandboxStatus::Snapshotting
            | SandboxStatus::Suspending
            | SandboxStatus::Terminated => false,
        };
        let reason = self.record.intent.pending_reason.filter(|_| waits)?;
        Some(reason.as_str())
    }

    /// Returns why it ended. Until it is `terminated` in public, nothing of an end is shown.
    fn end(&self) -> Option<&EndCause> {
        self.record.end.as_ref().filter(|_| self.status.is_terminal())
    }

    fn termination_reason(&self) -> Option<&'static str> {
        self.end()?.termination_reason().map(TerminationReason::as_str)
    }

    fn error_details(&self) -> Option<ErrorDetails> {
        let message = if self.status.is_terminal() {
            self.end()?.error_message()
        } else {
            self.trouble.map(str::to_owned)
        };
        message.map(|message| ErrorDetails { message })
    }
}

// === impl SandboxInfo ===

impl SandboxInfo {
    /// Makes the answer about one sandbox.
    #[must_use]
    pub fn new(facts: &SandboxFacts<'_>, ingress: &IngressAddress) -> Self {
        let (record, asked) = (facts.record, &facts.record.asked);
        let address = facts.address(ingress);
        Self {
            id: record.id.to_string(),
            namespace: facts.namespace.to_owned(),
            status: facts.status.as_str(),
            name: facts.name(),
            image: asked.image.to_string(),
            template_id: asked.template_id.as_ref().map(ToString::to_string),
            resources: asked.resources.into(),
            resource_resize: record.resize.as_ref().map(ResizeInfo::from),
            timeout_secs: asked.timeout_secs,
            entrypoint: asked.entrypoint.clone(),
            network_policy: asked.network.as_ref().map(NetworkConfig::from),
            allow_unauthenticated_access: asked.ports.unauthenticated,
            exposed_ports: asked.ports.exposed.as_ref().map(|ports| ports.as_slice().to_vec()),
            file_systems: Vec::new(),
            auto_resume: asked.auto_resume,
            pending_reason: facts.pending_reason(),
            outcome: facts.end().map(|end| end.outcome().to_string()),
            termination_reason: facts.termination_reason(),
            error_details: facts.error_details(),
            sandbox_url: address.map(|address| address.sandbox_url.clone()),
            ingress_endpoint: address.map(|address| address.ingress_endpoint.clone()),
            pool_id: record.member.as_ref().map(|member| member.pool.to_string()),
            container_id: facts.container_id(),
            executor_id: record.intent.node.as_ref().map(ToString::to_string),
            runtime: facts.runtime.to_owned(),
            created_at: record.created_at.0,
            terminated_at: record
                .terminated_at
                .filter(|_| facts.status.is_terminal())
                .map(|at| at.0),
            archived_at: facts.archived_at.map(|at| at.0),
        }
    }
}

// === impl CreateSandboxResponse ===

impl CreateSandboxResponse {
    /// Makes the answer to a create.
    #[must_use]
    pub fn new(facts: &SandboxFacts<'_>, ingress: &IngressAddress) -> Self {
        let address = facts.address(ingress);
        Self {
            sandbox_id: facts.record.id.to_string(),
            status: facts.status.as_str(),
            name: facts.name(),
            pending_reason: facts.pending_reason(),
            sandbox_url: address.map(|address| address.sandbox_url.clone()),
            ingress_endpoint: address.map(|address| address.ingress_endpoint.clone()),
            reason: facts.end().map(|end| end.outcome().to_string()),
            termination_reason: facts.termination_reason(),
            error_details: facts.error_details(),
        }
    }

    /// Makes the answer about a copy, of which clients know no other reason than `reason`.
    #[must_use]
    pub fn of_copy(facts: &SandboxFacts<'_>, ingress: &IngressAddress) -> Self {
        let mut made = Self::new(facts, ingress);
        made.reason = made.reason.or_else(|| made.pending_reason.map(str::to_owned));
        made
    }
}

/// Names the container of a sandbox in a pool, claimed or not: for ever the same.
pub(super) fn container_id(sandbox: &SandboxId) -> String {
    format!("container_{sandbox}")
}

impl From<Resources> for ResourcesInfo {
    fn from(resources: Resources) -> Self {
        let disk_mb = resources.disk.mib();
        Self {
            cpus: resources.cpu.cpus(),
            memory_mb: resources.memory.mib(),
            disk_mb,
            ephemeral_disk_mb: disk_mb,
            gpus: resources.gpus.map(GpuInfo::from).into_iter().collect(),
        }
    }
}

impl From<Gpus> for GpuInfo {
    fn from(gpus: Gpus) -> Self {
        Self { count: gpus.count, model: gpus.model.to_string() }
    }
}

impl From<&Resize> for ResizeInfo {
    fn from(resize: &Resize) -> Self {
        let error_message = match &resize.outcome {
            ResizeOutcome::Failed { message } => Some(message.clone()),
            ResizeOutcome::Pending | ResizeOutcome::Succeeded => None,
        };
        Self {
            generation: resize.generation.0,
            requested: resize.requested.into(),
            status: resize.outcome.as_str(),
            error_message,
        }
    }
}

impl From<&EgressPolicy> for NetworkConfig {
    fn from(policy: &EgressPolicy) -> Self {
        let texts =
            |list: &[EgressEntry]| list.iter().map(|entry| entry.as_str().to_owned()).collect();
        Self {
            allow_internet_access: policy.allow_internet_access,
            allow_out: texts(&policy.allow_out),
            deny_out: texts(&policy.deny_out),
        }
    }
}

#[cfg(test)]
mod tests;
