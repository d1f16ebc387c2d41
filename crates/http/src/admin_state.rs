//! The handlers of the administrative socket for suspend, resume, copy and snapshots, those of
//! clients in whatever project has the thing; and for network logs.

use axum::{
    Json,
    body::Body,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode},
};
use tarn_api::request::ReadNetwork;
use tarn_api::response::{
    CopySandboxResponse, CreateSnapshotResponse, NetworkReport, SnapshotInfo, SnapshotList,
    SnapshotVerdict, TransferEntry, TransferList, TransferTrouble,
};
use tarn_control::{ArchiveTrouble, ControlError, Direction, Transfer, Verdict};
use tarn_types::{ProjectId, SandboxRef, SnapshotId, SnapshotRecord};

use crate::{
    admin::{home, projects},
    app::App,
    failure::Failure,
    sandbox::{Empty, SandboxPath},
    snapshot::{self, SnapshotPath},
    state::{self, Change},
};

/// A snapshot, and whose it is.
struct SnapshotHome {
    record: SnapshotRecord,
    project: ProjectId,
    project_name: String,
}

pub(crate) async fn suspend(
    State(app): State<App>,
    SandboxPath(sandbox): SandboxPath,
    RawQuery(query): RawQuery,
) -> Result<(StatusCode, Json<Empty>), Failure> {
    change(&app, &sandbox, query.as_deref(), Change::Suspend).await
}

pub(crate) async fn resume(
    State(app): State<App>,
    SandboxPath(sandbox): SandboxPath,
    RawQuery(query): RawQuery,
) -> Result<(StatusCode, Json<Empty>), Failure> {
    change(&app, &sandbox, query.as_deref(), Change::Resume).await
}

pub(crate) async fn copy(
    State(app): State<App>,
    SandboxPath(sandbox): SandboxPath,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Json<CopySandboxResponse>, Failure> {
    let home = home(&app, &sandbox).await?;
    let (record, query) = (&home.view.record, query.as_deref());
    let id = SandboxRef::Id(record.id.clone());
    state::duplicate(&app, &record.project, &home.project_name, &id, query, &headers).await
}

pub(crate) async fn network(
    State(app): State<App>,
    SandboxPath(sandbox): SandboxPath,
    RawQuery(query): RawQuery,
) -> Result<Json<NetworkReport>, Failure> {
    let read = ReadNetwork::parse(query.as_deref())?;
    let record = home(&app, &sandbox).await?.view.record;
    let id = SandboxRef::Id(record.id.clone());
    let (mut log, now) = app.control().sandbox_network_log(&record.project, &id).await?;
    log.entries.retain(|entry| read.wants(entry, now));
    Ok(Json(NetworkReport::new(record.id.to_string(), &log)))
}

pub(crate) async fn create_snapshot(
    State(app): State<App>,
    SandboxPath(sandbox): SandboxPath,
    body: Body,
) -> Result<(StatusCode, Json<CreateSnapshotResponse>), Failure> {
    let record = home(&app, &sandbox).await?.view.record;
    snapshot::begin(&app, &record.project, &SandboxRef::Id(record.id), body).await
}

pub(crate) async fn list_snapshots(State(app): State<App>) -> Result<Json<SnapshotList>, Failure> {
    let mut snapshots = Vec::new();
    for (project, name) in projects(&app).await? {
        let records = app.control().snapshot_list(&project, None).await?;
        snapshots.extend(records.iter().map(|record| SnapshotInfo::new(record, &name)));
    }
    Ok(Json(SnapshotList { snapshots }))
}

pub(crate) async fn fetch_snapshot(
    State(app): State<App>,
    SnapshotPath(snapshot): SnapshotPath,
) -> Result<Json<SnapshotInfo>, Failure> {
    let home = snapshot_home(&app, &snapshot).await?;
    Ok(Json(SnapshotInfo::new(&home.record, &home.project_name)))
}

pub(crate) async fn delete_snapshot(
    State(app): State<App>,
    SnapshotPath(snapshot): SnapshotPath,
) -> Result<Json<Empty>, Failure> {
    let home = snapshot_home(&app, &snapshot).await?;
    app.control().snapshot_delete(&home.project, &snapshot).await?;
    Ok(Json(Empty {}))
}

pub(crate) async fn list_transfers(State(app): State<App>) -> Json<TransferList> {
    let status = app.control().archive_status().await;
    Json(TransferList {
        object_store: status.place,
        transfers: status.transfers.iter().map(transfer).collect(),
        troubles: status.troubles.into_iter().map(trouble).collect(),
    })
}

fn transfer(transfer: &Transfer) -> TransferEntry {
    let direction = match transfer.direction {
        Direction::Upload => "upload",
        Direction::Fetch => "fetch",
    };
    TransferEntry {
        snapshot_id: transfer.snapshot.to_string(),
        direction: direction.to_owned(),
        state: if transfer.active { "active" } else { "queued" }.to_owned(),
        done_bytes: transfer.done.bytes(),
        total_bytes: transfer.total.bytes(),
    }
}

fn trouble(trouble: ArchiveTrouble) -> TransferTrouble {
    TransferTrouble {
        snapshot_id: trouble.snapshot.to_string(),
        attempt: trouble.attempt.as_str().to_owned(),
        failures: trouble.failures,
        error: trouble.error,
    }
}

pub(crate) async fn verify_snapshot(
    State(app): State<App>,
    SnapshotPath(snapshot): SnapshotPath,
) -> Result<Json<SnapshotVerdict>, Failure> {
    let home = snapshot_home(&app, &snapshot).await?;
    let (bytes_read, damage) = match app.control().snapshot_verify(&home.project, &snapshot).await?
    {
        Verdict::Sound { read } => (Some(read.bytes()), None),
        Verdict::Damaged { detail } => (None, Some(detail)),
    };
    let (snapshot_id, ok) = (snapshot.to_string(), damage.is_none());
    Ok(Json(SnapshotVerdict { snapshot_id, ok, bytes_read, damage }))
}

async fn change(
    app: &App,
    sandbox: &SandboxRef,
    query: Option<&str>,
    change: Change,
) -> Result<(StatusCode, Json<Empty>), Failure> {
    let record = home(app, sandbox).await?.view.record;
    state::change(app, &record.project, &SandboxRef::Id(record.id), query, change).await
}

async fn snapshot_home(app: &App, snapshot: &SnapshotId) -> Result<SnapshotHome, Failure> {
    for (project, project_name) in projects(app).await? {
        match app.control().snapshot_fetch(&project, snapshot).await {
            Ok(record) => return Ok(SnapshotHome { record, project, project_name }),
            Err(ControlError::SnapshotNotFound(_)) => {}
            Err(failed) => return Err(failed.into()),
        }
    }
    Err(ControlError::SnapshotNotFound(snapshot.to_string()).into())
}
