//! Builds of images (spec 06 §2): what is asked, and where one is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    BuildId, ImageFamily, ImageName, ProjectId, Resources, SandboxId, SnapshotId, UnixMillis,
};

/// What an image is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BuildKind {
    /// A Dockerfile and its context.
    Dockerfile {
        /// The path of the Dockerfile in the context.
        path: String,
        /// Values of its arguments.
        args: BTreeMap<String, String>,
    },
    /// An image of a registry, as it is.
    Import {
        /// Its reference.
        reference: String,
    },
}

/// Where a build is in its life. What ended stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildStatus {
    /// Its context is awaited. Leaves to running or cancelled.
    Pending,
    /// It runs. Leaves to one of the others.
    Running,
    /// Its image is registered.
    Succeeded,
    /// There is no image; the error says why.
    Failed,
    /// Somebody did not want it any more, or nobody sent its context.
    Cancelled,
}

/// What a build is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildPhase {
    /// Its context is to be sent and sealed.
    AwaitingContext,
    /// Its context is read, and its first base looked for.
    StartingBuilder,
    /// Its steps are done.
    Executing,
    /// Its files are kept.
    Snapshotting,
    /// Its image is registered; one of the legacy family waits here until its client completes it.
    Publishing,
    /// Nothing more.
    Finished,
}

/// All that is stored of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// Its id.
    pub id: BuildId,
    /// The project it belongs to.
    pub project: ProjectId,
    /// What the caller names the request by: the same again is the same build.
    pub request_id: Option<String>,
    /// What the image is made from.
    pub kind: BuildKind,
    /// The name that the image is to have.
    pub name: ImageName,
    /// Whether that name is to count in every project.
    pub global: bool,
    /// Through which family of the API it was asked for.
    #[serde(default)]
    pub family: ImageFamily,
    /// What the sandboxes have that it runs in; the disk is the image's, too.
    pub resources: Resources,
    /// Where it is.
    pub status: BuildStatus,
    /// What it is at.
    pub phase: BuildPhase,
    /// What the upload of the context must show; `None` = there is none, or no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_token: Option<String>,
    /// The sandbox that tells its log, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_sandbox: Option<SandboxId>,
    /// The sandboxes that it began, for whoever has to clean up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sandboxes: Vec<SandboxId>,
    /// Why there is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The image as it was registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<crate::ImageRecord>,
    /// When it was asked for.
    pub created_at: UnixMillis,
    /// When it last changed.
    pub updated_at: UnixMillis,
    /// When it is given up.
    pub deadline: UnixMillis,
}

/// What a step of a build led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptStep {
    /// Whose it is.
    pub project: ProjectId,
    /// What it is known by, in hex.
    pub key: String,
    /// The files.
    pub snapshot: SnapshotId,
    /// When a build last used it.
    pub used_at: UnixMillis,
}

// === impl BuildKind ===

impl BuildKind {
    /// Returns the word on the wire.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Dockerfile { .. } => "dockerfile",
            Self::Import { .. } => "import",
        }
    }
}

// === impl BuildStatus ===

impl BuildStatus {
    /// Returns the word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Says whether nothing more becomes of it.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Pending | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
        }
    }
}

// === impl BuildPhase ===

impl BuildPhase {
    /// Returns the word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AwaitingContext => "awaiting_context",
            Self::StartingBuilder => "starting_builder",
            Self::Executing => "executing",
            Self::Snapshotting => "snapshotting",
            Self::Publishing => "publishing",
            Self::Finished => "finished",
        }
    }
}
