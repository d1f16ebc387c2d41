//! The handlers of SSH keys (spec 08 §5). "me" is the project of the key that asks.

use axum::{
    Extension, Json,
    body::Body,
    extract::{FromRequestParts, State},
    http::request::Parts,
};
use tarn_api::{
    ErrorCode,
    request::CreateSshKey,
    response::{SshKeyBody, SshKeyList},
};
use tarn_control::Caller;
use tarn_types::SshKeyId;

use crate::{
    app::App,
    body::read_body,
    failure::Failure,
    sandbox::{Empty, note_ignored, path_param},
};

/// The SSH key that a path names.
pub(crate) struct SshKeyPath(SshKeyId);

pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<SshKeyList>, Failure> {
    let keys = app.control().ssh_key_list(&caller.project).await?;
    Ok(Json(SshKeyList { items: keys.iter().map(SshKeyBody::new).collect() }))
}

pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Json<SshKeyBody>, Failure> {
    let request = note_ignored(CreateSshKey::parse(&read_body(&app.config, body).await?)?);
    let CreateSshKey { name, public_key } = request;
    let key = app.control().ssh_key_create(&caller.project, name, public_key).await?;
    Ok(Json(SshKeyBody::new(&key)))
}

pub(crate) async fn delete(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    SshKeyPath(id): SshKeyPath,
) -> Result<Json<Empty>, Failure> {
    app.control().ssh_key_delete(&caller.project, &id).await?;
    Ok(Json(Empty {}))
}

// === impl SshKeyPath ===

impl<S: Sync> FromRequestParts<S> for SshKeyPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let text = path_param(parts, "id").await;
        // What is no id is nobody's; nobody needs a longer one back.
        let shown: String = text.as_deref().unwrap_or("?").chars().take(80).collect();
        let parsed = text.as_deref().and_then(|text| text.parse().ok());
        parsed.map(Self).ok_or_else(|| {
            let text = format!("no SSH key `{shown}`; list them for their ids");
            Failure::new(ErrorCode::NotFound, text)
        })
    }
}
