//! Snapshots: what a sandbox was at one moment, kept for ever unless deleted (spec 02).

use serde::{Deserialize, Serialize};

use crate::{
    BootImage, ByteSize, NodeId, ProjectId, Resources, SandboxId, SecretName, SnapshotId,
    UnixMillis,
};

/// What a snapshot holds, and so how a sandbox begins that is restored from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotKind {
    /// The files. What is restored from it boots.
    Filesystem,
    /// Files, memory and processes. What is restored from it goes on.
    Memory,
}

/// Where a snapshot is in its life, as clients see it (spec 02 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotStatus {
    /// Being captured.
    InProgress,
    /// Durable on its node; may be restored from.
    LocalReady,
    /// Durable where it is to stay: in the object store, or with none on its node.
    Completed,
    /// Not taken, or found damaged (then it has `facts`); its `error` says why.
    Failed,
}

/// How a snapshot is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As fast as the disk allows: somebody waits.
    Full,
    /// With rests, so that sandboxes do not feel it.
    Background,
}

/// What something outlasts that is said to be there: a snapshot, a change of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lasting {
    /// A restart of the host and a power cut, from when it is said to be there.
    Always,
    /// The server at first, and a restart of the host only later: what needs it is quick, or has
    /// ended then as well.
    Boot,
}

/// From what a sandbox is made in place of its image alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// What it holds.
    pub kind: SnapshotKind,
}

/// What a sandbox restored from a snapshot has unless the request says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// The image below the files.
    pub image: BootImage,
    /// The shape.
    pub resources: Resources,
    /// The command that was run at start.
    pub entrypoint: Option<Vec<String>>,
    /// The secrets that its processes got.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secret_names: Vec<SecretName>,
}

/// What a finished capture took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureFacts {
    /// The bytes it occupies: the allocated part of the layer, and the memory.
    pub size: ByteSize,
    /// The allocated bytes of the layer alone.
    pub layer: ByteSize,
    /// How long the source stood still, in microseconds.
    pub standstill_micros: u64,
}

/// What is in the object store of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Archival {
    /// Nothing: no upload was ever ordered.
    #[default]
    Nothing,
    /// An upload was ordered: nothing, a part, or all of it.
    Begun,
    /// All of it.
    Whole {
        /// Where its manifest is.
        uri: String,
    },
}

/// What a finished upload did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveFacts {
    /// Where the snapshot's manifest is.
    pub uri: String,
    /// The bytes of the snapshot that are not holes.
    pub size: ByteSize,
    /// The bytes that were sent: less what the object store had already.
    pub sent: ByteSize,
}

/// All that is stored of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// Its id.
    pub id: SnapshotId,
    /// The project it belongs to.
    pub project: ProjectId,
    /// What it was taken of; that may have ended long ago.
    pub sandbox: SandboxId,
    /// The node that has it.
    pub node: NodeId,
    /// When it was asked for.
    pub created_at: UnixMillis,
    /// What it holds.
    pub kind: SnapshotKind,
    /// Where it is in its life.
    pub status: SnapshotStatus,
    /// Nobody is shown it, because it was made for a copy or an image, or was deleted. It is
    /// removed as soon as no image is made of it and no sandbox is pending that is restored from
    /// it.
    pub hidden: bool,
    /// What a restored sandbox has by default.
    pub captured: Captured,
    /// What the capture took; set once it succeeded.
    pub facts: Option<CaptureFacts>,
    /// Why it failed, or what of it is damaged.
    pub error: Option<String>,
    /// What is in the object store of it.
    #[serde(default, skip_serializing_if = "Archival::is_nothing")]
    pub archive: Archival,
    /// When all of it was last read and compared with what was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<UnixMillis>,
    /// Grows with every change of the record; updates compare and set on it.
    pub sequence: u64,
}

// === impl SnapshotKind ===

impl SnapshotKind {
    /// Returns the word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Filesystem => "filesystem",
            Self::Memory => "memory",
        }
    }
}

// === impl SnapshotStatus ===

impl SnapshotStatus {
    /// Returns the word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::LocalReady => "local_ready",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    /// Says whether a sandbox can be restored from it.
    #[must_use]
    pub const fn is_ready(self) -> bool {
        match self {
            Self::LocalReady | Self::Completed => true,
            Self::InProgress | Self::Failed => false,
        }
    }
}

// === impl Archival ===

impl Archival {
    const fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }
}

// === impl SnapshotRecord ===

impl SnapshotRecord {
    /// Says whether somebody must still look after it: finish it, put it into the object store, or
    /// remove it unless an image is made of it.
    #[must_use]
    pub const fn is_unsettled(&self) -> bool {
        self.hidden || self.is_on_the_way()
    }

    /// Says whether it is not yet where it is to stay.
    #[must_use]
    pub const fn is_on_the_way(&self) -> bool {
        match self.status {
            SnapshotStatus::InProgress | SnapshotStatus::LocalReady => true,
            SnapshotStatus::Completed => matches!(self.archive, Archival::Begun),
            SnapshotStatus::Failed => false,
        }
    }
}
