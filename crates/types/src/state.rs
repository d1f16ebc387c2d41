//! The words for where a sandbox is in its life (spec 01 §6).

use std::fmt;

use serde::{Deserialize, Serialize};

/// The public status of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxStatus {
    /// Queued or booting. Owned by control, then by its node. Leaves to running or terminated.
    Pending,
    /// Usable. Owned by its node. Leaves to terminated.
    Running,
    /// Capturing a snapshot; returns to running by itself.
    Snapshotting,
    /// On the way to suspended.
    Suspending,
    /// No compute, state kept.
    Suspended,
    /// Final.
    Terminated,
}

/// Why a sandbox is still pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PendingReason {
    /// No scheduling pass has seen it yet.
    Scheduling,
    /// Its node is building it.
    WaitingForContainer,
    /// No node is there at all.
    NoExecutorsAvailable,
    /// No node has room.
    NoResourcesAvailable,
    /// The node that has its snapshot is not there.
    NoExecutorForSnapshotLocation,
    /// Its pool has as many containers as it may.
    PoolAtCapacity,
    /// Its project has as many sandboxes as it may.
    MaxCapacityReached,
}

/// The step of a start that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailedStep {
    /// Finding the image's template.
    Image,
    /// Making and mounting the writable layer.
    Layer,
    /// Claiming the network slot and installing the policy.
    Slot,
    /// Creating the sandbox in the runtime.
    Create,
    /// Starting it.
    Start,
    /// Waiting for the daemon to answer.
    Daemon,
    /// Giving the sandbox its identity, environment and entrypoint.
    Init,
    /// Finding the snapshot, and whether it can be restored here.
    Snapshot,
    /// Restoring its memory and processes in the runtime.
    Restore,
    /// Giving it its GPUs.
    Gpu,
}

/// Who is to blame for a start that failed; fixes `termination_reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartFailure {
    /// The image vanished or cannot be used.
    Image,
    /// Entrypoint, user or mount of the request cannot be used.
    Configuration,
    /// Our fault.
    Internal,
}

/// Why a sandbox ended; `Outcome` and `TerminationReason` are pure functions of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum EndCause {
    /// A DELETE while it ran.
    Deleted,
    /// A DELETE before it ran.
    Cancelled,
    /// Its time limit.
    TimedOut,
    /// `max_pending_secs` passed without room.
    NoCapacity,
    /// Its start failed.
    StartFailed {
        /// The step that failed.
        step: FailedStep,
        /// Who is to blame.
        failure: StartFailure,
        /// What happened, and what to do; shown to the caller.
        message: String,
    },
    /// The whole sandbox ran out of memory.
    OutOfMemory,
    /// The runtime ended under it.
    RuntimeDied {
        /// A stable word for the reason, such as `host_restarted`.
        reason: String,
    },
    /// Its node is lost for good.
    NodeLost,
}

/// The public `outcome` of a terminated sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// `Success(UserTerminated)`.
    UserTerminated,
    /// `Success(Timeout)`.
    Timeout,
    /// `Failure(ConstraintUnsatisfiable)`.
    ConstraintUnsatisfiable,
    /// `Failure(ContainerStartupFailed)`.
    ContainerStartupFailed,
    /// `Failure(OutOfMemory)`.
    OutOfMemory,
    /// `Failure(ContainerTerminated(<reason>))`.
    ContainerTerminated(String),
    /// `Failure(ExecutorRemoved)`.
    ExecutorRemoved,
}

/// The public `termination_reason` of a terminated sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TerminationReason {
    /// `no_capacity`.
    NoCapacity,
    /// `cancelled`.
    Cancelled,
    /// `ImageNotFound`.
    ImageNotFound,
    /// `ConfigurationError`.
    ConfigurationError,
    /// `StartupFailedInternalError`.
    StartupFailedInternalError,
}

// === impl SandboxStatus ===

impl SandboxStatus {
    /// Every status, in the order of a life.
    pub const ALL: [Self; 6] = [
        Self::Pending,
        Self::Running,
        Self::Snapshotting,
        Self::Suspending,
        Self::Suspended,
        Self::Terminated,
    ];

    /// Returns the word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Snapshotting => "snapshotting",
            Self::Suspending => "suspending",
            Self::Suspended => "suspended",
            Self::Terminated => "terminated",
        }
    }

    /// Finds the status a wire word means.
    #[must_use]
    pub fn from_wire(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// Says whether nothing can follow.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Terminated)
    }
}

// === impl PendingReason ===

impl PendingReason {
    /// Returns the word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduling => "scheduling",
            Self::WaitingForContainer => "waiting_for_container",
            Self::NoExecutorsAvailable => "no_executors_available",
            Self::NoResourcesAvailable => "no_resources_available",
            Self::NoExecutorForSnapshotLocation => "no_executor_for_snapshot_location",
            Self::PoolAtCapacity => "pool_at_capacity",
            Self::MaxCapacityReached => "max_capacity_reached",
        }
    }
}

// === impl FailedStep ===

