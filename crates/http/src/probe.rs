//! The handlers that need no key: health, metrics, the OpenAPI document.

use std::sync::LazyLock;

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use tarn_api::response::HealthBody;

use crate::{app::App, failure::Failure};

/// The text format of Prometheus.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

static OPENAPI: LazyLock<String> = LazyLock::new(tarn_api::openapi_json);

pub(crate) async fn healthz() -> Json<HealthBody> {
    Json(HealthBody { status: "ok" })
}

pub(crate) async fn readyz(State(app): State<App>) -> Result<Json<HealthBody>, Failure> {
    app.control().ready().await?;
    Ok(Json(HealthBody { status: "ok" }))
}

pub(crate) async fn metrics(State(app): State<App>) -> Response {
    let control = app.control();
    let pools = control.pool_counts();
    let (logs, snapshots) = (control.log_counts(), control.snapshot_counts());
    let mut text = app.metrics.render(&control.live_counts(), &logs, &snapshots, &pools);
    for source in &app.parts.metrics {
        text.push_str(&source());
    }
    ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response()
}

pub(crate) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI.as_str())
}
