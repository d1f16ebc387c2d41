//! The handlers of sandboxes (spec 01 §2–§5).

use std::time::Duration;

use axum::{
    Extension, Json,
    body::Body,
    extract::{FromRequestParts, RawPathParams, RawQuery, State},
    http::{HeaderMap, StatusCode, request::Parts},
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use tarn_api::{
    Cursor, ErrorCode,
    request::{
        CreateSandbox, Direction, GpuRequest, ListSandboxes, NetworkChange, Parsed, UpdateSandbox,
    },
    response::{CreateSandboxResponse, SandboxFacts, SandboxInfo, SandboxList},
};
use tarn_control::{
    Caller, CreateAsk, GpuAsk, ListAsk, NetworkPatch, PatchAsk, ResizeAsk, SandboxView,
};
use tarn_control::{Order, PageKey};
use tarn_types::{SandboxId, SandboxRef};
use tokio::time::Instant;

use crate::{app::App, body::read_body, deadline, failure::Failure};

/// The sandbox that a path names.
pub(crate) struct SandboxPath(pub(crate) SandboxRef);

/// The archived sandbox that a path names: by id alone.
pub(crate) struct ArchivedPath(SandboxId);

/// What a success that has nothing to say answers.
#[derive(Debug, Serialize)]
pub(crate) struct Empty {}

/// Which list is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shelf {
    Ordinary,
    Archive,
}

pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let arrived = Instant::now();
    let request = note_ignored(CreateSandbox::parse(&read_body(&app.config, body).await?)?);
    let (hold, status) = if request.wait {
        (deadline::left(&app.config, &headers, arrived), StatusCode::OK)
    } else {
        (Duration::ZERO, StatusCode::ACCEPTED)
    };
    let ask = create_ask(request);
    let view = app.control().sandbox_create(&caller.project, ask, hold).await?;
    let facts = facts(&view, &caller, Shelf::Ordinary);
    let answer = CreateSandboxResponse::new(&facts, &app.config.ingress);
    Ok((status, Json(answer)).into_response())
}

pub(crate) async fn fetch(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    SandboxPath(sandbox): SandboxPath,
) -> Result<Json<SandboxInfo>, Failure> {
    let view = app.control().sandbox_fetch(&caller.project, &sandbox).await?;
    Ok(info(&app, &view, &caller, Shelf::Ordinary))
}

pub(crate) async fn fetch_archived(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    ArchivedPath(id): ArchivedPath,
) -> Result<Json<SandboxInfo>, Failure> {
    let view = app.control().sandbox_fetch_archived(&caller.project, &id).await?;
    Ok(info(&app, &view, &caller, Shelf::Archive))
}

pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
) -> Result<Json<SandboxList>, Failure> {
    list_shelf(&app, &caller, query.as_deref(), Shelf::Ordinary).await
}

pub(crate) async fn list_archived(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
) -> Result<Json<SandboxList>, Failure> {
    list_shelf(&app, &caller, query.as_deref(), Shelf::Archive).await
}

