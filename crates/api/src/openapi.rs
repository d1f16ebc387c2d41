//! The OpenAPI 3.1 document: paths from the route table, schemas from the wire types.
//!
//! It shows what is built, nothing else. Paths are written here and not by macros at the handlers,
//! because the table is what the router is made from.

use serde_json::{Map, Value, json};
use utoipa::OpenApi as _;

use crate::{
    Access, ErrorBody, ErrorCode, Family, Operation, ROUTES, Route, Serving,
    request::{
        ClaimSandbox, CreateKey, CreateSandbox, CreateSnapshot, GpuRequest, ImageRequest,
        PutSecret, RegistryLoginRequest, ResourcesRequest, SandboxPool, UpdateSandbox,
    },
    response::{
        AdminImage, AdminImageList, AdminImageName, AdminImageNames, AdminPull, AdminRegistryLogin,
        AdminRegistryLoginList, AdminSandbox, AdminSandboxList, AdminSecret, AdminSecretList,
        CopySandboxResponse, CreatePoolResponse, CreateSandboxResponse, CreateSnapshotResponse,
        ErrorDetails, GpuInfo, HealthBody, KeyEntry, KeyIdentity, KeyList, LogList,
        LogProcessEntry, LogProcessList, LogRecord, NetworkConfig, NetworkMissing, NetworkReport,
        NetworkReportEntry, NetworkSums, NewKeyBody, OrphanList, Pagination, PoolContainerInfo,
        PoolInfo, PoolList, ProjectBody, ResourcesInfo, SandboxInfo, SandboxList, SecretBody,
        SecretKeyReplaced, SecretList, SnapshotInfo, SnapshotList, SnapshotVerdict, TransferEntry,
        TransferList, TransferTrouble, UnfoundSandbox,
    },
};

#[derive(utoipa::OpenApi)]
#[openapi(components(schemas(
    AdminImage,
    AdminImageList,
    AdminImageName,
    AdminImageNames,
    AdminPull,
    AdminRegistryLogin,
    AdminRegistryLoginList,
    AdminSandbox,
    AdminSandboxList,
    AdminSecret,
    AdminSecretList,
    ClaimSandbox,
    CopySandboxResponse,
    CreateKey,
    CreatePoolResponse,
    CreateSandbox,
    CreateSandboxResponse,
    CreateSnapshot,
    CreateSnapshotResponse,
    ErrorBody,
    ErrorDetails,
    GpuInfo,
    GpuRequest,
    HealthBody,
    ImageRequest,
    KeyEntry,
    KeyIdentity,
    KeyList,
    LogList,
    LogProcessEntry,
    LogProcessList,
    LogRecord,
    NetworkConfig,
    NetworkMissing,
    NetworkReport,
    NetworkReportEntry,
    NetworkSums,
    NewKeyBody,
    OrphanList,
    Pagination,
    PoolContainerInfo,
    PoolInfo,
    PoolList,
    ProjectBody,
    PutSecret,
    RegistryLoginRequest,
    ResourcesInfo,
    ResourcesRequest,
    SandboxInfo,
    SandboxList,
    SandboxPool,
    SecretBody,
    SecretKeyReplaced,
    SecretList,
    SnapshotInfo,
    SnapshotList,
    TransferEntry,
    TransferList,
    TransferTrouble,
    SnapshotVerdict,
    UnfoundSandbox,
    UpdateSandbox
)))]
struct Schemas;

