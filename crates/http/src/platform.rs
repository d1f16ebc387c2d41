//! The handlers of identity (spec 08 §1, §5).

use axum::{Extension, Json, extract::State};
use tarn_api::response::{KeyIdentity, ProjectBody};
use tarn_control::Caller;

use crate::{app::App, failure::Failure};

pub(crate) async fn introspect(Extension(caller): Extension<Caller>) -> Json<KeyIdentity> {
    Json(KeyIdentity::new(&caller.key, &caller.project))
}

/// Returns the key's project. That the path names no other one is checked before.
pub(crate) async fn fetch_project(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<ProjectBody>, Failure> {
    // A project is made together with its first key, and at the same time.
    let keys = app.control().key_list().await?;
    let own = keys.iter().filter(|key| key.project == caller.project);
    let created_at = own.map(|key| key.created_at).min();
    Ok(Json(ProjectBody::new(&caller.project, &caller.project_name, created_at)))
}
