//! The handlers of the administrative socket: keys, and views across projects.

use std::collections::BTreeMap;

use axum::{
    Json,
    body::Body,
    extract::{RawPathParams, State},
};
use tarn_api::{
    ErrorCode,
    request::CreateKey,
    response::{
        AdminSandbox, AdminSandboxList, KeyEntry, KeyList, NewKeyBody, OrphanList, UnfoundSandbox,
    },
};
use tarn_control::ListAsk;
use tarn_control::Order;
use tarn_types::KeyId;

use crate::{
    app::App,
    body::read_body,
    failure::Failure,
    sandbox::{Empty, note_ignored},
};

/// How many sandboxes of one project are listed.
const LIST_LIMIT: usize = 10_000;

pub(crate) async fn create_key(
    State(app): State<App>,
    body: Body,
) -> Result<Json<NewKeyBody>, Failure> {
    let request = note_ignored(CreateKey::parse(&read_body(&app.config, body).await?)?);
    let key = app.control().key_create(&request.project).await?;
    Ok(Json(NewKeyBody {
        id: key.id.to_string(),
        project: key.project.to_string(),
        key: key.secret,
    }))
}

pub(crate) async fn list_keys(State(app): State<App>) -> Result<Json<KeyList>, Failure> {
    let keys = app.control().key_list().await?;
    let entry = |key: tarn_control::KeyRecord| {
        KeyEntry::new(&key.id, &key.project, &key.project_name, key.created_at, key.revoked_at)
    };
    Ok(Json(KeyList { keys: keys.into_iter().map(entry).collect() }))
}

pub(crate) async fn revoke_key(
    State(app): State<App>,
    params: RawPathParams,
) -> Result<Json<Empty>, Failure> {
    let text = params.iter().find(|(name, _)| *name == "id").map(|(_, value)| value);
    let id: Option<KeyId> = text.and_then(|text| text.parse().ok());
    let Some(id) = id else {
        let text = "no such key; `tarn key list` shows the ids, which begin with `key_`";
        return Err(Failure::new(ErrorCode::NotFound, text));
    };
    app.control().key_revoke(&id).await?;
    Ok(Json(Empty {}))
}

pub(crate) async fn list_sandboxes(
    State(app): State<App>,
) -> Result<Json<AdminSandboxList>, Failure> {
    // Every project has a key, if only a revoked one: it is made together with its first.
    let keys = app.control().key_list().await?;
    let projects: BTreeMap<_, _> =
        keys.into_iter().map(|key| (key.project, key.project_name)).collect();
    let ask = ListAsk {
        archived: false,
        status: None,
        from: None,
        order: Order::Forward,
        limit: LIST_LIMIT,
    };
    let mut sandboxes = Vec::new();
    for (project, project_name) in projects {
        let page = app.control().sandbox_list(&project, &ask).await?;
        sandboxes.extend(page.items.into_iter().map(|view| AdminSandbox {
            id: view.record.id.to_string(),
            name: view.record.asked.name.map(|name| name.to_string()),
            project_name: project_name.clone(),
            status: view.status.as_str().to_owned(),
            image: view.record.asked.image.to_string(),
            created_at: view.record.created_at.0,
        }));
    }
    Ok(Json(AdminSandboxList { sandboxes }))
}

pub(crate) async fn list_orphans(State(app): State<App>) -> Json<OrphanList> {
    let orphans = app.control().orphans().await;
    let unfound = app
        .control()
        .unfound()
        .await
        .into_iter()
        .map(|unfound| UnfoundSandbox { id: unfound.id.to_string(), trouble: unfound.trouble });
    Json(OrphanList {
        orphans: orphans.iter().map(ToString::to_string).collect(),
        unfound: unfound.collect(),
    })
}