/// The body of a success.
enum Answer {
    Json(&'static str),
    Text,
    AnyJson,
}

/// Returns the document, with a line break at its end: the bytes of `docs/openapi.json`.
#[must_use]
pub fn openapi_json() -> String {
    let schemas = json!(Schemas::openapi())["components"]["schemas"].take();
    let mut paths = Map::new();
    for route in ROUTES {
        let Serving::Built(operation) = route.serving else { continue };
        for path in route.paths() {
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
            {"name": "platform"},
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
        errors.extend([ErrorCode::Unauthenticated, ErrorCode::Forbidden]);
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

/// Returns the status that an operation answers a code with.
fn status(operation: Operation, code: ErrorCode) -> u16 {
    if code == ErrorCode::SecretNotFound && operation != Operation::SandboxCreate {
        return 404;
    }
    code.status()
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn parameters(path: &str, operation: Operation) -> Value {
    let mut parameters: Vec<_> = path
        .split('/')
        .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| {
            json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"},
                "description": path_parameter(name)})
        })
        .collect();
    let mut query = |name: &str, text: &str, schema: Value| {
        let parameter = json!({"name": name, "in": "query", "required": false, "schema": schema,
            "description": text});
        parameters.push(parameter);
    };
    if matches!(operation, Operation::SandboxList | Operation::ArchivedSandboxList) {
        let limit = "At most so many; above 1000 counts as 1000; absent = all, up to 10000.";
        query("limit", limit, json!({"type": "integer", "minimum": 1}));
        query("cursor", "A cursor from an earlier page.", json!({"type": "string"}));
        let ways = json!({"type": "string", "enum": ["forward", "backward"]});
        query("direction", "Toward older or newer sandboxes.", ways);
        let words = tarn_types::SandboxStatus::ALL.map(tarn_types::SandboxStatus::as_str);
        query("status", "Only those with this status.", json!({"type": "string", "enum": words}));
    }
    if operation == Operation::SecretList {
        let size = "At most so many; above 1000 counts as 1000; absent = 1000.";
        query("pageSize", size, json!({"type": "integer", "minimum": 1}));
        query("next", "The page after that of an earlier answer.", json!({"type": "string"}));
        query("prev", "The page before it.", json!({"type": "string"}));
    }
    if operation == Operation::LogList {
        let whole = || json!({"type": "integer", "minimum": 1});
        let list = |items: Value| json!({"type": "array", "items": items});
        let level = json!({"type": "integer", "minimum": 1, "maximum": 6});
        query("level", "One of these levels; repeat it for several.", list(level));
        let process = "Of one of these processes; repeat it for several.";
        query("processId", process, list(json!({"type": "string"})));
        query("body", "With this text in the line.", json!({"type": "string"}));
        query("head", "Only the first so many; not with `tail`.", whole());
        query("tail", "Only the last so many; not with `head`.", whole());
        let token =
            "A token from an earlier page, which then goes on; `head` and `tail` are in it.";
        query("nextToken", token, json!({"type": "string"}));
    }
    if matches!(
        operation,
        Operation::SandboxSuspend
            | Operation::SandboxResume
            | Operation::AdminSandboxSuspend
            | Operation::AdminSandboxResume
    ) {
        let text = "For how many milliseconds the answer may wait for the sandbox; absent = 0.";
        query("wait_ms", text, json!({"type": "integer", "minimum": 0}));
    }
    if operation == Operation::AdminSandboxNetwork {
        query("denied", "Only what was denied.", json!({"type": "boolean"}));
        let whole = json!({"type": "integer", "minimum": 0});
        query("since_secs", "Only what happened so many seconds until now.", whole);
    }
    if matches!(operation, Operation::SandboxCopy | Operation::AdminSandboxCopy) {
        let text = "How many copies; absent = 1.";
        query("times", text, json!({"type": "integer", "minimum": 1}));
    }
    if matches!(operation, Operation::SandboxCreate | Operation::SandboxCopy | Operation::PoolClaim)
    {
        let milliseconds = || json!({"type": "integer", "minimum": 0});
        for (name, text) in [
            ("X-Tensorlake-Request-Timeout-Ms", "The caller's budget; absent = hold at most 30 s."),
            ("X-Tensorlake-Request-Timeout-Grace-Ms", "Answer so long before the budget ends."),
        ] {
            parameters.push(json!({"name": name, "in": "header", "required": false,
                "schema": milliseconds(), "description": text}));
        }
    }
    Value::Array(parameters)
}

fn path_parameter(name: &str) -> &'static str {
    match name {
        "ns" => "`default` (the key's own project), or the name or id of that project.",
        "sid" => "The sandbox's id or name.",
        "o" => "The organization's id.",
        "p" => "The project's id.",
        _ => "The id.",
    }
}

/// Returns the tag and the one sentence of an operation.
fn summary(operation: Operation) -> (&'static str, &'static str) {
    match operation {
        Operation::SandboxCreate => (
            "sandboxes",
            "Creates a sandbox, and waits until it runs or the caller's budget is nearly spent",
        ),
        Operation::SandboxList => ("sandboxes", "Lists sandboxes, newest first"),
        Operation::SandboxFetch => ("sandboxes", "Returns a sandbox"),
        Operation::SandboxUpdate => ("sandboxes", "Changes a sandbox, all or nothing"),
        Operation::SandboxDelete => {
            ("sandboxes", "Ends a sandbox; again on an ended one changes nothing")
        }
        Operation::SandboxSuspend | Operation::AdminSandboxSuspend => {
            (tag(operation), "Suspends a named sandbox: it keeps its state and frees compute")
        }
        Operation::SandboxResume | Operation::AdminSandboxResume => {
            (tag(operation), "Has a suspended sandbox go on where it was")
        }
        Operation::SandboxCopy | Operation::AdminSandboxCopy => (
            tag(operation),
            "Makes sandboxes that go on from where a running one is, and waits for them as create does",
        ),
        Operation::SnapshotCreate | Operation::AdminSnapshotCreate => {
            (tag(operation), "Begins a snapshot of a running sandbox, which runs on")
        }
        Operation::SandboxSnapshotList => {
            ("snapshots", "Lists the snapshots of a sandbox, ended or not, newest first")
        }
        Operation::SnapshotList => ("snapshots", "Lists all snapshots, newest first"),
        Operation::SnapshotFetch | Operation::AdminSnapshotFetch => {
            (tag(operation), "Returns a snapshot")
        }
        Operation::SnapshotDelete | Operation::AdminSnapshotDelete => (
            tag(operation),
            "Removes a snapshot, or cancels it; what was restored from it is not affected",
        ),
        Operation::ArchivedSandboxList => ("sandboxes", "Lists archived sandboxes, newest first"),
        Operation::ArchivedSandboxFetch => ("sandboxes", "Returns an archived sandbox"),
        Operation::PoolCreate => ("pools", "Makes a pool, and starts its containers"),
        Operation::PoolList => ("pools", "Lists pools, oldest first"),
        Operation::PoolFetch => ("pools", "Returns a pool with its containers"),
        Operation::PoolReplace => ("pools", "Replaces all that a pool is, but a policy left out"),
        Operation::PoolDelete => ("pools", "Deletes a pool that no sandbox is claimed from"),
        Operation::PoolClaim => ("pools", "Claims a sandbox, and waits for it as create does"),
        Operation::LogList => {
            ("sandboxes", "Returns what a sandbox's processes printed, oldest first, ended or not")
        }
        Operation::LogProcessList => ("sandboxes", "Lists processes whose output is kept"),
        Operation::SecretList => ("secrets", "Lists secrets by name, without their values"),
        Operation::SecretPut => {
            ("secrets", "Sets one secret, or a list of them all or none; new boots have the values")
        }
        Operation::SecretFetch => ("secrets", "Returns a secret, without its value"),
        Operation::SecretDelete => ("secrets", "Deletes a secret; what runs with it runs on"),
        Operation::AdminSecretList => ("admin", "Lists the secrets of all projects"),
        Operation::AdminSecretPut => ("admin", "Sets a secret of a project"),
        Operation::AdminSecretDelete => ("admin", "Deletes a secret of any project"),
        Operation::AdminSecretKeyRotate => {
            ("admin", "Replaces the key that the secrets of all projects hang on")
        }
        Operation::AdminImageList => ("admin", "Lists pulled and imported images, and pulls"),
        Operation::AdminImagePull => {
            ("admin", "Pulls an image and names it; waits until it is here")
        }
        Operation::AdminImageImport => ("admin", "Imports an image from a file and names it"),
        Operation::AdminImageRemove => ("admin", "Takes names of an image away"),
        Operation::AdminLoginList => ("admin", "Lists what projects show to registries"),
        Operation::AdminLoginPut => ("admin", "Sets what a project shows to a registry"),
        Operation::AdminLoginDelete => ("admin", "Removes what a project shows to a registry"),
        Operation::KeyIntrospect => ("platform", "Tells what the key opens"),
        Operation::ProjectFetch => ("platform", "Returns the key's project"),
        Operation::Healthz => ("server", "Says that the process answers"),
        Operation::Readyz => ("server", "Says whether sandboxes can be created"),
        Operation::Metrics => ("server", "Returns metrics in the Prometheus text format"),
        Operation::OpenApi => ("server", "Returns this document"),
        Operation::AdminKeyCreate => {
            ("admin", "Makes an API key, and its project if there is none of that name")
        }
        Operation::AdminKeyList => ("admin", "Lists the keys of all projects, oldest first"),
        Operation::AdminKeyRevoke => ("admin", "Revokes a key; again changes nothing"),
        Operation::AdminSandboxList => ("admin", "Lists the sandboxes of all projects"),
        Operation::AdminSandboxFetch => ("admin", "Returns a sandbox of any project, in short"),
        Operation::AdminSandboxNetwork => {
            ("admin", "Returns what a sandbox reached, what it was denied and why, and counters")
        }
        Operation::AdminSnapshotList => {
            ("admin", "Lists the snapshots of all projects, each project's newest first")
        }
        Operation::AdminTransferList => {
            ("admin", "Lists what goes to and comes from the object store, and what failed")
        }
        Operation::AdminSnapshotVerify => {
            ("admin", "Reads all of a snapshot and says whether it is what was taken")
        }
        Operation::AdminOrphanList => {
            ("admin", "Lists the sandboxes that a node has and the store does not know")
        }
    }
}

/// Returns the tag of an operation that both routers have under one summary.
fn tag(operation: Operation) -> &'static str {
    let word = operation.as_str();
    if word.starts_with("admin_") {
        "admin"
    } else if word.starts_with("snapshot_") {
        "snapshots"
    } else {
        "sandboxes"
    }
}

