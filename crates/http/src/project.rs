//! The handlers of projects: the key's own (spec 08 §5), and those of the administrative socket.

use axum::{Extension, Json, body::Body, extract::State};
use tarn_api::{
    request::SetQuota,
    response::{AdminProject, AdminProjectList, ProjectBody},
};
use tarn_control::{Caller, ProjectView};

use crate::{app::App, body::read_body, failure::Failure, sandbox::note_ignored};

/// Returns the key's project. That the path names no other one is checked before.
pub(crate) async fn fetch(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<ProjectBody>, Failure> {
    let project = app.control().project_fetch(&caller.project).await?;
    Ok(Json(ProjectBody::new(&project.id, &project.name, Some(project.created_at))))
}

pub(crate) async fn admin_list(State(app): State<App>) -> Result<Json<AdminProjectList>, Failure> {
    let projects = app.control().project_list().await?;
    Ok(Json(AdminProjectList { projects: projects.iter().map(entry).collect() }))
}

pub(crate) async fn admin_set_quota(
    State(app): State<App>,
    body: Body,
) -> Result<Json<AdminProject>, Failure> {
    let request = note_ignored(SetQuota::parse(&read_body(&app.config, body).await?)?);
    Ok(Json(entry(&app.control().quota_set(&request.project, request.sandboxes).await?)))
}

fn entry(view: &ProjectView) -> AdminProject {
    AdminProject {
        id: view.record.id.to_string(),
        name: view.record.name.clone(),
        created_at: view.record.created_at.0,
        sandboxes: view.sandboxes,
        quota: view.quota,
        is_default: view.is_default,
    }
}
