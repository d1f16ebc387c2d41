//! Builds as clients see them (spec 06 §2).

use serde::Serialize;
use tarn_types::BuildRecord;
use utoipa::ToSchema;

use super::registered_image::CasImageBody;

/// A build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct BuildBody {
    /// Its id.
    pub build_id: String,
    /// `pending`, `running`, `succeeded`, `failed`, `cancelled`.
    pub status: &'static str,
    /// `awaiting_context`, `starting_builder`, `executing`, `snapshotting`, `publishing`,
    /// `finished`.
    pub phase: &'static str,
    /// `dockerfile` or `import`.
    pub kind: &'static str,
    /// The name that the image is to have.
    pub name: String,
    /// Which try it is: always the first.
    pub attempt_no: u32,
    /// The key of the request that began it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_request_id: Option<String>,
    /// The sandbox one of whose processes tells the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub builder_sandbox_id: Option<String>,
    /// Why there is no image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The image as it was registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<CasImageBody>,
    /// The id of that image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    /// When it is given up, in milliseconds since the epoch.
    pub operation_deadline_ms: i64,
    /// When it was asked for, in milliseconds since the epoch.
    pub created_at_ms: i64,
    /// When it last changed, in milliseconds since the epoch.
    pub updated_at_ms: i64,
    /// Where its context goes, as long as it is awaited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_upload: Option<ContextUpload>,
}

/// Where a context goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ContextUpload {
    /// The URL, which needs no key.
    pub url: String,
    /// The method.
    pub method: &'static str,
    /// The most that is taken.
    pub max_bytes: u64,
}

/// Why a build is not begun: the image is being built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct BuildConflict {
    /// `image_build_in_progress`.
    pub code: &'static str,
    /// What happened, and what to do.
    pub message: String,
    /// The same text, where other errors have it.
    pub error: String,
    /// The image.
    pub image_name: String,
    /// The build that is under way.
    pub active_build_id: String,
    /// Its kind.
    pub active_kind: &'static str,
    /// Its status.
    pub active_status: &'static str,
}

/// What became of a wish to cancel a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct BuildCancelled {
    /// `cancelled`, `already_cancelled`, `already_completed`, `already_failed`, `not_admitted`.
    pub outcome: &'static str,
    /// The build, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildBody>,
}

// === impl BuildBody ===

impl BuildBody {
    /// Shows a build; `upload` is there as long as its context is awaited.
    #[must_use]
    pub fn new(record: &BuildRecord, context_upload: Option<ContextUpload>) -> Self {
        Self {
            build_id: record.id.to_string(),
            status: record.status.as_str(),
            phase: record.phase.as_str(),
            kind: record.kind.as_str(),
            name: record.name.to_string(),
            attempt_no: 1,
            client_request_id: record.request_id.clone(),
            builder_sandbox_id: record.log_sandbox.as_ref().map(ToString::to_string),
            error: record.error.clone(),
            result: record.image.as_ref().map(CasImageBody::new),
            image_id: record.image.as_ref().map(|image| image.id.to_string()),
            operation_deadline_ms: record.deadline.0,
            created_at_ms: record.created_at.0,
            updated_at_ms: record.updated_at.0,
            context_upload,
        }
    }
}

// === impl BuildConflict ===

impl BuildConflict {
    /// Shows the build that is under way.
    #[must_use]
    pub fn new(record: &BuildRecord, message: String) -> Self {
        Self {
            code: "image_build_in_progress",
            error: message.clone(),
            message,
            image_name: record.name.to_string(),
            active_build_id: record.id.to_string(),
            active_kind: record.kind.as_str(),
            active_status: record.status.as_str(),
        }
    }
}