/// Returns the schema of an operation's body, if it takes one.
fn request(operation: Operation) -> Option<&'static str> {
    match operation {
        Operation::SandboxCreate => Some("CreateSandboxRequest"),
        Operation::SandboxUpdate => Some("UpdateSandboxRequest"),
        Operation::AdminKeyCreate => Some("CreateKeyRequest"),
        Operation::SecretPut | Operation::AdminSecretPut => Some("PutSecretRequest"),
        Operation::AdminImagePull | Operation::AdminImageImport | Operation::AdminImageRemove => {
            Some("ImageRequest")
        }
        Operation::AdminLoginPut | Operation::AdminLoginDelete => Some("RegistryLoginRequest"),
        Operation::PoolCreate | Operation::PoolReplace => Some("SandboxPoolRequest"),
        Operation::PoolClaim => Some("ClaimSandboxRequest"),
        Operation::SnapshotCreate | Operation::AdminSnapshotCreate => Some("CreateSnapshotRequest"),
        Operation::SandboxList
        | Operation::SandboxSuspend
        | Operation::SandboxResume
        | Operation::SandboxCopy
        | Operation::SandboxSnapshotList
        | Operation::SnapshotList
        | Operation::SnapshotFetch
        | Operation::SnapshotDelete
        | Operation::AdminSandboxFetch
        | Operation::AdminSandboxSuspend
        | Operation::AdminSandboxResume
        | Operation::AdminSandboxCopy
        | Operation::AdminSandboxNetwork
        | Operation::AdminSnapshotList
        | Operation::AdminSnapshotFetch
        | Operation::AdminSnapshotDelete
        | Operation::PoolList
        | Operation::PoolFetch
        | Operation::PoolDelete
        | Operation::SandboxFetch
        | Operation::SandboxDelete
        | Operation::ArchivedSandboxList
        | Operation::ArchivedSandboxFetch
        | Operation::LogList
        | Operation::LogProcessList
        | Operation::SecretList
        | Operation::SecretFetch
        | Operation::SecretDelete
        | Operation::AdminSecretList
        | Operation::AdminSecretDelete
        | Operation::AdminSecretKeyRotate
        | Operation::AdminImageList
        | Operation::AdminLoginList
        | Operation::KeyIntrospect
        | Operation::ProjectFetch
        | Operation::Healthz
        | Operation::Readyz
        | Operation::Metrics
        | Operation::OpenApi
        | Operation::AdminKeyList
        | Operation::AdminKeyRevoke
        | Operation::AdminSandboxList
        | Operation::AdminTransferList
        | Operation::AdminSnapshotVerify
        | Operation::AdminOrphanList => None,
    }
}

