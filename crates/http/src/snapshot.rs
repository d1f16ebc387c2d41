//! The handlers of snapshots (spec 02 §2, §3), and what the administrator's share with them.

use axum::{
    Extension, Json,
    body::Body,
    extract::{FromRequestParts, State},
    http::{StatusCode, request::Parts},
};
use tarn_api::{
    ErrorCode,
    request::CreateSnapshot,
    response::{CreateSnapshotResponse, SnapshotInfo, SnapshotList},
};
use tarn_control::Caller;
use tarn_types::{ProjectId, SandboxRef, SnapshotId, SnapshotRecord};

use crate::{
    app::App,
    body::read_body,
    failure::Failure,
    sandbox::{Empty, SandboxPath, note_ignored, path_param},
};

/// The snapshot that a path names.
pub(crate) struct SnapshotPath(pub(crate) SnapshotId);

pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    SandboxPath(sandbox): SandboxPath,
    body: Body,
) -> Result<(StatusCode, Json<CreateSnapshotResponse>), Failure> {
    begin(&app, &caller.project, &sandbox, body).await
}

pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<SnapshotList>, Failure> {
    let records = app.control().snapshot_list(&caller.project, None).await?;
    Ok(Json(answer(&records, &caller.project_name)))
}

pub(crate) async fn list_of_sandbox(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    SandboxPath(sandbox): SandboxPath,
) -> Result<Json<SnapshotList>, Failure> {
    let records = app.control().snapshot_list(&caller.project, Some(&sandbox)).await?;
    Ok(Json(answer(&records, &caller.project_name)))
}

pub(crate) async fn fetch(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    SnapshotPath(snapshot): SnapshotPath,
) -> Result<Json<SnapshotInfo>, Failure> {
    let record = app.control().snapshot_fetch(&caller.project, &snapshot).await?;
    Ok(Json(SnapshotInfo::new(&record, &caller.project_name)))
}

pub(crate) async fn delete(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    SnapshotPath(snapshot): SnapshotPath,
) -> Result<Json<Empty>, Failure> {
    app.control().snapshot_delete(&caller.project, &snapshot).await?;
    Ok(Json(Empty {}))
}

/// Begins a snapshot of a project's sandbox.
pub(crate) async fn begin(
    app: &App,
    project: &ProjectId,
    sandbox: &SandboxRef,
    body: Body,
) -> Result<(StatusCode, Json<CreateSnapshotResponse>), Failure> {
    let request = note_ignored(CreateSnapshot::parse(&read_body(&app.config, body).await?)?);
    let record = app.control().snapshot_create(project, sandbox, request.snapshot_type).await?;
    Ok((StatusCode::ACCEPTED, Json(CreateSnapshotResponse::from(&record))))
}

fn answer(records: &[SnapshotRecord], namespace: &str) -> SnapshotList {
    SnapshotList {
        snapshots: records.iter().map(|record| SnapshotInfo::new(record, namespace)).collect(),
    }
}

// === impl SnapshotPath ===

impl<S: Sync> FromRequestParts<S> for SnapshotPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let text = path_param(parts, "id").await;
        text.as_deref().and_then(|text| text.parse().ok()).map(Self).ok_or_else(|| {
            let shown: String = text.as_deref().unwrap_or("?").chars().take(80).collect();
            Failure::new(ErrorCode::SnapshotNotFound, format!("no snapshot `{shown}`"))
        })
    }
}
