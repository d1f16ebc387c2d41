//! The handlers of registered images (spec 06 §2, §3): two families, one store.

use axum::{
    Extension, Json,
    body::Body,
    extract::{FromRequestParts, RawQuery, State},
    http::{StatusCode, Uri, request::Parts},
    routing::{MethodFilter, MethodRouter, on},
};
use tarn_api::{
    Cursor, ErrorCode, ImageOperation,
    request::{ListImages, RegisterCasImage, RegisterImage},
    response::{CasImageBody, CasImageId, CasImageList, NextPage, TemplateBody, TemplateList},
};
use tarn_control::{Caller, ImageAsk, ImageKey, ImagePage, ImagePlace};
use tarn_types::{ImageFamily, TemplateId};

use crate::{
    app::App,
    body::read_build_body,
    failure::Failure,
    sandbox::{Empty, note_ignored, path_param},
};

/// The image that a path names, by its id or, where a client of old puts that, by its name.
struct ImagePath(ImageKey);

/// The image that a path names by its name.
struct NamePath(ImageKey);

/// Says who serves an operation.
pub(crate) fn row(method: MethodFilter, operation: ImageOperation) -> MethodRouter<App> {
    match operation {
        ImageOperation::CasList => on(method, list),
        ImageOperation::CasFetchByName => on(method, fetch_by_name),
        ImageOperation::CasDeleteByName => on(method, delete_by_name),
        ImageOperation::CasFetch => on(method, fetch),
        ImageOperation::CasDelete => on(method, delete),
        ImageOperation::CasResolve => on(method, resolve),
        ImageOperation::CasRegister => on(method, register_cas),
        ImageOperation::TemplateList => on(method, list_templates),
        ImageOperation::TemplateRegister => on(method, register),
        ImageOperation::TemplateFetchByName => on(method, fetch_template_by_name),
        ImageOperation::TemplateDeleteByName => on(method, delete_by_name),
        ImageOperation::TemplateFetch => on(method, fetch_template),
        ImageOperation::TemplateDelete => on(method, delete),
        ImageOperation::NamedDelete => on(method, delete_by_name),
    }
}

async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
) -> Result<Json<CasImageList>, Failure> {
    let (page, _) = page(&app, &caller, query.as_deref(), ImageFamily::Cas)?;
    Ok(Json(CasImageList {
        items: page.items.iter().map(CasImageBody::new).collect(),
        pagination: NextPage { next: page.next.map(cursor) },
    }))
}

async fn list_templates(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    RawQuery(query): RawQuery,
) -> Result<Json<TemplateList>, Failure> {
    let (page, size) = page(&app, &caller, query.as_deref(), ImageFamily::Legacy)?;
    let path = |place| format!("{}?pageSize={size}&next={}", uri.path(), cursor(place));
    Ok(Json(TemplateList {
        items: page.items.iter().map(TemplateBody::new).collect(),
        pagination: NextPage { next: page.next.map(path) },
    }))
}

async fn fetch(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    ImagePath(key): ImagePath,
) -> Result<Json<CasImageBody>, Failure> {
    Ok(Json(CasImageBody::new(&app.control().image_fetch(&caller.project, &key)?)))
}

async fn fetch_by_name(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    NamePath(key): NamePath,
) -> Result<Json<CasImageBody>, Failure> {
    Ok(Json(CasImageBody::new(&app.control().image_fetch(&caller.project, &key)?)))
}

async fn resolve(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    NamePath(key): NamePath,
) -> Result<Json<CasImageId>, Failure> {
    let record = app.control().image_fetch(&caller.project, &key)?;
    Ok(Json(CasImageId { image_id: record.id.to_string() }))
}

async fn fetch_template(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    ImagePath(key): ImagePath,
) -> Result<Json<TemplateBody>, Failure> {
    Ok(Json(TemplateBody::new(&app.control().image_fetch(&caller.project, &key)?)))
}