/// Returns the statuses of success, with what they mean and their body.
fn success(operation: Operation) -> &'static [(u16, &'static str, Answer)] {
    match operation {
        Operation::SandboxCreate => &[
            (200, "Running, ended, or still pending", Answer::Json("CreateSandboxResponse")),
            (202, "With `wait: false`: queued", Answer::Json("CreateSandboxResponse")),
        ],
        Operation::SandboxList | Operation::ArchivedSandboxList => {
            &[(200, "A page", Answer::Json("SandboxList"))]
        }
        Operation::SandboxFetch | Operation::SandboxUpdate | Operation::ArchivedSandboxFetch => {
            &[(200, "The sandbox", Answer::Json("SandboxInfo"))]
        }
        Operation::SandboxDelete => &[(200, "The end is durable", Answer::AnyJson)],
        Operation::SandboxSuspend | Operation::AdminSandboxSuspend => &[
            (200, "It is suspended, its state durable", Answer::AnyJson),
            (202, "It is on the way", Answer::AnyJson),
        ],
        Operation::SandboxResume | Operation::AdminSandboxResume => {
            &[(200, "It runs", Answer::AnyJson), (202, "It is on the way", Answer::AnyJson)]
        }
        Operation::SandboxCopy | Operation::AdminSandboxCopy => {
            &[(200, "What became of each copy", Answer::Json("CopySandboxResponse"))]
        }
        Operation::SnapshotCreate | Operation::AdminSnapshotCreate => {
            &[(202, "It is being taken", Answer::Json("CreateSnapshotResponse"))]
        }
        Operation::SandboxSnapshotList | Operation::SnapshotList | Operation::AdminSnapshotList => {
            &[(200, "All of them", Answer::Json("SnapshotList"))]
        }
        Operation::SnapshotFetch | Operation::AdminSnapshotFetch => {
            &[(200, "The snapshot", Answer::Json("SnapshotInfo"))]
        }
        Operation::SnapshotDelete | Operation::AdminSnapshotDelete => {
            &[(200, "It is gone", Answer::AnyJson)]
        }
        Operation::PoolCreate => &[(200, "It is made", Answer::Json("CreatePoolResponse"))],
        Operation::PoolList => &[(200, "All of them", Answer::Json("PoolList"))],
        Operation::PoolFetch | Operation::PoolReplace => {
            &[(200, "The pool", Answer::Json("PoolInfo"))]
        }
        Operation::PoolDelete => &[(200, "It is gone", Answer::AnyJson)],
        Operation::PoolClaim => {
            &[(200, "Running, ended, or still pending", Answer::Json("CreateSandboxResponse"))]
        }
        Operation::AdminSandboxFetch => &[(200, "The sandbox", Answer::Json("AdminSandbox"))],
        Operation::AdminSandboxNetwork => {
            &[(200, "Its network log", Answer::Json("NetworkReport"))]
        }
        Operation::LogList => &[(200, "A page", Answer::Json("LogList"))],
        Operation::LogProcessList => &[(200, "The processes", Answer::Json("LogProcessList"))],
        Operation::SecretList => &[(200, "A page", Answer::Json("SecretList"))],
        Operation::SecretPut => {
            &[(200, "It is set; for a list, a list of these", Answer::Json("SecretBody"))]
        }
        Operation::SecretFetch => &[(200, "The secret", Answer::Json("SecretBody"))],
        Operation::SecretDelete | Operation::AdminSecretDelete => {
            &[(200, "It is gone", Answer::AnyJson)]
        }
        Operation::AdminSecretList => &[(200, "All of them", Answer::Json("AdminSecretList"))],
        Operation::AdminSecretPut => &[(200, "It is set", Answer::Json("AdminSecretList"))],
        Operation::AdminSecretKeyRotate => {
            &[(200, "It is replaced", Answer::Json("SecretKeyReplaced"))]
        }
        Operation::AdminImageList => &[(200, "All of them", Answer::Json("AdminImageList"))],
        Operation::AdminImagePull | Operation::AdminImageImport => {
            &[(200, "It is here, under this name", Answer::Json("AdminImageNames"))]
        }
        Operation::AdminImageRemove => {
            &[(200, "It has these names no more", Answer::Json("AdminImageNames"))]
        }
        Operation::AdminLoginList => {
            &[(200, "All of them", Answer::Json("AdminRegistryLoginList"))]
        }
        Operation::AdminLoginPut => &[(200, "It is set", Answer::Json("AdminRegistryLogin"))],
        Operation::AdminLoginDelete => &[(200, "It is gone", Answer::AnyJson)],
        Operation::KeyIntrospect => &[(200, "The key's identity", Answer::Json("KeyIdentity"))],
        Operation::ProjectFetch => &[(200, "The project", Answer::Json("ProjectBody"))],
        Operation::Healthz => &[(200, "It does", Answer::Json("HealthBody"))],
        Operation::Readyz => &[(200, "They can", Answer::Json("HealthBody"))],
        Operation::Metrics => &[(200, "The metrics", Answer::Text)],
        Operation::OpenApi => &[(200, "This document", Answer::AnyJson)],
        Operation::AdminKeyCreate => {
            &[(200, "The key, shown this once", Answer::Json("NewKeyBody"))]
        }
        Operation::AdminKeyList => &[(200, "The keys", Answer::Json("KeyList"))],
        Operation::AdminKeyRevoke => &[(200, "It opens nothing any more", Answer::AnyJson)],
        Operation::AdminSandboxList => &[(200, "The sandboxes", Answer::Json("AdminSandboxList"))],
        Operation::AdminTransferList => {
            &[(200, "The transfers, and where the object store is", Answer::Json("TransferList"))]
        }
        Operation::AdminSnapshotVerify => {
            &[(200, "What was found", Answer::Json("SnapshotVerdict"))]
        }
        Operation::AdminOrphanList => {
            &[(200, "Their ids, and what keeps the others", Answer::Json("OrphanList"))]
        }
    }
}

