//! The handlers of builds (spec 06 §2).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    body::Body,
    extract::{FromRequestParts, RawQuery, State},
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
    routing::{MethodFilter, MethodRouter, on},
};
use http_body_util::BodyExt as _;
use tarn_api::{
    BuildOperation, ErrorCode,
    request::{
        CancelBuild, CompleteTemplateBuild, CreateBuild, PrepareTemplateBuild, SealContext,
        build_resources, registry_logins,
    },
    response::{
        BuildBody, BuildCancelled, BuildConflict, ContextUpload, TemplateBody, TemplateBuildBody,
    },
};
use tarn_builder::{
    BuildAsk, BuildSource, BuildView, Builder, BuilderError, Cancel, LegacyAsk, LoginReader,
};
use tarn_control::{Caller, ImageKey};
use tarn_types::{RegistryLogin, TemplateId};

use crate::{
    app::App,
    body::read_build_body,
    failure::Failure,
    sandbox::{note_ignored, path_param},
};

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The longest key of a request, in bytes.
const KEY_LONGEST: usize = 128;

/// How long an upload may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// The build that a path names.
pub(crate) struct BuildPath(String);

/// Returns what serves an operation.
pub(crate) fn row(method: MethodFilter, operation: BuildOperation) -> MethodRouter<App> {
    match operation {
        BuildOperation::Create => on(method, create),
        BuildOperation::Fetch => on(method, fetch),
        BuildOperation::Upload => on(method, upload),
        BuildOperation::Seal => on(method, seal),
        BuildOperation::Cancel => on(method, cancel),
        BuildOperation::TemplatePrepare => on(method, prepare),
        BuildOperation::TemplateComplete => on(method, complete),
    }
}

async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let request_id = request_id(&headers)?;
    let request = note_ignored(CreateBuild::parse(&read_build_body(&app.config, body).await?)?);
    let CreateBuild { kind, name, global, resources, logins, parents } = request;
    let logins = by_registry(&app, logins);
    let ask = BuildAsk {
        request_id,
        source: kind,
        name,
        global,
        resources,
        logins,
        parents,
        legacy: None,
    };
    let created = app.parts.builder.create(&caller.project, ask).await;
    admitted(created, |view| Json(show(&app, &headers, &view)).into_response())
}

/// Shows a build, or the one that is in its way.
fn admitted(
    created: Result<BuildView, BuilderError>,
    show: impl FnOnce(BuildView) -> Response,
) -> Result<Response, Failure> {
    match created {
        Ok(view) => Ok(show(view)),
        Err(BuilderError::InProgress(active)) => {
            let text = BuilderError::InProgress(active.clone()).to_string();
            let body = BuildConflict::new(&active, text);
            Ok((StatusCode::CONFLICT, Json(body)).into_response())
        }
        Err(refused) => Err(refused.into()),
    }
}

