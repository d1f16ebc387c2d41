//! From the route table to routers. Nothing is served that is not a row, and every row is served.

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{Uri, uri::PathAndQuery},
    middleware::from_fn_with_state,
    routing::{MethodFilter, MethodRouter, on},
};
use tarn_api::{Access, ErrorCode, Method, Operation, ROUTES, Route, Serving};
use tower::util::MapRequest;

use crate::{
    HttpConfig, HttpParts, admin, admin_state, app::App, authorise::authorise, build,
    failure::Failure, frame::frame, image, log, platform, pool, probe, project, registered_image,
    sandbox, secret, snapshot, ssh_key, state,
};

/// Makes the router for clients: every row but the administrative ones.
pub fn router(config: HttpConfig, parts: HttpParts) -> Router {
    let app = App::new(config, parts);
    let keyed = rows(Access::Key)
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(app.clone(), authorise));
    let public = rows(Access::Public).method_not_allowed_fallback(wrong_method);
    finish(keyed.merge(public), app)
}

/// Makes the router for the administrative socket: its rows alone, without keys.
pub fn admin_router(config: HttpConfig, parts: HttpParts) -> Router {
    let app = App::new(config, parts);
    let rows = rows(Access::Admin).fallback(no_route).method_not_allowed_fallback(wrong_method);
    finish(rows, app)
}

fn finish(router: Router<App>, app: App) -> Router {
    let framed = router.layer(from_fn_with_state(app.clone(), frame)).with_state(app);
    // A layer of a router runs after routing, too late to mend a path: hence the router around it.
    Router::new().fallback_service(MapRequest::new(framed, collapse_slashes))
}

fn rows(access: Access) -> Router<App> {
    let rows = ROUTES.iter().filter(|route| route.access == access);
    rows.flat_map(|route| route.paths().into_iter().map(move |path| (route, path)))
        .fold(Router::new(), |router, (route, path)| router.route(&path, row(route)))
}

fn row(route: &Route) -> MethodRouter<App> {
    let method = match route.method {
        Method::Get => MethodFilter::GET,
        Method::Post => MethodFilter::POST,
        Method::Put => MethodFilter::PUT,
        Method::Patch => MethodFilter::PATCH,
        Method::Delete => MethodFilter::DELETE,
    };
    match route.serving {
        Serving::Built(operation) => built(method, operation),
        Serving::NotBuilt(feature) => on(method, move || std::future::ready(not_built(feature))),
        Serving::Absent => on(method, no_route),
    }
}

