//! The handlers of suspend, resume and copy (spec 02 §1, §5).

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode},
};
use tarn_api::{
    request::{ChangeState, CopySandbox},
    response::{CopySandboxResponse, CreateSandboxResponse},
};
use tarn_control::{Caller, Settled};
use tarn_types::{ProjectId, SandboxRef};

use crate::{
    app::App,
    deadline,
    failure::Failure,
    sandbox::{Empty, SandboxPath, facts_in},
};

/// What is to become of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Suspend,
    Resume,
}

pub(crate) async fn suspend(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    SandboxPath(sandbox): SandboxPath,
    RawQuery(query): RawQuery,
) -> Result<(StatusCode, Json<Empty>), Failure> {
    change(&app, &caller.project, &sandbox, query.as_deref(), Change::Suspend).await
}

pub(crate) async fn resume(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    SandboxPath(sandbox): SandboxPath,
    RawQuery(query): RawQuery,
) -> Result<(StatusCode, Json<Empty>), Failure> {
    change(&app, &caller.project, &sandbox, query.as_deref(), Change::Resume).await
}

pub(crate) async fn copy(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    SandboxPath(sandbox): SandboxPath,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Json<CopySandboxResponse>, Failure> {
    let (query, namespace) = (query.as_deref(), &caller.project_name);
    duplicate(&app, &caller.project, namespace, &sandbox, query, &headers).await
}

/// Suspends or resumes, and says whether that is done: 200, or under way: 202.
pub(crate) async fn change(
    app: &App,
    project: &ProjectId,
    sandbox: &SandboxRef,
    query: Option<&str>,
    change: Change,
) -> Result<(StatusCode, Json<Empty>), Failure> {
    let request = ChangeState::parse(query)?;
    let hold = request.wait_ms.map(|ms| Duration::from_millis(ms).min(app.config.hold_max));
    let settled = match change {
        Change::Suspend => app.control().sandbox_suspend(project, sandbox, hold).await?,
        Change::Resume => app.control().sandbox_resume(project, sandbox, hold).await?,
    };
    let status = match settled {
        Settled::Done => StatusCode::OK,
        Settled::UnderWay => StatusCode::ACCEPTED,
    };
    Ok((status, Json(Empty {})))
}

/// Copies, and answers with what became of each copy.
pub(crate) async fn duplicate(
    app: &App,
    project: &ProjectId,
    namespace: &str,
    sandbox: &SandboxRef,
    query: Option<&str>,
    headers: &HeaderMap,
) -> Result<Json<CopySandboxResponse>, Failure> {
    let request = CopySandbox::parse(query)?;
    let hold = deadline::hold(&app.config, headers);
    let (source, copies) =
        app.control().sandbox_copy(project, sandbox, request.times, hold).await?;
    let sandboxes = copies.iter().map(|view| {
        CreateSandboxResponse::of_copy(&facts_in(view, namespace), &app.config.ingress)
    });
    Ok(Json(CopySandboxResponse {
        source_sandbox_id: source.to_string(),
        sandboxes: sandboxes.collect(),
    }))
}
