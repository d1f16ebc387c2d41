//! The contract between control and a node.
//!
//! Control says "be at generation g with this intent" ([`Node::apply`], idempotent); a node says
//! where a sandbox is, and at which generation ([`ReportSink::report`]). Older generations are
//! refused on both sides, so late, doubled and reordered messages are harmless. In one process
//! both sides are the same code behind the same traits, without sockets.

use std::{collections::BTreeSet, net::SocketAddr};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tarn_types::{
    ArchiveFacts, BootImage, ByteSize, CaptureFacts, Captured, DaemonToken, EndCause, ErrorClass,
    Generation, GpuId, GpuModel, GpuStock, ImageDigest, Lasting, Launch, LogBatch, MilliCpu,
    NetworkLog, NodeId, Observed, Pace, ProjectId, RegistryLogin, Resources, SandboxId, SecretName,
    SecretValue, SnapshotId, SnapshotKind,
};
use thiserror::Error;

/// What a node must bring about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeIntent {
    /// The sandbox.
    pub id: SandboxId,
    /// Whose it is.
    pub project: ProjectId,
    /// The intent's generation.
    pub generation: Generation,
    /// What to do.
    pub target: NodeTarget,
}

/// Where a node must bring a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "target", rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "few are kept, and most of them are the large one")]
pub enum NodeTarget {
    /// It runs with these settings; on a running sandbox policy, clock and resources change in
    /// place, and the rest of `Launch` is what it already is. Resources that it could not be given
    /// are told by the report's shape.
    Running(Launch),
    /// It is suspended: no memory, no CPU, all of its state durable. Running again is the next
    /// generation with [`NodeTarget::Running`]; a policy that changed meanwhile is in force before
    /// its next instruction.
    Suspended,
    /// It is gone, for this cause.
    Terminated(EndCause),
}

/// How the ingress reaches a running sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The daemon's address; user ports are on the same host address.
    pub daemon: SocketAddr,
    /// The secret the daemon wants.
    pub token: DaemonToken,
}

/// What a node says about one sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The sandbox.
    pub id: SandboxId,
    /// The node that says so.
    pub node: NodeId,
    /// Where it is, at which generation, since when.
    pub observed: Observed,
    /// How to reach it; there exactly while it is `Running`.
    pub endpoint: Option<Endpoint>,
}

/// What a node has to offer, for placement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// The node.
    pub id: NodeId,
    /// Its CPUs.
    pub cpu: MilliCpu,
    /// CPU quota promised to live sandboxes.
    pub cpu_promised: MilliCpu,
    /// Its memory.
    pub memory: ByteSize,
    /// Memory that is available now, as the kernel counts it.
    pub memory_available: ByteSize,
    /// Starts under way, each of which will still take memory.
    pub starts_in_flight: u32,
    /// Room in its pool.
    pub disk_available: ByteSize,
    /// The size of its pool.
    pub disk: ByteSize,
    /// Whether it takes new sandboxes.
    pub draining: bool,
    /// Its GPUs, each model once.
    pub gpus: Vec<GpuStock>,
}

/// A GPU of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuView {
    /// The device.
    pub id: GpuId,
    /// What its maker calls it.
    pub product: String,
    /// The model by which it is asked for.
    pub model: GpuModel,
    /// Where it is.
    pub state: GpuState,
}

/// Where a GPU is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum GpuState {
    /// It can be given out.
    Free,
    /// This sandbox has it, or is about to.
    Held {
        /// The sandbox.
        by: SandboxId,
    },
    /// Its sandbox has ended, and it is being looked at.
    Returning,
    /// It is given to nobody until the server starts again.
    OutOfUse {
        /// What was found.
        reason: String,
    },
}

// === impl GpuState ===

impl GpuState {
    /// Returns the word for it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Held { .. } => "held",
            Self::Returning => "returning",
            Self::OutOfUse { .. } => "out_of_use",
        }
    }
}

