//! The handlers of the administrative socket for images and registries.

use std::path::Path;

use axum::{Json, body::Body, extract::State};
use tarn_api::{
    ErrorCode,
    request::{
        DeleteRegistryLogin, ImageScope, ImportImage, PullImage, PutRegistryLogin, RemoveImage,
    },
    response::{
        AdminImage, AdminImageList, AdminImageName, AdminImageNames, AdminPull,
        AdminRegisteredImage, AdminRegistryLogin, AdminRegistryLoginList,
    },
};
use tarn_control::{ImageTarget, ImageView, PullProgress};
use tarn_types::{ImageNameRecord, ProjectId, RegistryLoginRecord};

use crate::{
    admin::projects,
    app::App,
    body::read_body,
    failure::Failure,
    sandbox::{Empty, note_ignored},
};

type Projects = std::collections::BTreeMap<ProjectId, String>;

pub(crate) async fn list(State(app): State<App>) -> Result<Json<AdminImageList>, Failure> {
    let projects = projects(&app).await?;
    let views = app.control().image_list().await;
    let images = views.into_iter().map(|view| image(view, &projects)).collect();
    let registered = app.control().image_registered();
    let registered = registered.iter().map(|(record, sandboxes)| AdminRegisteredImage {
        id: record.id.to_string(),
        name: record.name.to_string(),
        project_name: project_name(&record.project, &projects),
        global: record.global,
        snapshot_id: record.snapshot.to_string(),
        size_bytes: record.size.bytes(),
        disk_bytes: record.disk.bytes(),
        sandboxes: *sandboxes,
        updated_at: record.updated_at.0,
    });
    Ok(Json(AdminImageList { images, registered: registered.collect() }))
}

pub(crate) async fn pull(
    State(app): State<App>,
    body: Body,
) -> Result<Json<AdminImageNames>, Failure> {
    let request = note_ignored(PullImage::parse(&read_body(&app.config, body).await?)?);
    let projects = projects(&app).await?;
    let project = scope(&projects, &request.scope)?;
    let named =
        app.control().image_pull(project, &request.reference, request.name.as_ref()).await?;
    Ok(Json(AdminImageNames { names: vec![name(&named, &projects)] }))
}

pub(crate) async fn import(
    State(app): State<App>,
    body: Body,
) -> Result<Json<AdminImageNames>, Failure> {
    let request = note_ignored(ImportImage::parse(&read_body(&app.config, body).await?)?);
    let projects = projects(&app).await?;
    let project = scope(&projects, &request.scope)?;
    let (file, choose) = (Path::new(&request.file), request.choose.as_deref());
    let named = app.control().image_import(project, file, choose, &request.name).await?;
    Ok(Json(AdminImageNames { names: vec![name(&named, &projects)] }))
}

pub(crate) async fn remove(
    State(app): State<App>,
    body: Body,
) -> Result<Json<AdminImageNames>, Failure> {
    let request = note_ignored(RemoveImage::parse(&read_body(&app.config, body).await?)?);
    let projects = projects(&app).await?;
    let target = match request {
        RemoveImage::Name(of, name) => ImageTarget::Name(scope(&projects, &of)?.cloned(), name),
        RemoveImage::Digest(digits) => ImageTarget::Digits(digits),
    };
    let taken = app.control().image_forget(&target).await?;
    let names = taken.iter().map(|record| name(record, &projects)).collect();
    Ok(Json(AdminImageNames { names }))
}

pub(crate) async fn list_logins(
    State(app): State<App>,
) -> Result<Json<AdminRegistryLoginList>, Failure> {
    let projects = projects(&app).await?;
    let logins = app.control().login_list().await?;
    let logins = logins.iter().map(|record| login(record, &projects)).collect();
    Ok(Json(AdminRegistryLoginList { logins }))
}

pub(crate) async fn put_login(
    State(app): State<App>,
    body: Body,
) -> Result<Json<AdminRegistryLogin>, Failure> {
    let request = note_ignored(PutRegistryLogin::parse(&read_body(&app.config, body).await?)?);
    let projects = projects(&app).await?;
    let project = find(&projects, &request.project)?;
    let stored = app.control().login_put(project, &request.registry, request.login).await?;
    Ok(Json(login(&stored, &projects)))
}

pub(crate) async fn delete_login(
    State(app): State<App>,
    body: Body,
) -> Result<Json<Empty>, Failure> {
    let request = note_ignored(DeleteRegistryLogin::parse(&read_body(&app.config, body).await?)?);
    let projects = projects(&app).await?;
    let project = find(&projects, &request.project)?;
    app.control().login_delete(project, &request.registry).await?;
    Ok(Json(Empty {}))
}

fn scope<'a>(projects: &'a Projects, scope: &ImageScope) -> Result<Option<&'a ProjectId>, Failure> {
    match scope {
        ImageScope::Global => Ok(None),
        ImageScope::Project(name) => find(projects, name).map(Some),
    }
}

fn find<'a>(projects: &'a Projects, name: &str) -> Result<&'a ProjectId, Failure> {
    let found = projects.iter().find(|(_, known)| *known == name).map(|(id, _)| id);
    found.ok_or_else(|| {
        let text = format!("no project `{name}`; `tarn key create` makes one");
        Failure::new(ErrorCode::NotFound, text)
    })
}

fn image(view: ImageView, projects: &Projects) -> AdminImage {
    let ImageView { stored, names, sandboxes } = view;
    AdminImage {
        digest: stored.digest.to_string(),
        origin: stored.origin,
        size_bytes: stored.size.bytes(),
        names: names.iter().map(|record| name(record, projects)).collect(),
        sandboxes,
        used_at: stored.used_at.0,
        pulling: stored.progress.map(|progress| {
            let PullProgress { layers, layers_done, bytes, bytes_done } = progress;
            AdminPull { layers, layers_done, bytes, bytes_done }
        }),
    }
}

fn name(record: &ImageNameRecord, projects: &Projects) -> AdminImageName {
    AdminImageName {
        name: record.name.to_string(),
        project_name: record.project.as_ref().map(|id| project_name(id, projects)),
        digest: record.pin.digest.to_string(),
    }
}

fn project_name(id: &ProjectId, projects: &Projects) -> String {
    projects.get(id).cloned().unwrap_or_else(|| id.to_string())
}

fn login(record: &RegistryLoginRecord, projects: &Projects) -> AdminRegistryLogin {
    let known = projects.get(&record.project).cloned();
    AdminRegistryLogin {
        project_name: known.unwrap_or_else(|| record.project.to_string()),
        registry: record.registry.clone(),
        username: record.username.clone(),
        updated_at: record.updated_at.0,
    }
}