impl fmt::Display for FailedStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "image",
            Self::Layer => "layer",
            Self::Slot => "network slot",
            Self::Create => "runtime create",
            Self::Start => "runtime start",
            Self::Daemon => "daemon",
            Self::Init => "init",
            Self::Snapshot => "snapshot",
            Self::Restore => "runtime restore",
            Self::Gpu => "GPU",
        })
    }
}

// === impl EndCause ===

impl EndCause {
    /// Returns the public outcome (the mapping of spec 01 §6).
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Deleted | Self::Cancelled => Outcome::UserTerminated,
            Self::TimedOut => Outcome::Timeout,
            Self::NoCapacity => Outcome::ConstraintUnsatisfiable,
            Self::StartFailed { .. } => Outcome::ContainerStartupFailed,
            Self::OutOfMemory => Outcome::OutOfMemory,
            Self::RuntimeDied { reason } => Outcome::ContainerTerminated(reason.clone()),
            Self::NodeLost => Outcome::ExecutorRemoved,
        }
    }

    /// Returns the public termination reason (the mapping of spec 01 §6).
    #[must_use]
    pub fn termination_reason(&self) -> Option<TerminationReason> {
        match self {
            Self::Cancelled => Some(TerminationReason::Cancelled),
            Self::NoCapacity => Some(TerminationReason::NoCapacity),
            Self::StartFailed { failure, .. } => Some(match failure {
                StartFailure::Image => TerminationReason::ImageNotFound,
                StartFailure::Configuration => TerminationReason::ConfigurationError,
                StartFailure::Internal => TerminationReason::StartupFailedInternalError,
            }),
            Self::Deleted
            | Self::TimedOut
            | Self::OutOfMemory
            | Self::RuntimeDied { .. }
            | Self::NodeLost => None,
        }
    }

    /// Returns the text for `error_details.message`, for the causes that are errors.
    #[must_use]
    pub fn error_message(&self) -> Option<String> {
        match self {
            Self::StartFailed { step, message, .. } => Some(format!("{step}: {message}")),
            Self::NoCapacity => Some(
                "no node had room within max_pending_secs; ask for less, wait longer, or end other sandboxes".to_owned(),
            ),
            Self::OutOfMemory => Some("the sandbox used more than its memory limit".to_owned()),
            Self::RuntimeDied { reason } => Some(format!("the sandbox's runtime ended: {reason}")),
            Self::NodeLost => Some("the node that ran the sandbox is lost".to_owned()),
            Self::Deleted | Self::Cancelled | Self::TimedOut => None,
        }
    }
}

// === impl Outcome ===

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UserTerminated => f.write_str("Success(UserTerminated)"),
            Self::Timeout => f.write_str("Success(Timeout)"),
            Self::ConstraintUnsatisfiable => f.write_str("Failure(ConstraintUnsatisfiable)"),
            Self::ContainerStartupFailed => f.write_str("Failure(ContainerStartupFailed)"),
            Self::OutOfMemory => f.write_str("Failure(OutOfMemory)"),
            Self::ContainerTerminated(reason) => {
                write!(f, "Failure(ContainerTerminated({reason}))")
            }
            Self::ExecutorRemoved => f.write_str("Failure(ExecutorRemoved)"),
        }
    }
}

// === impl TerminationReason ===

impl TerminationReason {
    /// Returns the word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoCapacity => "no_capacity",
            Self::Cancelled => "cancelled",
            Self::ImageNotFound => "ImageNotFound",
            Self::ConfigurationError => "ConfigurationError",
            Self::StartupFailedInternalError => "StartupFailedInternalError",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_mapping_is_the_table_of_the_spec() {
        let start = |failure| EndCause::StartFailed {
            step: FailedStep::Init,
            failure,
            message: "no such file".to_owned(),
        };
        let table = [
            (EndCause::Deleted, "Success(UserTerminated)", None),
            (EndCause::Cancelled, "Success(UserTerminated)", Some("cancelled")),
            (EndCause::TimedOut, "Success(Timeout)", None),
            (EndCause::NoCapacity, "Failure(ConstraintUnsatisfiable)", Some("no_capacity")),
            (start(StartFailure::Image), "Failure(ContainerStartupFailed)", Some("ImageNotFound")),
            (
                start(StartFailure::Configuration),
                "Failure(ContainerStartupFailed)",
                Some("ConfigurationError"),
            ),
            (
                start(StartFailure::Internal),
                "Failure(ContainerStartupFailed)",
                Some("StartupFailedInternalError"),
            ),
            (EndCause::OutOfMemory, "Failure(OutOfMemory)", None),
            (
                EndCause::RuntimeDied { reason: "host_restarted".to_owned() },
                "Failure(ContainerTerminated(host_restarted))",
                None,
            ),
            (EndCause::NodeLost, "Failure(ExecutorRemoved)", None),
        ];
        for (cause, outcome, reason) in table {
            assert_eq!(cause.outcome().to_string(), outcome);
            assert_eq!(cause.termination_reason().map(TerminationReason::as_str), reason);
        }
    }

    #[test]
    fn wire_words_round_trip() {
        for status in SandboxStatus::ALL {
            assert_eq!(SandboxStatus::from_wire(status.as_str()), Some(status));
        }
        assert_eq!(SandboxStatus::from_wire("Running"), None);
    }
}