/// Has a node take a snapshot of a running sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureOrder {
    /// The snapshot's id.
    pub snapshot: SnapshotId,
    /// What it is taken of.
    pub sandbox: SandboxId,
    /// What it shall hold.
    pub kind: SnapshotKind,
    /// What it shall outlast.
    pub lasting: Lasting,
    /// How many sandboxes are restored from it at once, as soon as it is there.
    #[serde(default)]
    pub copies: u32,
}

/// What became of a [`CaptureOrder`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureReport {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// What it was taken of.
    pub sandbox: SandboxId,
    /// The node that says so.
    pub node: NodeId,
    /// What the capture took, or why there is none. Success is as durable as was asked.
    pub outcome: Result<CaptureFacts, String>,
}

/// A snapshot that is whole on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldSnapshot {
    /// Its id.
    pub snapshot: SnapshotId,
    /// What it was taken of.
    pub sandbox: SandboxId,
    /// Whose it is.
    pub project: ProjectId,
    /// What it holds.
    pub kind: SnapshotKind,
    /// What a restored sandbox has by default.
    pub captured: Captured,
    /// What the capture took.
    pub facts: CaptureFacts,
}

/// Names a snapshot in the object store of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveOrder {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Whose it is: what is in the object store is encrypted with a key of the project.
    pub project: ProjectId,
}

/// What became of an [`ArchiveOrder`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveReport {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The node that says so.
    pub node: NodeId,
    /// What was sent, or why the snapshot is not in the object store. It may be ordered again.
    pub outcome: Result<ArchiveFacts, String>,
}

/// Which way a transfer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// To the object store.
    Upload,
    /// From it to the node.
    Fetch,
}

/// A transfer between a node and its object store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Which way it goes.
    pub direction: Direction,
    /// Whether it has begun, or waits for its turn.
    pub active: bool,
    /// What is done.
    pub done: ByteSize,
    /// What there is to do; 0 as long as that is not known.
    pub total: ByteSize,
}

/// The object store of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveView {
    /// Where it is, as a URL without secrets.
    pub place: String,
    /// What goes to and comes from it now.
    pub transfers: Vec<Transfer>,
}

/// Says why a node did not take an intent.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// The node already has a newer one.
    #[error("sandbox {id} is at generation {have} on this node, newer than {asked}")]
    Stale {
        /// The sandbox.
        id: SandboxId,
        /// What the node has.
        have: Generation,
        /// What was asked.
        asked: Generation,
    },
    /// The node is shutting down.
    #[error("the node is shutting down")]
    Stopping,
}

/// Says that a snapshot could not be removed.
#[derive(Debug, Error)]
#[error("the snapshot was not removed: {detail}")]
pub struct DiscardError {
    /// What the node says.
    pub detail: String,
}

/// Says why a snapshot is not known to be what was taken.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// The node does not have it.
    #[error("the node does not have it")]
    Missing,
    /// It is not what was taken.
    #[error("it is damaged: {detail}")]
    Damaged {
        /// Which part of it, and how.
        detail: String,
    },
    /// It could not be read to the end; it may be asked again.
    #[error("it cannot be read now: {detail}")]
    Failed {
        /// What the node says.
        detail: String,
    },
}

/// A sandbox of an earlier run that could not be taken over yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfound {
    /// The sandbox.
    pub id: SandboxId,
    /// What is missing, or could not be done.
    pub trouble: String,
}