/// What a pool may be refused for.
const POOL_SETTINGS: [ErrorCode; 5] = [
    ErrorCode::InvalidRequest,
    ErrorCode::LimitExceeded,
    ErrorCode::NoSuchGpu,
    ErrorCode::ImageNotFound,
    ErrorCode::PayloadTooLarge,
];

const POOL_REPLACEMENT: [ErrorCode; 6] = {
    let [a, b, c, d, e] = POOL_SETTINGS;
    [a, b, c, d, e, ErrorCode::PoolNotFound]
};

/// What a sandbox may be refused for.
const SANDBOX_SETTINGS: [ErrorCode; 14] = [
    ErrorCode::InvalidRequest,
    ErrorCode::LimitExceeded,
    ErrorCode::NotSupported,
    ErrorCode::SandboxEphemeral,
    ErrorCode::NoSuchGpu,
    ErrorCode::ImageNotFound,
    ErrorCode::SandboxNameTaken,
    ErrorCode::SnapshotNotFound,
    ErrorCode::SnapshotNotReady,
    ErrorCode::SnapshotOverrideForbidden,
    ErrorCode::SnapshotIncompatible,
    ErrorCode::SecretNotFound,
    ErrorCode::DiskShrinkForbidden,
    ErrorCode::PayloadTooLarge,
];

