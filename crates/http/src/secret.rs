//! The handlers of secrets (spec 08 §2), and those of the administrative socket. No answer holds a
//! value.

use axum::{
    Extension, Json,
    body::Body,
    extract::{FromRequestParts, RawQuery, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse as _, Response},
    routing::{MethodFilter, MethodRouter, on},
};
use tarn_api::{
    ErrorCode, NamespaceSecretOperation,
    request::{ListSecrets, PutProjectSecret, PutSecrets, SecretPlace},
    response::{
        AdminSecret, AdminSecretList, NamespaceSecretBody, NamespaceSecretList, Pagination,
        SecretBody, SecretKeyReplaced, SecretList,
    },
};
use tarn_control::{Caller, ControlError};
use tarn_types::{SecretId, SecretRecord};

use crate::{
    admin::projects,
    app::App,
    body::read_body,
    failure::Failure,
    sandbox::{Empty, note_ignored, path_param},
};

/// The secret that a path names.
pub(crate) struct SecretPath(SecretId);

/// Says who serves an operation below a namespace.
pub(crate) fn row(method: MethodFilter, operation: NamespaceSecretOperation) -> MethodRouter<App> {
    match operation {
        NamespaceSecretOperation::List => on(method, list_in_namespace),
        NamespaceSecretOperation::Put => on(method, put_in_namespace),
        NamespaceSecretOperation::Fetch => on(method, fetch_in_namespace),
        NamespaceSecretOperation::Delete => on(method, delete),
    }
}

pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
) -> Result<Json<SecretList>, Failure> {
    let ask = ListSecrets::parse(query.as_deref())?;
    Ok(Json(page(&app.control().secret_list(&caller.project).await?, &ask)))
}

