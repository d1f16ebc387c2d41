//! Snapshots and copies as the clients read them (spec 02 §2, §3, §5).

use serde::{Deserialize, Serialize};
use tarn_types::{Archival, SnapshotRecord};
use utoipa::ToSchema;

use super::CreateSandboxResponse;

/// A snapshot that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreateSnapshotResponse {
    /// Its id.
    pub snapshot_id: String,
    /// `in_progress`.
    pub status: String,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotInfo {
    /// Its id. Never `snapshot_id` beside it: the clients hold that for a duplicate.
    pub id: String,
    /// The name of its project.
    pub namespace: String,
    /// What it was taken of; that may have ended long ago.
    pub sandbox_id: String,
    /// `in_progress`, `local_ready`, `completed` or `failed`.
    pub status: String,
    /// `filesystem` or `memory`.
    pub snapshot_type: String,
    /// The image below its files.
    pub base_image: String,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The bytes it occupies, once it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Where in the object store it is, once it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_uri: Option<String>,
    /// The size of its disk, and so the least that a restored sandbox may have.
    pub rootfs_disk_bytes: u64,
    /// When it was asked for, in milliseconds since the epoch.
    pub created_at: i64,
}

/// Snapshots, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotList {
    /// All of them, failed ones too.
    pub snapshots: Vec<SnapshotInfo>,
}

/// What goes to and comes from the object store, and what failed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct TransferList {
    /// Where the object store is; absent if snapshots stay on their node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_store: Option<String>,
    /// What waits for its turn, and what goes on.
    pub transfers: Vec<TransferEntry>,
    /// What failed the last time, and is tried again.
    pub troubles: Vec<TransferTrouble>,
}

/// A transfer to or from the object store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransferEntry {
    /// The snapshot's id.
    pub snapshot_id: String,
    /// `upload` or `fetch`.
    pub direction: String,
    /// `queued` or `active`.
    pub state: String,
    /// The bytes of the snapshot that are done.
    pub done_bytes: u64,
    /// All of them; 0 as long as that is not known.
    pub total_bytes: u64,
}

/// A snapshot that the object store did not take, or a deleted one that it still has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransferTrouble {
    /// The snapshot's id.
    pub snapshot_id: String,
    /// `upload` or `removal`.
    pub attempt: String,
    /// How often it failed in a row.
    pub failures: u32,
    /// Why, the last time.
    pub error: String,
}

/// What became of a copy.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CopySandboxResponse {
    /// What was copied.
    pub source_sandbox_id: String,
    /// The copies, each with its own status.
    pub sandboxes: Vec<CreateSandboxResponse>,
}

// === impl CreateSnapshotResponse ===

impl From<&SnapshotRecord> for CreateSnapshotResponse {
    fn from(record: &SnapshotRecord) -> Self {
        Self { snapshot_id: record.id.to_string(), status: record.status.as_str().to_owned() }
    }
}

// === impl SnapshotInfo ===

impl SnapshotInfo {
    /// Makes the answer about one snapshot of the project of that name.
    #[must_use]
    pub fn new(record: &SnapshotRecord, namespace: &str) -> Self {
        Self {
            id: record.id.to_string(),
            namespace: namespace.to_owned(),
            sandbox_id: record.sandbox.to_string(),
            status: record.status.as_str().to_owned(),
            snapshot_type: record.kind.as_str().to_owned(),
            base_image: record.captured.image.to_string(),
            error: record.error.clone(),
            size_bytes: record.facts.map(|facts| facts.size.bytes()),
            snapshot_uri: match &record.archive {
                Archival::Whole { uri } => Some(uri.clone()),
                Archival::Nothing | Archival::Begun => None,
            },
            rootfs_disk_bytes: record.captured.resources.disk.bytes(),
            created_at: record.created_at.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tarn_types::{
        ByteSize, CaptureFacts, Captured, NodeId, ProjectId, Resources, SandboxId, SnapshotId,
        SnapshotKind, SnapshotStatus, UnixMillis,
    };

    use super::*;

    fn record() -> SnapshotRecord {
        SnapshotRecord {
            id: SnapshotId::from_random([4; 16]),
            project: ProjectId::from_random([2; 16]),
            sandbox: SandboxId::from_random([1; 21]),
            node: NodeId::from_random([3; 16]),
            created_at: UnixMillis(1_700_000_000_000),
            kind: SnapshotKind::Memory,
            status: SnapshotStatus::InProgress,
            hidden: false,
            captured: Captured {
                image: "tensorlake/ubuntu-minimal".parse().expect("a good name"),
                resources: Resources::default(),
                entrypoint: None,
                secret_names: Vec::new(),
            },
            facts: None,
            error: None,
            archive: Archival::Nothing,
            verified_at: None,
            sequence: 1,
        }
    }

    #[test]
    fn a_snapshot_has_these_bytes() {
        let expected = json!({
            "id": "snap_4444444444444444", "namespace": "default",
            "sandbox_id": "111111111111111111111", "status": "in_progress",
            "snapshot_type": "memory", "base_image": "tensorlake/ubuntu-minimal",
            "rootfs_disk_bytes": 10_737_418_240_u64, "created_at": 1_700_000_000_000_i64,
        });
        assert_eq!(json!(SnapshotInfo::new(&record(), "default")), expected);
        assert_eq!(
            json!(CreateSnapshotResponse::from(&record())),
            json!({"snapshot_id": "snap_4444444444444444", "status": "in_progress"})
        );
    }

    #[test]
    fn size_and_error_show_once_they_are_known() {
        let facts = CaptureFacts {
            size: ByteSize::from_mib(3),
            layer: ByteSize::from_mib(1),
            standstill_micros: 9,
        };
        let status = SnapshotStatus::Completed;
        let taken = SnapshotRecord { status, facts: Some(facts), ..record() };
        let taken = json!(SnapshotInfo::new(&taken, "default"));
        assert_eq!(
            (&taken["status"], &taken["size_bytes"]),
            (&json!("completed"), &json!(3 << 20))
        );
        assert!(taken.get("snapshot_uri").is_none(), "it is on its node alone");
        let archive = Archival::Whole { uri: "s3://bucket/snap".to_owned() };
        let kept = SnapshotRecord { status, facts: Some(facts), archive, ..record() };
        let kept = json!(SnapshotInfo::new(&kept, "default"));
        assert_eq!(kept["snapshot_uri"], json!("s3://bucket/snap"));
        let status = SnapshotStatus::Failed;
        let failed = SnapshotRecord { status, error: Some("no room".to_owned()), ..record() };
        let failed = json!(SnapshotInfo::new(&failed, "default"));
        assert_eq!((&failed["status"], &failed["error"]), (&json!("failed"), &json!("no room")));
    }
}