/// A node, as control sees it.
#[async_trait]
pub trait Node: Send + Sync + 'static {
    /// Returns the node's id.
    fn id(&self) -> &NodeId;

    /// Takes an intent. Returns once it is taken, not once it is brought about: that is reported.
    /// Never waits for the sandbox. The store keeps the intent; a node that forgets it by dying is
    /// told again when it is attached.
    ///
    /// The same generation again does nothing but repeat the last report.
    ///
    /// The GPUs of one that is to run are its own when this returns, as far as they are free:
    /// whoever looks at [`Node::view`] next does not find them there.
    ///
    /// # Errors
    /// Fails when the intent is stale or the node stops.
    async fn apply(&self, intent: NodeIntent) -> Result<(), ApplyError>;

    /// Takes a sandbox that the node has started ahead, if it has one of that image and shape. Its
    /// id is the caller's to create a sandbox under, on this node and in that image and shape.
    async fn reserve(&self, image: &BootImage, resources: &Resources) -> Option<SandboxId>;

    /// Takes what the node has made ready for a restore from a snapshot of memory, if it has. Its
    /// id is the caller's to restore a sandbox under, from that snapshot, on this node.
    async fn reserve_stage(&self, snapshot: &SnapshotId) -> Option<SandboxId>;

    /// Gives back what was reserved for a sandbox that is not created after all.
    async fn give_back(&self, id: &SandboxId);

    /// Says whether a running sandbox can be given other resources there.
    fn resizes(&self) -> bool;

    /// Returns what the node has to offer.
    async fn view(&self) -> NodeView;

    /// Returns every GPU of the node.
    fn gpus(&self) -> Vec<GpuView>;

    /// Returns a report of every sandbox in the ledger, ended ones not yet forgotten included.
    async fn list(&self) -> Vec<Report>;

    /// Drops the ledger entry of an ended sandbox, once control has stored its end.
    async fn forget(&self, id: &SandboxId, generation: Generation);

    /// Freezes a sandbox that control's store does not know, and keeps everything of it.
    ///
    /// An [`Node::apply`] for it ends that.
    async fn orphan(&self, id: &SandboxId);

    /// Takes an order for a snapshot. Returns once it is taken; what became of it is reported to
    /// [`ReportSink::captured`]. The node forgets the order by dying: control then asks
    /// [`Node::snapshots`] whether it was done.
    ///
    /// The same order again, done or under way, does nothing but report what became of it.
    ///
    /// # Errors
    /// Fails when the node stops.
    async fn capture(&self, order: CaptureOrder) -> Result<(), ApplyError>;

    /// Returns every whole snapshot of the node.
    async fn snapshots(&self) -> Vec<HeldSnapshot>;

    /// Reads all of a snapshot and compares it with what was taken; returns how much that was.
    ///
    /// # Errors
    /// Fails when there is none, it is damaged, or it cannot be read.
    async fn verify(&self, snapshot: &SnapshotId, pace: Pace) -> Result<ByteSize, VerifyError>;

    /// Removes a snapshot from the node, whole or being taken, and ends its upload; what was
    /// restored from it goes on. Does nothing when there is none. Returns once it can no longer be
    /// restored from there.
    ///
    /// # Errors
    /// Fails when something of it stays; it may then be tried again.
    async fn discard(&self, snapshot: &SnapshotId) -> Result<(), DiscardError>;

    /// Returns how much a suspended sandbox brings into memory when it goes on; nothing if its
    /// processes are still there, or it boots anew. `None` = not known.
    async fn brings(&self, id: &SandboxId) -> Option<ByteSize>;

    /// Says why the memory of a snapshot that the node has cannot go on there, if it cannot. What
    /// is not known now is no obstacle.
    async fn obstacle(&self, snapshot: &SnapshotId) -> Option<String>;

    /// Says whether the node has an object store: otherwise snapshots stay where they are.
    fn has_archive(&self) -> bool;

    /// Takes an order to put a snapshot into the object store. Returns once it is taken; what
    /// became of it is reported to [`ReportSink::archived`]. The node forgets it by dying.
    ///
    /// The same order again, under way, does nothing; done, it is reported again. A node without an
    /// object store ignores it.
    ///
    /// # Errors
    /// Fails when the node stops.
    async fn archive(&self, order: ArchiveOrder) -> Result<(), ApplyError>;

    /// Takes an order to make what the object store has of a snapshot whole again, from the whole
    /// one on the node. As [`Node::archive`] otherwise.
    ///
    /// # Errors
    /// Fails when the node is stopping.
    async fn mend_archived(&self, order: ArchiveOrder) -> Result<(), ApplyError>;

    /// Reads all of what the object store has of a snapshot and compares it with what was put
    /// there.
    ///
    /// # Errors
    /// Fails when there is none, it is damaged, or it cannot be read.
    async fn verify_archived(&self, order: &ArchiveOrder) -> Result<(), VerifyError>;

    /// Removes a snapshot from the object store, after ending its upload. Does nothing when it is
    /// not there. Returns once it can no longer be fetched.
    ///
    /// # Errors
    /// Says why it may still be there; it may then be tried again.
    async fn remove_archived(&self, order: &ArchiveOrder) -> Result<(), String>;

    /// Returns what is known of the object store; `None` if there is none.
    async fn archive_view(&self) -> Option<ArchiveView>;

    /// Returns what a sandbox did with the network since its last start or resume, or the node's
    /// start. That of one that left the network is kept for a while; `None` is one that has none.
    ///
    /// # Errors
    /// Says why the node cannot tell.
    async fn network_log(&self, id: &SandboxId) -> Result<Option<NetworkLog>, String>;

    /// Returns which images something on the node is made of, or is about to be.
    ///
    /// # Errors
    /// Says why that cannot be known now; then any may be.
    async fn images_in_use(&self) -> Result<BTreeSet<ImageDigest>, String>;

    /// Returns the sandboxes that are orphaned.
    async fn orphans(&self) -> Vec<SandboxId>;

    /// Returns the sandboxes of an earlier run that the node cannot take over now. It leaves them
    /// as they are and goes on trying; their last report stays what it was, without an endpoint.
    async fn unfound(&self) -> Vec<Unfound>;
}