pub(crate) async fn update(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    SandboxPath(sandbox): SandboxPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<SandboxInfo>, Failure> {
    let arrived = Instant::now();
    let request = note_ignored(UpdateSandbox::parse(&read_body(&app.config, body).await?)?);
    if let Some(ask) = resize_ask(&request) {
        let view = app.control().sandbox_resize(&caller.project, &sandbox, ask).await?;
        return Ok(info(&app, &view, &caller, Shelf::Ordinary));
    }
    let patch = patch_ask(request);
    let hold = deadline::left(&app.config, &headers, arrived);
    let view = app.control().sandbox_patch(&caller.project, &sandbox, patch, hold).await?;
    Ok(info(&app, &view, &caller, Shelf::Ordinary))
}

pub(crate) async fn delete(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    SandboxPath(sandbox): SandboxPath,
) -> Result<Json<Empty>, Failure> {
    app.control().sandbox_delete(&caller.project, &sandbox).await?;
    Ok(Json(Empty {}))
}

async fn list_shelf(
    app: &App,
    caller: &Caller,
    query: Option<&str>,
    shelf: Shelf,
) -> Result<Json<SandboxList>, Failure> {
    let request = ListSandboxes::parse(query)?;
    let ask = ListAsk {
        archived: shelf == Shelf::Archive,
        status: request.status,
        from: request.cursor.map(|Cursor { created_at, id }| PageKey { created_at, id }),
        order: match request.direction {
            Direction::Forward => Order::Forward,
            Direction::Backward => Order::Backward,
        },
        limit: request.limit,
    };
    let page = app.control().sandbox_list(&caller.project, &ask).await?;
    let cursor = |PageKey { created_at, id }| Cursor { created_at, id }.to_string();
    Ok(Json(SandboxList {
        sandboxes: page
            .items
            .iter()
            .map(|view| SandboxInfo::new(&facts(view, caller, shelf), &app.config.ingress))
            .collect(),
        prev_cursor: page.prev.map(cursor),
        next_cursor: page.next.map(cursor),
    }))
}

fn create_ask(request: CreateSandbox) -> CreateAsk {
    let ports = request.port_access();
    CreateAsk {
        name: request.name,
        image: request.image,
        cpu: request.resources.cpus,
        memory: request.resources.memory_mb,
        disk: request.resources.disk_mb,
        gpus: request.resources.gpus.map(gpu_asks),
        timeout_secs: request.timeout_secs,
        entrypoint: request.entrypoint,
        network: request.network,
        ports,
        auto_resume: request.auto_resume,
        max_pending_secs: request.max_pending_secs,
        restore: request.snapshot_id,
        resources_present: request.resources_present,
        secret_names: request.secret_names,
        template_id: request.template_id,
    }
}

pub(crate) fn gpu_asks(gpus: Vec<GpuRequest>) -> Vec<GpuAsk> {
    gpus.into_iter().map(|GpuRequest { count, model }| GpuAsk { model, count }).collect()
}

/// Returns what a resize asks for, if the request is one: nothing else is in it then.
fn resize_ask(request: &UpdateSandbox) -> Option<ResizeAsk> {
    let ask = ResizeAsk {
        cpu: request.resources.cpus,
        memory: request.resources.memory_mb,
        disk: request.resources.disk_mb,
    };
    (ask != ResizeAsk::default()).then_some(ask)
}

fn patch_ask(request: UpdateSandbox) -> PatchAsk {
    PatchAsk {
        name: request.name,
        exposed_ports: request.exposed_ports,
        allow_unauthenticated_access: request.allow_unauthenticated_access,
        auto_resume: request.auto_resume,
        network: network_patch(request.network),
    }
}

pub(crate) fn network_patch(change: NetworkChange) -> NetworkPatch {
    match change {
        NetworkChange::Keep => NetworkPatch::Keep,
        NetworkChange::Clear => NetworkPatch::Clear,
        NetworkChange::Replace(policy) => NetworkPatch::Replace(policy),
    }
}

/// Names the keys nobody knew in the log, so that a newer client's wishes can be seen there.
pub(crate) fn note_ignored<T>(parsed: Parsed<T>) -> T {
    if !parsed.ignored.is_empty() {
        tracing::debug!(keys = ?parsed.ignored, "unknown keys ignored");
    }
    parsed.value
}

fn info(app: &App, view: &SandboxView, caller: &Caller, shelf: Shelf) -> Json<SandboxInfo> {
    Json(SandboxInfo::new(&facts(view, caller, shelf), &app.config.ingress))
}

fn facts<'a>(view: &'a SandboxView, caller: &'a Caller, shelf: Shelf) -> SandboxFacts<'a> {
    let archived_at = view.archived_at.filter(|_| shelf == Shelf::Archive);
    SandboxFacts { archived_at, ..facts_in(view, &caller.project_name) }
}

/// Gathers what is said of a sandbox that is not in the archive.
pub(crate) fn facts_in<'a>(view: &'a SandboxView, namespace: &'a str) -> SandboxFacts<'a> {
    SandboxFacts {
        record: &view.record,
        status: view.status,
        namespace,
        runtime: view.runtime,
        archived_at: None,
        trouble: view.trouble.as_deref(),
    }
}

/// Takes a parameter of the path; what cannot be decoded names nothing.
pub(crate) async fn path_param(parts: &mut Parts, wanted: &str) -> Option<String> {
    let params = RawPathParams::from_request_parts(parts, &()).await.ok()?;
    params.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned())
}

fn not_found(text: Option<&str>) -> Failure {
    // A name has at most 63 characters; nobody needs a longer one back.
    let shown: String = text.unwrap_or("?").chars().take(80).collect();
    Failure::new(ErrorCode::SandboxNotFound, format!("no sandbox `{shown}`"))
}

// === impl SandboxPath ===

impl<S: Sync> FromRequestParts<S> for SandboxPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let text = path_param(parts, "sid").await;
        // What is neither an id nor a name is nobody's.
        let parsed = text.as_deref().and_then(|text| text.parse().ok());
        parsed.map(Self).ok_or_else(|| not_found(text.as_deref()))
    }
}

// === impl ArchivedPath ===

impl<S: Sync> FromRequestParts<S> for ArchivedPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let text = path_param(parts, "id").await;
        let parsed = text.as_deref().and_then(|text| text.parse().ok());
        parsed.map(Self).ok_or_else(|| not_found(text.as_deref()))
    }
}
