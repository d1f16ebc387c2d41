//! What surrounds every request: its id, its time, its log line, its metrics, the body of its
//! error, and the net under a panic.

use std::{panic::AssertUnwindSafe, time::Duration};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method, StatusCode},
    middleware::Next,
    response::Response,
};
use futures::FutureExt as _;
use tarn_api::{ROUTES, Serving};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::{
    app::App,
    failure::{BodyStyle, Failure},
};

const REQUEST_ID: &str = "x-request-id";

/// What logs and metrics call a request that met no route.
const NO_ROUTE: &str = "none";

/// Runs the rest of the way for a request, and completes its answer.
pub(crate) async fn frame(State(app): State<App>, request: Request, next: Next) -> Response {
    let id = format!("{:016x}", u64::from_le_bytes(app.parts.entropy.bytes()));
    let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let route = label(request.method(), matched);
    let style = style(request.uri().path());
    let span = tracing::debug_span!("request", request.id = id, route);
    let started = Instant::now();
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span).await;
    let mut response = match answered {
        Ok(mut response) => match response.extensions_mut().remove::<Failure>() {
            Some(failure) => {
                failure.log(&id);
                failure.render(style)
            }
            None => response,
        },
        Err(_panic) => {
            let failure = Failure::panicked();
            failure.log(&id);
            failure.render(style)
        }
    };
    finish(&app, route, &id, &mut response, started.elapsed());
    response
}

fn finish(app: &App, route: &'static str, id: &str, response: &mut Response, took: Duration) {
    let status = response.status();
    app.metrics.count(route, status);
    if route == tarn_api::Operation::SandboxCreate.as_str() && status == StatusCode::OK {
        app.metrics.observe_create(took);
    }
    let duration_ms = took.as_millis();
    tracing::debug!(request.id = id, route, status = status.as_u16(), duration_ms, "answered");
    let value = HeaderValue::from_str(id).expect("an id is hexadecimal digits");
    response.headers_mut().insert(REQUEST_ID, value);
}

/// Returns the label of the row that a request met. Only these go into metrics: a path would let
/// any caller make as many as it likes.
fn label(method: &Method, matched: Option<&str>) -> &'static str {
    let Some(matched) = matched else { return NO_ROUTE };
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    let found = ROUTES.iter().find(|route| {
        route.method.as_str() == method
            // The cheap test first: this runs for every request.
            && matched.ends_with(route.path)
            && route.paths().iter().any(|path| path == matched)
    });
    found.map_or(NO_ROUTE, |route| Serving::label(route.serving))
}

/// The `tl` CLI shows `message` of errors under these paths (spec 00 §3).
fn style(path: &str) -> BodyStyle {
    if path.starts_with("/platform/v1/") || path.starts_with("/images/v4/") {
        BodyStyle::WithMessage
    } else {
        BodyStyle::Plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_the_table() {
        let table = [
            (Method::POST, Some("/v1/namespaces/{ns}/sandboxes"), "sandbox_create"),
            (Method::POST, Some("/sandboxes"), "sandbox_create"),
            (Method::HEAD, Some("/sandboxes/{sid}"), "sandbox_fetch"),
            (Method::PUT, Some("/sandboxes/{sid}"), "none"),
            (Method::GET, Some("/snapshots"), "snapshot_list"),
            (Method::GET, Some("/sandbox-pools"), "pool_list"),
            (Method::GET, Some("/platform/v1/secrets"), "secret_list"),
            (Method::GET, Some("/platform/v1/users/me/ssh-keys"), "ssh_key_list"),
            (Method::POST, Some("/sandboxes/{sid}/file_systems"), "not_built"),
            (Method::GET, None, "none"),
        ];
        for (method, matched, expected) in table {
            assert_eq!(label(&method, matched), expected, "{method} {matched:?}");
        }
    }
}
