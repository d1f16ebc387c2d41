//! The four fields of a sandbox's state, never merged (design §4).

use serde::{Deserialize, Serialize};

use crate::{
    EndCause, Generation, Launch, NodeId, PendingReason, PoolMember, ProjectId, Resources,
    SandboxId, SandboxSpec, SnapshotId, UnixMillis,
};

/// What control has decided about a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Grows with every change of what the node must do.
    pub generation: Generation,
    /// Where the sandbox should be.
    pub target: Target,
    /// The node that owns it; `None` until placed.
    pub node: Option<NodeId>,
    /// Why it is not placed yet.
    pub pending_reason: Option<PendingReason>,
}

/// Where a sandbox should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "target", rename_all = "snake_case")]
pub enum Target {
    /// It should run.
    Running,
    /// It should take no memory and no CPU, and be able to go on as it was.
    Suspended,
    /// It should be gone, for this cause.
    Terminated(EndCause),
}

/// What a node last reported of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// The intent the node was working on.
    pub generation: Generation,
    /// Where the sandbox is.
    pub phase: ObservedPhase,
    /// When the node saw that.
    pub at: UnixMillis,
    /// Why the node did not bring about what this generation wants: a suspend that failed (and the
    /// sandbox runs on), or a resume that did (and it is suspended still).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Why its processes are frozen although it should run. A report without it takes it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<String>,
    /// What it has at this generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
}

/// What a sandbox has, as its node enforces it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Its resources.
    pub resources: Resources,
    /// Why they are not those that this generation wants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// A change of a running sandbox's resources, and what became of it (spec 01 §9).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resize {
    /// The intent that brought it to the node; what clients wait for.
    pub generation: Generation,
    /// What the sandbox shall have.
    pub requested: Resources,
    /// How far it is.
    pub outcome: ResizeOutcome,
}

/// What became of a [`Resize`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum ResizeOutcome {
    /// Its node has not said yet.
    Pending,
    /// The sandbox has what was asked for.
    Succeeded,
    /// It has not, for this reason.
    Failed {
        /// What happened, and what to do; shown to the caller.
        message: String,
    },
}

/// Where a node says a sandbox is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum ObservedPhase {
    /// Being built.
    Starting,
    /// Serving.
    Running,
    /// On the way to suspended, by its intent or by its idle limit.
    Suspending,
    /// Everything of it is durable, and it does not run.
    Suspended,
    /// Gone from the node, with everything it had there.
    Ended(EndCause),
}

/// All that is stored of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// Its id.
    pub id: SandboxId,
    /// The project it belongs to.
    pub project: ProjectId,
    /// When it was accepted; of one that is claimed from a pool, when it was claimed.
    pub created_at: UnixMillis,
    /// What was asked, with later patches applied.
    pub asked: SandboxSpec,
    /// What was decided.
    pub intent: Intent,
    /// What was reported; `None` until a node reports.
    pub observed: Option<Observed>,
    /// Grows with every change of the record; updates compare and set on it.
    pub sequence: u64,
    /// When it first ran.
    pub running_at: Option<UnixMillis>,
    /// When it ended.
    pub terminated_at: Option<UnixMillis>,
    /// Why it ended; set together with `terminated_at`.
    pub end: Option<EndCause>,
    /// The snapshot that is being taken of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capturing: Option<SnapshotId>,
    /// The pool that it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<PoolMember>,
    /// The last resize that was asked for. Until it succeeds, `asked` has what there was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize: Option<Resize>,
}

// === impl SandboxRecord ===

impl SandboxRecord {
    /// Says whether it waits in a pool to be claimed: as long as it does, nobody sees it.
    #[must_use]
    pub fn is_unclaimed(&self) -> bool {
        self.member.as_ref().is_some_and(|member| member.claimed_at.is_none())
    }

    /// Returns what a node needs to start it.
    #[must_use]
    pub fn launch(&self) -> Launch {
        let claimed_at = self.member.as_ref().and_then(|member| member.claimed_at);
        let resources = match &self.resize {
            Some(resize) if resize.is_pending() => resize.requested,
            Some(_) | None => self.asked.resources,
        };
        Launch { claimed_at, resources, ..self.asked.launch() }
    }

    /// Says whether a resize is under way.
    #[must_use]
    pub fn is_resizing(&self) -> bool {
        self.resize.as_ref().is_some_and(Resize::is_pending)
    }
}

// === impl Resize ===

impl Resize {
    /// Says whether it is not known yet what becomes of it.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.outcome == ResizeOutcome::Pending
    }
}

// === impl ResizeOutcome ===

impl ResizeOutcome {
    /// Returns the word for `resource_resize.status`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Succeeded => "succeeded",
            Self::Failed { .. } => "failed",
        }
    }
}