fn built(method: MethodFilter, operation: Operation) -> MethodRouter<App> {
    match operation {
        Operation::SandboxCreate => on(method, sandbox::create),
        Operation::SandboxList => on(method, sandbox::list),
        Operation::SandboxFetch => on(method, sandbox::fetch),
        Operation::SandboxUpdate => on(method, sandbox::update),
        Operation::SandboxDelete => on(method, sandbox::delete),
        Operation::SandboxSuspend => on(method, state::suspend),
        Operation::SandboxResume => on(method, state::resume),
        Operation::SandboxCopy => on(method, state::copy),
        Operation::SnapshotCreate => on(method, snapshot::create),
        Operation::SandboxSnapshotList => on(method, snapshot::list_of_sandbox),
        Operation::SnapshotList => on(method, snapshot::list),
        Operation::SnapshotFetch => on(method, snapshot::fetch),
        Operation::SnapshotDelete => on(method, snapshot::delete),
        Operation::ArchivedSandboxList => on(method, sandbox::list_archived),
        Operation::ArchivedSandboxFetch => on(method, sandbox::fetch_archived),
        Operation::PoolCreate => on(method, pool::create),
        Operation::PoolList => on(method, pool::list),
        Operation::PoolFetch => on(method, pool::fetch),
        Operation::PoolReplace => on(method, pool::replace),
        Operation::PoolDelete => on(method, pool::delete),
        Operation::PoolClaim => on(method, pool::claim),
        Operation::LogList => on(method, log::list),
        Operation::LogProcessList => on(method, log::list_processes),
        Operation::SecretList => on(method, secret::list),
        Operation::SecretPut => on(method, secret::put),
        Operation::NamespaceSecret(operation) => secret::row(method, operation),
        Operation::SecretFetch => on(method, secret::fetch),
        Operation::SecretDelete => on(method, secret::delete),
        Operation::AdminSecretList => on(method, secret::admin_list),
        Operation::AdminSecretPut => on(method, secret::admin_put),
        Operation::AdminSecretDelete => on(method, secret::admin_delete),
        Operation::AdminSecretKeyRotate => on(method, secret::admin_rotate),
        Operation::AdminImageList => on(method, image::list),
        Operation::AdminImagePull => on(method, image::pull),
        Operation::AdminImageImport => on(method, image::import),
        Operation::AdminImageRemove => on(method, image::remove),
        Operation::AdminLoginList => on(method, image::list_logins),
        Operation::AdminLoginPut => on(method, image::put_login),
        Operation::AdminLoginDelete => on(method, image::delete_login),
        Operation::KeyIntrospect => on(method, platform::introspect),
        Operation::ProjectFetch => on(method, project::fetch),
        Operation::SshKeyList => on(method, ssh_key::list),
        Operation::SshKeyCreate => on(method, ssh_key::create),
        Operation::SshKeyDelete => on(method, ssh_key::delete),
        Operation::AdminProjectList => on(method, project::admin_list),
        Operation::AdminQuotaSet => on(method, project::admin_set_quota),
        Operation::Image(operation) => registered_image::row(method, operation),
        Operation::Build(operation) => build::row(method, operation),
        Operation::Healthz => on(method, probe::healthz),
        Operation::Readyz => on(method, probe::readyz),
        Operation::Metrics => on(method, probe::metrics),
        Operation::OpenApi => on(method, probe::openapi),
        Operation::AdminKeyCreate => on(method, admin::create_key),
        Operation::AdminKeyList => on(method, admin::list_keys),
        Operation::AdminKeyRevoke => on(method, admin::revoke_key),
        Operation::AdminSandboxList => on(method, admin::list_sandboxes),
        Operation::AdminSandboxFetch => on(method, admin::fetch_sandbox),
        Operation::AdminSandboxSuspend => on(method, admin_state::suspend),
        Operation::AdminSandboxResume => on(method, admin_state::resume),
        Operation::AdminSandboxCopy => on(method, admin_state::copy),
        Operation::AdminSandboxNetwork => on(method, admin_state::network),
        Operation::AdminSnapshotCreate => on(method, admin_state::create_snapshot),
        Operation::AdminSnapshotList => on(method, admin_state::list_snapshots),
        Operation::AdminSnapshotFetch => on(method, admin_state::fetch_snapshot),
        Operation::AdminSnapshotDelete => on(method, admin_state::delete_snapshot),
        Operation::AdminTransferList => on(method, admin_state::list_transfers),
        Operation::AdminSnapshotVerify => on(method, admin_state::verify_snapshot),
        Operation::AdminOrphanList => on(method, admin::list_orphans),
        Operation::AdminGpuList => on(method, admin::list_gpus),
    }
}

fn not_built(feature: &str) -> Failure {
    let text = format!("this server does not support {feature} yet; nothing was changed");
    Failure::new(ErrorCode::NotSupported, text)
}

async fn no_route() -> Failure {
    let text = "no such route; /openapi.json lists those there are";
    Failure::new(ErrorCode::NotFound, text)
}

async fn wrong_method() -> Failure {
    let text = "this path has no such method; the `Allow` header lists those it has";
    Failure::new(ErrorCode::MethodNotAllowed, text)
}

/// Makes one slash of many: a base URL that ends in one yields `//v1/…` (spec 00 §2).
fn collapse_slashes(mut request: Request<Body>) -> Request<Body> {
    if !request.uri().path().contains("//") {
        return request;
    }
    let mut path = String::with_capacity(request.uri().path().len());
    for c in request.uri().path().chars() {
        if c != '/' || !path.ends_with('/') {
            path.push(c);
        }
    }
    if let Some(query) = request.uri().query() {
        path.push('?');
        path.push_str(query);
    }
    let mut parts = request.uri().clone().into_parts();
    // It was a path and query before; fewer slashes leave it one.
    if let Ok(path) = PathAndQuery::try_from(path) {
        parts.path_and_query = Some(path);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}