async fn fetch_template_by_name(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    NamePath(key): NamePath,
) -> Result<Json<TemplateBody>, Failure> {
    Ok(Json(TemplateBody::new(&app.control().image_fetch(&caller.project, &key)?)))
}

async fn delete(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    ImagePath(key): ImagePath,
) -> Result<Json<Empty>, Failure> {
    app.control().image_delete(&caller.project, &key).await?;
    Ok(Json(Empty {}))
}

async fn delete_by_name(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    NamePath(key): NamePath,
) -> Result<Json<Empty>, Failure> {
    app.control().image_delete(&caller.project, &key).await?;
    Ok(Json(Empty {}))
}

async fn register(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Json<TemplateBody>, Failure> {
    let request = note_ignored(RegisterImage::parse(&read_build_body(&app.config, body).await?)?);
    let RegisterImage { name, snapshot_id, snapshot_sandbox_id, dockerfile, public } = request;
    if let Some(said) = snapshot_sandbox_id {
        let snapshot = app.control().snapshot_fetch(&caller.project, &snapshot_id).await?;
        if snapshot.sandbox != said {
            let text = format!("snapshotSandboxId: {snapshot_id} is of {}", snapshot.sandbox);
            return Err(Failure::new(ErrorCode::InvalidRequest, text));
        }
    }
    let ask = ImageAsk {
        project: caller.project.clone(),
        global: public,
        name,
        family: ImageFamily::Legacy,
        config: None,
        dockerfile: dockerfile.filter(|text| !text.is_empty()),
    };
    let record = app.control().image_register(ask, &snapshot_id).await?;
    Ok(Json(TemplateBody::new(&record)))
}

async fn register_cas(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<(StatusCode, Json<CasImageBody>), Failure> {
    let request =
        note_ignored(RegisterCasImage::parse(&read_build_body(&app.config, body).await?)?);
    let RegisterCasImage { name, snapshot_id, public } = request;
    let ask = ImageAsk {
        project: caller.project.clone(),
        global: public,
        name,
        family: ImageFamily::Cas,
        config: None,
        dockerfile: None,
    };
    let record = app.control().image_register(ask, &snapshot_id).await?;
    Ok((StatusCode::CREATED, Json(CasImageBody::new(&record))))
}

/// Returns a page, and how many images it may have.
fn page(
    app: &App,
    caller: &Caller,
    query: Option<&str>,
    family: ImageFamily,
) -> Result<(ImagePage, usize), Failure> {
    let ListImages { page_size, after } = ListImages::parse(query)?;
    let after = after.map(|Cursor { created_at, id }| ImagePlace { created_at, id });
    let page = app.control().image_page(&caller.project, family, after.as_ref(), page_size);
    Ok((page, page_size))
}

fn cursor(place: ImagePlace) -> String {
    let ImagePlace { created_at, id } = place;
    Cursor { created_at, id }.to_string()
}

fn not_found(text: Option<&str>) -> Failure {
    // A name has at most 255 characters; nobody needs a longer one back.
    let shown: String = text.unwrap_or("?").chars().take(255).collect();
    let text = format!("no image `{shown}` is registered here");
    Failure::new(ErrorCode::ImageNotFound, text)
}

// === impl ImagePath ===

impl<S: Sync> FromRequestParts<S> for ImagePath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let text = path_param(parts, "id").await;
        let key = text.as_deref().and_then(|text| {
            let id = text.parse().ok().map(|id: TemplateId| ImageKey::Id(id.image));
            id.or_else(|| text.parse().ok().map(ImageKey::Name))
        });
        key.map(Self).ok_or_else(|| not_found(text.as_deref()))
    }
}

// === impl NamePath ===

impl<S: Sync> FromRequestParts<S> for NamePath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let text = path_param(parts, "name").await;
        let key = text.as_deref().and_then(|text| text.parse().ok().map(ImageKey::Name));
        key.map(Self).ok_or_else(|| not_found(text.as_deref()))
    }
}
