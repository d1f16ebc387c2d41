//! The OpenAPI 3.1 document: paths from the route table, schemas from the wire types.
//!
//! It shows what is built, nothing else. Paths are written here and not by macros at the handlers,
//! because the table is what the router is made from.

mod build;
mod image;
mod parameter;
mod refusal;
mod schema;
mod secret;
mod success;
mod summary;

use serde_json::{Map, Value, json};
use utoipa::OpenApi as _;

use self::{
    parameter::parameters,
    refusal::{errors, status},
    schema::Schemas,
    success::{Answer, success},
    summary::{request, summary},
};
use crate::{Access, ErrorCode, Family, Operation, ROUTES, Route, Serving};

/// Returns the document, with a line break at its end: the bytes of `docs/openapi.json`.
#[must_use]
pub fn openapi_json() -> String {
    let schemas = json!(Schemas::openapi())["components"]["schemas"].take();
    let mut paths = Map::new();
    for route in ROUTES {
        let Serving::Built(operation) = route.serving else { continue };
        for path in route.paths() {
            // The document has no word for the rest of a path.
            let path = path.replace("{*", "{");
            let item = operation_item(route, &path, operation);
            let methods = paths.entry(path).or_insert_with(|| json!({}));
            methods[route.method.as_str().to_ascii_lowercase()] = item;
        }
    }
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "tarn",
            "description": "Agent sandboxes on one's own machines, speaking the Tensorlake sandbox \
                API. Routes of the admin tag answer only on the unix socket `admin.sock`.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:8900"}],
        "tags": [
            {"name": "sandboxes"}, {"name": "snapshots"}, {"name": "pools"}, {"name": "secrets"},
            {"name": "platform"}, {"name": "images"},
            {"name": "server"}, {"name": "admin"},
        ],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    });
    format!("{document:#}\n")
}

fn operation_item(route: &Route, path: &str, operation: Operation) -> Value {
    let (tag, summary) = summary(operation);
    // An operation id is unique in a document, and most rows have two paths.
    let flat = route.family == Family::Project && path == route.path;
    let scoped = route.family == Family::Platform && path.contains("{o}");
    let suffix = match (flat, scoped) {
        (true, _) => "_flat",
        (false, true) => "_scoped",
        (false, false) => "",
    };
    let mut item = json!({
        "tags": [tag],
        "summary": summary,
        "operationId": format!("{}{suffix}", operation.as_str()),
        "parameters": parameters(path, operation),
        "responses": responses(route, operation),
        "security": if route.access == Access::Key { json!([{"key": []}]) } else { json!([]) },
    });
    if let Some(schema) = request(operation) {
        item["requestBody"] = json!({
            "required": false,
            "content": {"application/json": {"schema": reference(schema)}},
        });
    }
    item
}

fn responses(route: &Route, operation: Operation) -> Value {
    let mut responses = Map::new();
    for (status, text, answer) in success(operation) {
        let mut response = json!({"description": text});
        match answer {
            Answer::Json(schema) => {
                response["content"] = json!({"application/json": {"schema": reference(schema)}});
            }
            Answer::AnyJson => {
                response["content"] = json!({"application/json": {"schema": {"type": "object"}}});
            }
            Answer::Text => {
                response["content"] = json!({"text/plain": {"schema": {"type": "string"}}});
            }
        }
        responses.insert(status.to_string(), response);
    }
    let mut errors = errors(operation).to_vec();
    if route.access == Access::Key {
        errors.extend([ErrorCode::Unauthenticated, ErrorCode::Forbidden, ErrorCode::RateLimited]);
    }
    if !matches!(operation, Operation::Healthz | Operation::OpenApi | Operation::Metrics) {
        errors.extend([ErrorCode::Internal, ErrorCode::Unavailable]);
    }
    let status = |code: ErrorCode| status(operation, code);
    errors.sort_unstable_by_key(|code| (status(*code), *code));
    for chunk in errors.chunk_by(|a, b| status(*a) == status(*b)) {
        let words: Vec<_> = chunk.iter().map(|code| format!("`{code}`")).collect();
        let response = json!({
            "description": words.join(", "),
            "content": {"application/json": {"schema": reference("ErrorBody")}},
        });
        responses.insert(status(chunk[0]).to_string(), response);
    }
    Value::Object(responses)
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

#[cfg(test)]
mod tests;
