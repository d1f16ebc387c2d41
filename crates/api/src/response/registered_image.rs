//! Registered images as the clients of both families read them (spec 06 §2, §3).

use serde::{Deserialize, Serialize};
use tarn_types::{ImageFamily, ImageRecord, TemplateId, UnixMillis};
use utoipa::ToSchema;

use super::platform::rfc3339;

/// An image as the CAS family shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = CasImage)]
pub struct CasImageBody {
    /// Its id, `image_…`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its files.
    pub snapshot_id: String,
    /// Whether its name counts in all projects.
    pub global: bool,
    /// The bytes that its files occupy, beside the image that it was built on.
    pub physical_size_bytes: u64,
    /// The size of its disk, and so the least that a sandbox made from it has.
    pub logical_size_bytes: u64,
    /// When the name was first given to an image of the project, in RFC 3339.
    pub created_at: String,
    /// When it was last given to one, in RFC 3339.
    pub updated_at: String,
}

/// A page of images, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CasImageList {
    /// The images that the project made through this family.
    pub items: Vec<CasImageBody>,
    /// Where the next page is.
    pub pagination: NextPage,
}

/// Where the next page is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NextPage {
    /// For the CAS family the next `cursor`, for the other the next path; absent at the oldest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Which image has a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CasImageId {
    /// Its id, `image_…`.
    pub image_id: String,
}

/// An image as the legacy family shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SandboxTemplate)]
pub struct TemplateBody {
    /// Its id, `sandbox_template_…`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its files.
    pub snapshot_id: String,
    /// What those were taken of.
    pub snapshot_sandbox_id: String,
    /// Its files again, as a URI.
    pub snapshot_uri: String,
    /// The bytes that its files occupy, beside the image that it was built on.
    pub snapshot_size_bytes: u64,
    /// The size of its disk, and so the least that a sandbox made from it has.
    pub rootfs_disk_bytes: u64,
    /// Whether its name counts in all projects.
    pub public: bool,
    /// The text that it was made by; empty if none was given.
    pub dockerfile: String,
    /// When the name was first given to an image of the project, in RFC 3339.
    pub created_at: String,
    /// When it was last given to one, in RFC 3339.
    pub updated_at: String,
}

/// A page of images, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = SandboxTemplateList)]
pub struct TemplateList {
    /// The images that the project made through this family.
    pub items: Vec<TemplateBody>,
    /// Where the next page is.
    pub pagination: NextPage,
}

// === impl CasImageBody ===

impl CasImageBody {
    /// Makes the answer about one image.
    #[must_use]
    pub fn new(record: &ImageRecord) -> Self {
        Self {
            id: record.id.to_string(),
            name: record.name.to_string(),
            snapshot_id: record.snapshot.to_string(),
            global: record.global,
            physical_size_bytes: record.size.bytes(),
            logical_size_bytes: record.disk.bytes(),
            created_at: time(record.created_at),
            updated_at: time(record.updated_at),
        }
    }
}

// === impl TemplateBody ===

impl TemplateBody {
    /// Makes the answer about one image.
    #[must_use]
    pub fn new(record: &ImageRecord) -> Self {
        Self {
            id: TemplateId::new(ImageFamily::Legacy, record.id.clone()).to_string(),
            name: record.name.to_string(),
            snapshot_id: record.snapshot.to_string(),
            snapshot_sandbox_id: record.sandbox.to_string(),
            snapshot_uri: format!("snapshot://{}", record.snapshot),
            snapshot_size_bytes: record.size.bytes(),
            rootfs_disk_bytes: record.disk.bytes(),
            public: record.global,
            dockerfile: record.dockerfile.clone().unwrap_or_default(),
            created_at: time(record.created_at),
            updated_at: time(record.updated_at),
        }
    }
}

/// Writes a time; clients demand one, and every stored one is of some calendar.
fn time(at: UnixMillis) -> String {
    rfc3339(at).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tarn_types::{ByteSize, ImageId, ProjectId, SandboxId, SnapshotId};

    use super::*;

    #[test]
    fn both_families_show_the_same_image() {
        let record = ImageRecord {
            id: ImageId::from_random([1; 16]),
            project: ProjectId::from_random([2; 16]),
            global: false,
            name: "team/app".parse().expect("a name"),
            family: ImageFamily::Cas,
            snapshot: SnapshotId::from_random([3; 16]),
            sandbox: SandboxId::from_random([4; 21]),
            config: None,
            dockerfile: None,
            size: ByteSize::from_bytes(7),
            disk: ByteSize::from_bytes(9),
            created_at: UnixMillis(0),
            updated_at: UnixMillis(1),
        };
        let (created, updated) = ("1970-01-01T00:00:00.000Z", "1970-01-01T00:00:00.001Z");
        assert_eq!(
            json!(CasImageBody::new(&record)),
            json!({"id": "image_1111111111111111", "name": "team/app",
                "snapshot_id": "snap_3333333333333333", "global": false,
                "physical_size_bytes": 7, "logical_size_bytes": 9,
                "created_at": created, "updated_at": updated})
        );
        assert_eq!(
            json!(TemplateBody::new(&record)),
            json!({"id": "sandbox_template_1111111111111111", "name": "team/app",
                "snapshotId": "snap_3333333333333333",
                "snapshotSandboxId": "444444444444444444444",
                "snapshotUri": "snapshot://snap_3333333333333333",
                "snapshotSizeBytes": 7, "rootfsDiskBytes": 9, "public": false, "dockerfile": "",
                "createdAt": created, "updatedAt": updated})
        );
    }
}