/// Where a node sends its reports.
#[async_trait]
pub trait ReportSink: Send + Sync + 'static {
    /// Takes a report. Returns once it is stored or known to be out of date.
    async fn report(&self, report: Report);

    /// Takes what became of a snapshot. Returns once it is stored or known to be out of date.
    async fn captured(&self, report: CaptureReport);

    /// Takes what became of an upload. Returns once it is stored or known to be out of date.
    async fn archived(&self, report: ArchiveReport);
}

/// Says that lines were not stored; the node keeps them as far as it can and tries again.
#[derive(Debug, Error)]
#[error("the lines were not stored: {detail}")]
pub struct LogSinkError {
    /// What the store said.
    pub detail: String,
}

/// Where a node sends what the processes of its sandboxes print.
#[async_trait]
pub trait LogSink: Send + Sync + 'static {
    /// Takes a batch. Returns once its lines survive the death of the server. A batch that was
    /// taken before, known by its boot and number, is taken again and stored once.
    ///
    /// # Errors
    /// Fails when it cannot be stored now; nothing of it is stored then.
    async fn store(&self, batch: &LogBatch) -> Result<(), LogSinkError>;
}

/// Says that secrets are not known now, or can no longer be read. It holds none.
#[derive(Debug, Error)]
#[error("the secrets cannot be read: {detail}")]
pub struct SecretSourceError {
    /// What was said.
    pub detail: String,
}

/// Where a node asks for the secrets of a sandbox that it boots. It keeps none of them.
#[async_trait]
pub trait SecretSource: Send + Sync + 'static {
    /// Returns the present values of those secrets of a project that there are, each once.
    ///
    /// # Errors
    /// Fails when it cannot be known.
    async fn reveal(
        &self,
        project: &ProjectId,
        names: &[SecretName],
    ) -> Result<Vec<(SecretName, SecretValue)>, SecretSourceError>;

    /// Returns what a project shows to a registry, if anything.
    ///
    /// # Errors
    /// Fails when it cannot be known.
    async fn registry_login(
        &self,
        project: &ProjectId,
        registry: &str,
    ) -> Result<Option<RegistryLogin>, SecretSourceError>;
}

// === impl VerifyError ===

impl VerifyError {
    /// Sorts the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Missing => ErrorClass::NotFound,
            Self::Damaged { .. } => ErrorClass::Internal,
            Self::Failed { .. } => ErrorClass::Unavailable,
        }
    }
}

// === impl ApplyError ===

impl ApplyError {
    /// Sorts the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Stale { .. } => ErrorClass::Conflict,
            Self::Stopping => ErrorClass::Unavailable,
        }
    }
}
