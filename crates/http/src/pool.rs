//! The handlers of pools (spec 03).

use axum::{
    Extension, Json,
    body::Body,
    extract::{FromRequestParts, State},
    http::{HeaderMap, request::Parts},
};
use tarn_api::{
    ErrorCode,
    request::{ClaimSandbox, SandboxPool},
    response::{CreatePoolResponse, CreateSandboxResponse, PoolContainerInfo, PoolInfo, PoolList},
};
use tarn_control::{Caller, PoolAsk, PoolContainer, PoolView};
use tarn_types::PoolId;
use tokio::time::Instant;

use crate::{
    app::App,
    body::read_body,
    deadline,
    failure::Failure,
    sandbox::{Empty, facts_in, gpu_asks, network_patch, note_ignored, path_param},
};

/// The pool that a path names.
pub(crate) struct PoolPath(PoolId);

pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Json<CreatePoolResponse>, Failure> {
    let ask = read_ask(&app, body).await?;
    let view = app.control().pool_create(&caller.project, ask).await?;
    Ok(Json(CreatePoolResponse {
        pool_id: view.record.id.to_string(),
        namespace: caller.project_name,
    }))
}

pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Json<PoolList> {
    let pools = app.control().pool_list(&caller.project);
    let info = |view: &PoolView| PoolInfo::new(&view.record, &caller.project_name, None);
    Json(PoolList { pools: pools.iter().map(info).collect() })
}

pub(crate) async fn fetch(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    PoolPath(pool): PoolPath,
) -> Result<Json<PoolInfo>, Failure> {
    Ok(whole(&app.control().pool_fetch(&caller.project, &pool)?, &caller))
}

pub(crate) async fn replace(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    PoolPath(pool): PoolPath,
    body: Body,
) -> Result<Json<PoolInfo>, Failure> {
    let ask = read_ask(&app, body).await?;
    Ok(whole(&app.control().pool_update(&caller.project, &pool, ask).await?, &caller))
}

pub(crate) async fn delete(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    PoolPath(pool): PoolPath,
) -> Result<Json<Empty>, Failure> {
    app.control().pool_delete(&caller.project, &pool).await?;
    Ok(Json(Empty {}))
}

pub(crate) async fn claim(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    PoolPath(pool): PoolPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<CreateSandboxResponse>, Failure> {
    let arrived = Instant::now();
    let ClaimSandbox {} = note_ignored(ClaimSandbox::parse(&read_body(&app.config, body).await?)?);
    let hold = deadline::left(&app.config, &headers, arrived);
    let view = app.control().pool_claim(&caller.project, &pool, hold).await?;
    let facts = facts_in(&view, &caller.project_name);
    Ok(Json(CreateSandboxResponse::new(&facts, &app.config.ingress)))
}

async fn read_ask(app: &App, body: Body) -> Result<PoolAsk, Failure> {
    let request = note_ignored(SandboxPool::parse(&read_body(&app.config, body).await?)?);
    Ok(PoolAsk {
        image: request.image,
        cpu: request.resources.cpus,
        memory: request.resources.memory_mb,
        disk: request.resources.disk_mb,
        gpus: request.resources.gpus.map(gpu_asks),
        timeout_secs: request.timeout_secs,
        entrypoint: request.entrypoint,
        max_containers: request.max_containers,
        warm_containers: request.warm_containers,
        network: network_patch(request.network),
    })
}

fn whole(view: &PoolView, caller: &Caller) -> Json<PoolInfo> {
    let container = |PoolContainer { id, claimed, node }: &PoolContainer| match claimed {
        true => PoolContainerInfo::claimed(id, node),
        false => PoolContainerInfo::idle(id, node),
    };
    let containers = view.containers.iter().map(container).collect();
    Json(PoolInfo::new(&view.record, &caller.project_name, Some(containers)))
}

// === impl PoolPath ===

impl<S: Sync> FromRequestParts<S> for PoolPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let text = path_param(parts, "id").await;
        let parsed = text.as_deref().and_then(|text| text.parse().ok());
        // What is no id is nobody's; nobody needs a longer one back.
        let shown: String = text.as_deref().unwrap_or("?").chars().take(80).collect();
        let missing =
            || Failure::new(ErrorCode::PoolNotFound, format!("no sandbox pool `{shown}`"));
        parsed.map(Self).ok_or_else(missing)
    }
}