/// What an order about an image may be refused for.
const IMAGE_ORDERS: [ErrorCode; 4] = [
    ErrorCode::InvalidRequest,
    ErrorCode::NotFound,
    ErrorCode::ImageNotFound,
    ErrorCode::PayloadTooLarge,
];

/// What a change of a sandbox may be refused for.
const SANDBOX_CHANGES: [ErrorCode; 7] = [
    ErrorCode::InvalidRequest,
    ErrorCode::NotSupported,
    ErrorCode::SandboxEphemeral,
    ErrorCode::SandboxNotFound,
    ErrorCode::SandboxNameTaken,
    ErrorCode::SandboxTerminated,
    ErrorCode::PayloadTooLarge,
];

/// Returns the errors that are an operation's own.
fn errors(operation: Operation) -> &'static [ErrorCode] {
    match operation {
        Operation::SandboxCreate => &SANDBOX_SETTINGS,
        Operation::SandboxSuspend | Operation::AdminSandboxSuspend => &[
            ErrorCode::InvalidRequest,
            ErrorCode::SandboxEphemeral,
            ErrorCode::SandboxNotRunning,
            ErrorCode::SandboxNotFound,
            ErrorCode::SandboxTerminated,
        ],
        Operation::SandboxResume | Operation::AdminSandboxResume => {
            &[ErrorCode::InvalidRequest, ErrorCode::SandboxNotFound, ErrorCode::SandboxTerminated]
        }
        Operation::SandboxCopy | Operation::AdminSandboxCopy => &[
            ErrorCode::InvalidRequest,
            ErrorCode::LimitExceeded,
            ErrorCode::NotSupported,
            ErrorCode::SandboxNotRunning,
            ErrorCode::SandboxNotFound,
            ErrorCode::SandboxBusy,
        ],
        Operation::SnapshotCreate | Operation::AdminSnapshotCreate => &[
            ErrorCode::InvalidRequest,
            ErrorCode::NotSupported,
            ErrorCode::SandboxNotRunning,
            ErrorCode::SandboxNotFound,
            ErrorCode::SandboxBusy,
            ErrorCode::PayloadTooLarge,
        ],
        Operation::SnapshotFetch
        | Operation::SnapshotDelete
        | Operation::AdminSnapshotFetch
        | Operation::AdminSnapshotDelete => &[ErrorCode::SnapshotNotFound],
        Operation::AdminSnapshotVerify => {
            &[ErrorCode::SnapshotNotFound, ErrorCode::SnapshotNotReady]
        }
        Operation::SandboxUpdate => &SANDBOX_CHANGES,
        Operation::PoolCreate => &POOL_SETTINGS,
        Operation::PoolReplace => &POOL_REPLACEMENT,
        Operation::PoolFetch => &[ErrorCode::PoolNotFound],
        Operation::PoolDelete => &[ErrorCode::PoolNotFound, ErrorCode::PoolInUse],
        Operation::PoolClaim => &[
            ErrorCode::InvalidRequest,
            ErrorCode::NotSupported,
            ErrorCode::PoolNotFound,
            ErrorCode::PayloadTooLarge,
        ],
        Operation::SandboxList | Operation::ArchivedSandboxList | Operation::SecretList => {
            &[ErrorCode::InvalidRequest]
        }
        Operation::LogList => &[ErrorCode::InvalidRequest, ErrorCode::SandboxNotFound],
        Operation::AdminSandboxNetwork => &[
            ErrorCode::InvalidRequest,
            ErrorCode::SandboxNotFound,
            ErrorCode::SandboxNotRunning,
            ErrorCode::SandboxTerminated,
        ],
        Operation::SandboxFetch
        | Operation::SandboxDelete
        | Operation::SandboxSnapshotList
        | Operation::AdminSandboxFetch
        | Operation::ArchivedSandboxFetch
        | Operation::LogProcessList => &[ErrorCode::SandboxNotFound],
        Operation::SecretPut => {
            &[ErrorCode::InvalidRequest, ErrorCode::LimitExceeded, ErrorCode::PayloadTooLarge]
        }
        Operation::AdminSecretPut => &[
            ErrorCode::InvalidRequest,
            ErrorCode::LimitExceeded,
            ErrorCode::NotFound,
            ErrorCode::PayloadTooLarge,
        ],
        Operation::AdminImagePull | Operation::AdminImageImport => &IMAGE_ORDERS,
        Operation::AdminImageRemove | Operation::AdminLoginPut | Operation::AdminLoginDelete => {
            &[ErrorCode::InvalidRequest, ErrorCode::NotFound, ErrorCode::PayloadTooLarge]
        }
        Operation::SecretFetch | Operation::SecretDelete | Operation::AdminSecretDelete => {
            &[ErrorCode::SecretNotFound]
        }
        Operation::ProjectFetch | Operation::AdminKeyRevoke => &[ErrorCode::NotFound],
        Operation::AdminKeyCreate => &[ErrorCode::InvalidRequest, ErrorCode::PayloadTooLarge],
        Operation::KeyIntrospect
        | Operation::Healthz
        | Operation::Readyz
        | Operation::Metrics
        | Operation::OpenApi
        | Operation::SnapshotList
        | Operation::PoolList
        | Operation::AdminKeyList
        | Operation::AdminSandboxList
        | Operation::AdminSecretList
        | Operation::AdminSecretKeyRotate
        | Operation::AdminImageList
        | Operation::AdminLoginList
        | Operation::AdminSnapshotList
        | Operation::AdminTransferList
        | Operation::AdminOrphanList => &[],
    }
}

#[cfg(test)]
mod tests;