async fn prepare(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, Failure> {
    let request =
        note_ignored(PrepareTemplateBuild::parse(&read_build_body(&app.config, body).await?)?);
    let PrepareTemplateBuild { name, dockerfile, public, parent, parents } = request;
    let parent = match parent.as_deref().map(str::parse::<TemplateId>) {
        None => None,
        Some(Ok(id)) => Some(app.control().image_fetch(&caller.project, &ImageKey::Id(id.image))?),
        Some(Err(wrong)) => {
            let text = format!("parentTemplate.templateId: {wrong}");
            return Err(Failure::new(ErrorCode::InvalidRequest, text));
        }
    };
    let read_logins: LoginReader = {
        let app = app.clone();
        Arc::new(move |text| match registry_logins(text) {
            Ok(logins) => Ok(by_registry(&app, logins)),
            Err(refused) => Err(refused.to_string()),
        })
    };
    let mut resources = build_resources();
    if let Some(parent) = &parent {
        resources.disk = resources.disk.max(parent.disk);
    }
    let ask = BuildAsk {
        request_id: None,
        source: BuildSource::Dockerfile { path: "Dockerfile".to_owned(), args: BTreeMap::new() },
        name,
        global: public,
        resources,
        logins: BTreeMap::new(),
        parents,
        legacy: Some(LegacyAsk { dockerfile, read_logins }),
    };
    let created = app.parts.builder.create(&caller.project, ask).await;
    admitted(created, |BuildView { record, .. }| {
        let image = Builder::legacy_image(&record.id);
        let command = Builder::legacy_command();
        let body = TemplateBuildBody::new(&record, image, command, parent.as_ref());
        Json(body).into_response()
    })
}

async fn complete(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    BuildPath(id): BuildPath,
    body: Body,
) -> Result<Json<TemplateBody>, Failure> {
    let request = CompleteTemplateBuild::parse(&read_build_body(&app.config, body).await?)?;
    let CompleteTemplateBuild { snapshot_id } = note_ignored(request);
    let image = app.parts.builder.complete(&caller.project, &id, &snapshot_id).await?;
    Ok(Json(TemplateBody::new(&image)))
}

async fn fetch(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    BuildPath(id): BuildPath,
    headers: HeaderMap,
) -> Result<Json<BuildBody>, Failure> {
    let view = app.parts.builder.fetch(&caller.project, &id)?;
    Ok(Json(show(&app, &headers, &view)))
}

async fn upload(
    State(app): State<App>,
    BuildPath(id): BuildPath,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    mut body: Body,
) -> Result<StatusCode, Failure> {
    let token = query.as_deref().and_then(|query| query.strip_prefix("token="));
    let builder = &app.parts.builder;
    let mut upload = builder.upload(&id, token.unwrap_or_default()).await?;
    let announced = headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let most = builder.context_max_bytes();
    if announced.is_some_and(|bytes| bytes > most) {
        return Err(BuilderError::TooLarge(most).into());
    }
    loop {
        let frame = tokio::time::timeout(SILENCE, body.frame()).await;
        let frame = frame.map_err(|_elapsed| {
            let text = format!("body: nothing came for {} s; send it again", SILENCE.as_secs());
            Failure::new(ErrorCode::InvalidRequest, text)
        })?;
        match frame {
            Some(Ok(frame)) => {
                if let Some(bytes) = frame.data_ref() {
                    upload.write(bytes).await?;
                }
            }
            Some(Err(broken)) => {
                let text = format!("body: it broke off: {broken}; send it again");
                return Err(Failure::new(ErrorCode::InvalidRequest, text));
            }
            None => break,
        }
    }
    upload.finish().await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn seal(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    BuildPath(id): BuildPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<BuildBody>, Failure> {
    let request = note_ignored(SealContext::parse(&read_build_body(&app.config, body).await?)?);
    let view = app.parts.builder.seal(&caller.project, &id, &request.digest).await?;
    Ok(Json(show(&app, &headers, &view)))
}

async fn cancel(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Json<BuildCancelled>, Failure> {
    let request = note_ignored(CancelBuild::parse(&read_build_body(&app.config, body).await?)?);
    let builder = &app.parts.builder;
    let cancelled = match request {
        CancelBuild::Build(id) => builder.cancel(&caller.project, &id).await?,
        CancelBuild::Request(request) => builder.cancel_request(&caller.project, &request).await?,
    };
    let (outcome, record) = match cancelled {
        Cancel::Cancelled(record) => ("cancelled", Some(record)),
        Cancel::AlreadyCancelled(record) => ("already_cancelled", Some(record)),
        Cancel::AlreadyCompleted(record) => ("already_completed", Some(record)),
        Cancel::AlreadyFailed(record) => ("already_failed", Some(record)),
        Cancel::NotAdmitted => ("not_admitted", None),
    };
    let build = record.map(|record| BuildBody::new(&record, None));
    Ok(Json(BuildCancelled { outcome, build }))
}

fn request_id(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    if text.is_empty() || text.len() > KEY_LONGEST {
        let text = format!("{IDEMPOTENCY_KEY}: 1 to {KEY_LONGEST} characters of ASCII");
        return Err(Failure::new(ErrorCode::InvalidRequest, text));
    }
    Ok(Some(text.to_owned()))
}

/// Names registries as references do; of those that images may not be pulled from nothing is kept.
fn by_registry(
    app: &App,
    logins: BTreeMap<String, RegistryLogin>,
) -> BTreeMap<String, RegistryLogin> {
    let host = |written: &str| {
        let host = written.split_once("://").map_or(written, |(_, rest)| rest);
        let host = host.split('/').next().unwrap_or(host);
        let host = if host == "index.docker.io" { "docker.io" } else { host };
        app.control().registry_of(&format!("{host}/any/image"))
    };
    logins.into_iter().filter_map(|(written, login)| Some((host(&written)?, login))).collect()
}

/// Shows a build; the URL that its context goes to is at the address the caller has used.
fn show(app: &App, headers: &HeaderMap, view: &BuildView) -> BuildBody {
    let record = &view.record;
    let upload = record.upload_token.as_ref().map(|token| {
        let api = &app.config.api_url;
        let (scheme, own) = api.split_once("://").unwrap_or(("http", api));
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or(own);
        ContextUpload {
            url: format!("{scheme}://{host}/images/v4/builds/{}/context?token={token}", record.id),
            method: "PUT",
            max_bytes: view.context_max_bytes,
        }
    });
    BuildBody::new(record, upload)
}

// === impl BuildPath ===

impl<S: Sync> FromRequestParts<S> for BuildPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let id = path_param(parts, "id").await;
        id.map(Self).ok_or_else(|| Failure::new(ErrorCode::BuildNotFound, "no such build"))
    }
}

// === impl Failure ===

impl From<BuilderError> for Failure {
    fn from(refused: BuilderError) -> Self {
        let code = match &refused {
            BuilderError::NotFound(_) => ErrorCode::BuildNotFound,
            // Its body is another one where it can be.
            BuilderError::InProgress(_)
            | BuilderError::NotAwaiting { .. }
            | BuilderError::NotBuilt { .. }
            | BuilderError::Uploading(_)
            | BuilderError::Crowded(_) => ErrorCode::BuildNotAwaiting,
            BuilderError::TooMany => ErrorCode::QuotaExceeded,
            BuilderError::Denied => ErrorCode::Forbidden,
            BuilderError::TooLarge(_) => ErrorCode::PayloadTooLarge,
            BuilderError::Context(_) => ErrorCode::InvalidRequest,
            BuilderError::Unavailable(_) => ErrorCode::Unavailable,
            BuilderError::Control(_) => {
                let BuilderError::Control(failed) = refused else {
                    return Self::new(ErrorCode::Internal, "internal error");
                };
                return failed.into();
            }
        };
        Self::new(code, refused.to_string())
    }
}
