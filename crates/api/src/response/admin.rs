//! What the command line reads from the administrative socket.

use serde::{Deserialize, Serialize};
use tarn_types::{KeyId, ProjectId, UnixMillis};
use utoipa::ToSchema;

/// A key just made; its secret is shown this once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewKeyBody {
    /// The key's id, for `tarn key revoke`.
    pub id: String,
    /// The key itself.
    pub key: String,
    /// The id of the project it opens.
    pub project: String,
}

/// A key, without the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyEntry {
    /// Its id.
    pub id: String,
    /// The id of the project it opens.
    pub project: String,
    /// The name of that project.
    pub project_name: String,
    /// When it was made, in milliseconds since the epoch.
    pub created_at: i64,
    /// When it was revoked, in milliseconds since the epoch; null = it opens its project.
    pub revoked_at: Option<i64>,
}

/// All keys, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyList {
    /// The keys.
    pub keys: Vec<KeyEntry>,
}

/// A project, with what it may have and has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdminProject {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made, in milliseconds since the epoch.
    pub created_at: i64,
    /// How many sandboxes it has that are not suspended.
    pub sandboxes: u64,
    /// How many it may have; 0 = any number.
    pub quota: u32,
    /// Whether that is the server's default.
    pub is_default: bool,
}

/// All projects, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdminProjectList {
    /// The projects.
    pub projects: Vec<AdminProject>,
}

/// A sandbox of any project, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdminSandbox {
    /// Its id.
    pub id: String,
    /// Its name, if it is a named one.
    pub name: Option<String>,
    /// The name of its project.
    pub project_name: String,
    /// Its status.
    pub status: String,
    /// Its image.
    pub image: String,
    /// When it was accepted, in milliseconds since the epoch.
    pub created_at: i64,
    /// Why its last suspend or resume came to nothing, or why it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// The sandboxes of all projects, each project's newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdminSandboxList {
    /// The sandboxes.
    pub sandboxes: Vec<AdminSandbox>,
}

/// The sandboxes that a node keeps and does not serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrphanList {
    /// The ids of those that the store does not know: frozen and kept.
    pub orphans: Vec<String>,
    /// Those of an earlier run that the node cannot take over yet: left as they are.
    #[serde(default)]
    pub unfound: Vec<UnfoundSandbox>,
}

/// The GPUs of all nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdminGpuList {
    /// The GPUs, as their drivers name them.
    pub gpus: Vec<AdminGpu>,
}

/// A GPU of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdminGpu {
    /// The name that its driver gives it.
    pub id: String,
    /// The model by which it is asked for.
    pub model: String,
    /// What its maker calls it.
    pub product: String,
    /// `free`, `held`, `returning` or `out_of_use`.
    pub state: String,
    /// The sandbox that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<String>,
    /// Why it is out of use. Once that is mended, a start of the server takes it in again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What reading all of a snapshot led to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotVerdict {
    /// The snapshot.
    pub snapshot_id: String,
    /// Whether it is what was taken.
    pub ok: bool,
    /// How many bytes of it were read, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_read: Option<u64>,
    /// Which part of it is damaged, and how. It cannot be restored any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// A sandbox of an earlier run that the node cannot take over yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnfoundSandbox {
    /// Its id.
    pub id: String,
    /// What is missing, or could not be done.
    pub trouble: String,
}

// === impl NewKeyBody ===

impl std::fmt::Debug for NewKeyBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKeyBody").field("id", &self.id).finish_non_exhaustive()
    }
}

// === impl KeyEntry ===

impl KeyEntry {
    /// Makes the entry of one key.
    #[must_use]
    pub fn new(
        id: &KeyId,
        project: &ProjectId,
        project_name: &str,
        created_at: UnixMillis,
        revoked_at: Option<UnixMillis>,
    ) -> Self {
        Self {
            id: id.to_string(),
            project: project.to_string(),
            project_name: project_name.to_owned(),
            created_at: created_at.0,
            revoked_at: revoked_at.map(|at| at.0),
        }
    }
}