pub(crate) async fn put(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Response, Failure> {
    let request = note_ignored(PutSecrets::parse(&read_body(&app.config, body).await?)?);
    let stored = app.control().secret_put(&caller.project, request.secrets).await?;
    let mut stored = stored.iter().map(SecretBody::new);
    Ok(match (request.many, stored.len()) {
        (false, 1) => Json(stored.next()).into_response(),
        (true | false, _) => Json(stored.collect::<Vec<_>>()).into_response(),
    })
}

pub(crate) async fn fetch(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    SecretPath(id): SecretPath,
) -> Result<Json<SecretBody>, Failure> {
    Ok(Json(SecretBody::new(&app.control().secret_fetch(&caller.project, &id).await?)))
}

async fn list_in_namespace(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<NamespaceSecretList>, Failure> {
    let secrets = app.control().secret_list(&caller.project).await?;
    Ok(Json(NamespaceSecretList(secrets.iter().map(NamespaceSecretBody::new).collect())))
}

async fn put_in_namespace(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<(StatusCode, Json<NamespaceSecretBody>), Failure> {
    let request = note_ignored(PutSecrets::parse(&read_body(&app.config, body).await?)?);
    if request.many {
        let text = "a secret has a name and a value; lists are for /platform/v1/secrets";
        return Err(Failure::new(ErrorCode::InvalidRequest, text));
    }
    let stored = app.control().secret_put(&caller.project, request.secrets).await?;
    let stored = stored.first().map(NamespaceSecretBody::new);
    let stored = stored.ok_or_else(|| Failure::new(ErrorCode::Internal, "no secret was stored"))?;
    Ok((StatusCode::CREATED, Json(stored)))
}

async fn fetch_in_namespace(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    SecretPath(id): SecretPath,
) -> Result<Json<NamespaceSecretBody>, Failure> {
    let secret = app.control().secret_fetch(&caller.project, &id).await?;
    Ok(Json(NamespaceSecretBody::new(&secret)))
}

pub(crate) async fn delete(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    SecretPath(id): SecretPath,
) -> Result<Json<Empty>, Failure> {
    app.control().secret_delete(&caller.project, &id).await?;
    Ok(Json(Empty {}))
}

pub(crate) async fn admin_list(State(app): State<App>) -> Result<Json<AdminSecretList>, Failure> {
    let mut secrets = Vec::new();
    for (project, name) in projects(&app).await? {
        let theirs = app.control().secret_list(&project).await?;
        secrets.extend(theirs.iter().map(|secret| AdminSecret::new(secret, &name)));
    }
    Ok(Json(AdminSecretList { secrets }))
}

pub(crate) async fn admin_put(
    State(app): State<App>,
    body: Body,
) -> Result<Json<AdminSecretList>, Failure> {
    let request = note_ignored(PutProjectSecret::parse(&read_body(&app.config, body).await?)?);
    let projects = projects(&app).await?;
    let Some((project, name)) = projects.into_iter().find(|(_, name)| *name == request.project)
    else {
        let text = format!("no project `{}`; `tarn key create` makes one", request.project);
        return Err(Failure::new(ErrorCode::NotFound, text));
    };
    let secrets = vec![(request.name, request.value)];
    let stored = app.control().secret_put(&project, secrets).await?;
    let secrets = stored.iter().map(|secret| AdminSecret::new(secret, &name)).collect();
    Ok(Json(AdminSecretList { secrets }))
}

pub(crate) async fn admin_delete(
    State(app): State<App>,
    SecretPath(id): SecretPath,
) -> Result<Json<Empty>, Failure> {
    for (project, _) in projects(&app).await? {
        match app.control().secret_delete(&project, &id).await {
            Ok(()) => return Ok(Json(Empty {})),
            Err(ControlError::SecretNotFound(_)) => {}
            Err(failed) => return Err(failed.into()),
        }
    }
    Err(not_found(id.as_str()))
}

pub(crate) async fn admin_rotate(
    State(app): State<App>,
) -> Result<Json<SecretKeyReplaced>, Failure> {
    let projects = app.control().secret_key_rotate().await?;
    Ok(Json(SecretKeyReplaced { projects }))
}

/// Cuts a page out of all secrets, which are in the order of their names.
fn page(all: &[SecretRecord], ask: &ListSecrets) -> SecretList {
    let (start, end) = match &ask.from {
        SecretPlace::Start => (0, ask.page_size.min(all.len())),
        SecretPlace::After(name) => {
            let start = all.partition_point(|secret| secret.name.as_str() <= name.as_str());
            (start, start.saturating_add(ask.page_size).min(all.len()))
        }
        SecretPlace::Before(name) => {
            let end = all.partition_point(|secret| secret.name.as_str() < name.as_str());
            (end.saturating_sub(ask.page_size), end)
        }
    };
    let items = &all[start..end];
    let name = |secret: Option<&SecretRecord>| secret.map(|secret| secret.name.to_string());
    SecretList {
        items: items.iter().map(SecretBody::new).collect(),
        pagination: Pagination {
            next: name(items.last().filter(|_| end < all.len())),
            prev: name(items.first().filter(|_| start > 0)),
            total: all.len(),
        },
    }
}

fn not_found(text: &str) -> Failure {
    // Nobody needs a longer one back.
    let shown: String = text.chars().take(80).collect();
    Failure::new(ErrorCode::SecretNotFound, format!("no secret `{shown}`; list them for their ids"))
        .with_status(StatusCode::NOT_FOUND)
}

// === impl SecretPath ===

impl<S: Sync> FromRequestParts<S> for SecretPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let text = path_param(parts, "id").await;
        // What is no id is nobody's.
        let parsed = text.as_deref().and_then(|text| text.parse().ok());
        parsed.map(Self).ok_or_else(|| not_found(text.as_deref().unwrap_or("?")))
    }
}

#[cfg(test)]
mod tests {
    use tarn_types::{ProjectId, UnixMillis};

    use super::*;

    #[test]
    fn pages_tile_the_list_both_ways() {
        let secret = |name: &str| SecretRecord {
            id: SecretId::from_random([1; 16]),
            project: ProjectId::from_random([2; 16]),
            name: name.parse().expect("a good name"),
            created_at: UnixMillis(0),
            updated_at: UnixMillis(0),
        };
        let all = ["A", "B", "C", "D", "E"].map(secret);
        let look = |from: SecretPlace| {
            let list = page(&all, &ListSecrets { page_size: 2, from });
            let names: String = list.items.iter().map(|item| item.name.as_str()).collect();
            assert_eq!(list.pagination.total, 5);
            (names, list.pagination.prev, list.pagination.next)
        };
        let at = |name: &str| Some(name.to_owned());
        let after = |name: &str| SecretPlace::After(name.to_owned());
        let before = |name: &str| SecretPlace::Before(name.to_owned());
        assert_eq!(look(SecretPlace::Start), ("AB".into(), None, at("B")));
        assert_eq!(look(after("B")), ("CD".into(), at("C"), at("D")));
        assert_eq!(look(after("D")), ("E".into(), at("E"), None));
        assert_eq!(look(before("C")), ("AB".into(), None, at("B")));
        assert_eq!(look(before("B")), ("A".into(), None, at("A")));
        // Of what was deleted meanwhile the place stays.
        assert_eq!(look(after("BB")), ("CD".into(), at("C"), at("D")));
        assert_eq!(look(after("Z")), (String::new(), None, None));
    }
}
