//! Builds of the legacy family as clients see them (spec 06 §3).

use serde::Serialize;
use tarn_types::{BuildRecord, ImageRecord, Resources};
use utoipa::ToSchema;

/// What a client needs to know to have an image built.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SandboxTemplateBuild)]
pub struct TemplateBuildBody {
    /// The build.
    pub build_id: String,
    /// What it will lead to, as long as that has no id of its own: the build's.
    pub snapshot_id: String,
    /// The same as a URI.
    pub snapshot_uri: String,
    /// `base`: what it will lead to needs no other snapshot.
    pub rootfs_node_kind: &'static str,
    /// The sandbox that the client is to create, and what it is to run there.
    pub builder: TemplateBuilder,
    /// The image that it is built on, if that is a registered one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<TemplateParent>,
}

/// The sandbox from which a build is driven.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SandboxTemplateBuilder)]
pub struct TemplateBuilder {
    /// Its image, which is this build's alone.
    pub image: String,
    /// The command; `--spec` and `--metadata-out` follow.
    pub command: String,
    /// Its CPUs, unless the user wants others.
    pub cpus: f64,
    /// Its memory.
    pub memory_mb: u64,
    /// Its disk.
    pub disk_mb: u64,
}

/// The image that another is built on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SandboxTemplateParent)]
pub struct TemplateParent {
    /// Its files.
    pub parent_manifest_uri: String,
    /// The size of its disk, and so the least of what is built on it.
    pub rootfs_disk_bytes: u64,
}

// === impl TemplateBuildBody ===

impl TemplateBuildBody {
    /// Shows a build that awaits its client.
    #[must_use]
    pub fn new(
        record: &BuildRecord,
        image: String,
        command: String,
        parent: Option<&ImageRecord>,
    ) -> Self {
        let Resources { cpu, memory, disk, .. } = record.resources;
        Self {
            build_id: record.id.to_string(),
            snapshot_id: record.id.to_string(),
            snapshot_uri: format!("build://{}", record.id),
            rootfs_node_kind: "base",
            builder: TemplateBuilder {
                image,
                command,
                cpus: cpu.cpus(),
                memory_mb: memory.mib(),
                disk_mb: disk.mib(),
            },
            parent: parent.map(|parent| TemplateParent {
                parent_manifest_uri: format!("snapshot://{}", parent.snapshot),
                rootfs_disk_bytes: parent.disk.bytes(),
            }),
        }
    }
}
