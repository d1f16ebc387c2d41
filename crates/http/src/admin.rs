//! The handlers of the administrative socket: keys, and views across projects.

use std::collections::BTreeMap;

use axum::{
    Json,
    body::Body,
    extract::{RawPathParams, RawQuery, State},
};
use tarn_api::{
    ErrorCode,
    request::{CreateKey, ListAllSandboxes},
    response::{
        AdminGpu, AdminGpuList, AdminSandbox, AdminSandboxList, KeyEntry, KeyList, NewKeyBody,
        OrphanList, UnfoundSandbox,
    },
};
use tarn_control::{ControlError, GpuState, GpuView, ListAsk, Order, SandboxView};
use tarn_types::{EndCause, KeyId, ProjectId, SandboxRef};

use crate::{
    app::App,
    body::read_body,
    failure::Failure,
    sandbox::{Empty, SandboxPath, note_ignored},
};

/// How many sandboxes the store is asked for at a time.
const PAGE: usize = 1000;

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
    RawQuery(query): RawQuery,
) -> Result<Json<AdminSandboxList>, Failure> {
    let ListAllSandboxes { archived } = ListAllSandboxes::parse(query.as_deref())?;
    let mut sandboxes = Vec::new();
    for (project, project_name) in projects(&app).await? {
        let (order, limit) = (Order::Forward, PAGE);
        let mut ask = ListAsk { archived, status: None, from: None, order, limit };
        loop {
            let page = app.control().sandbox_list(&project, &ask).await?;
            sandboxes.extend(page.items.iter().map(|view| entry(view, &project_name)));
            ask.from = page.next;
            if ask.from.is_none() {
                break;
            }
        }
    }
    Ok(Json(AdminSandboxList { sandboxes }))
}

pub(crate) async fn fetch_sandbox(
    State(app): State<App>,
    SandboxPath(sandbox): SandboxPath,
) -> Result<Json<AdminSandbox>, Failure> {
    let home = home(&app, &sandbox).await?;
    Ok(Json(entry(&home.view, &home.project_name)))
}

/// A sandbox, and whose it is.
pub(crate) struct Home {
    pub(crate) view: SandboxView,
    pub(crate) project_name: String,
}

/// Finds a sandbox in whatever project has it; a name must be that of one alone.
pub(crate) async fn home(app: &App, sandbox: &SandboxRef) -> Result<Home, Failure> {
    let mut found: Vec<Home> = Vec::new();
    for (project, project_name) in projects(app).await? {
        match app.control().sandbox_fetch(&project, sandbox).await {
            Ok(view) => found.push(Home { view, project_name }),
            Err(ControlError::SandboxNotFound(_)) => {}
            Err(failed) => return Err(failed.into()),
        }
    }
    if found.len() > 1 {
        let ids: Vec<_> = found.iter().map(|home| format!("`{}`", home.view.record.id)).collect();
        let ids = ids.join(", ");
        let text = format!("several projects have a sandbox `{sandbox}`; name it by its id: {ids}");
        return Err(Failure::new(ErrorCode::InvalidRequest, text));
    }
    let missing = || {
        let text = format!("no sandbox `{sandbox}`; `tarn sandbox list` shows them");
        Failure::new(ErrorCode::SandboxNotFound, text)
    };
    found.pop().ok_or_else(missing)
}

/// Returns the projects there are, with their names.
pub(crate) async fn projects(app: &App) -> Result<BTreeMap<ProjectId, String>, Failure> {
    let projects = app.control().project_list().await?;
    Ok(projects.into_iter().map(|view| (view.record.id, view.record.name)).collect())
}

fn entry(view: &SandboxView, project_name: &str) -> AdminSandbox {
    AdminSandbox {
        id: view.record.id.to_string(),
        name: view.record.asked.name.as_ref().map(ToString::to_string),
        project_name: project_name.to_owned(),
        status: view.status.as_str().to_owned(),
        image: view.record.asked.image.to_string(),
        created_at: view.record.created_at.0,
        trouble: trouble(view),
    }
}

/// Says why a sandbox has ended if that was an error; of one that has not, what did not succeed.
fn trouble(view: &SandboxView) -> Option<String> {
    if view.status.is_terminal() {
        return view.record.end.as_ref().and_then(EndCause::error_message);
    }
    view.trouble.clone()
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

pub(crate) async fn list_gpus(State(app): State<App>) -> Json<AdminGpuList> {
    let gpus = app.control().gpus();
    Json(AdminGpuList { gpus: gpus.into_iter().map(gpu).collect() })
}

fn gpu(view: GpuView) -> AdminGpu {
    let (sandbox_id, reason) = match &view.state {
        GpuState::Free | GpuState::Returning => (None, None),
        GpuState::Held { by } => (Some(by.to_string()), None),
        GpuState::OutOfUse { reason } => (None, Some(reason.clone())),
    };
    AdminGpu {
        id: view.id.to_string(),
        model: view.model.to_string(),
        product: view.product,
        state: view.state.as_str().to_owned(),
        sandbox_id,
        reason,
    }
}
