//! The listeners of the API: clients on TCP, the administrator on the unix socket.

use std::{fmt::Write as _, sync::Arc};

use anyhow::Context as _;
use tarn_api::response::IngressAddress;
use tarn_builder::Builder;
use tarn_control::Control;
use tarn_http::{HttpConfig, HttpParts, MetricsSource, RateLimit, ServeConfig};
use tarn_ingress::{IngressStats, IngressStatsSnapshot};
use tarn_task::{OsEntropy, Tasks};
use tarn_tls::Acceptor;
use tokio::net::TcpListener;

use crate::{addresses::Addresses, config::DataDir};

/// Begins to serve the API and the administrator's socket.
pub(crate) fn api(
    data: &DataDir,
    addresses: &Addresses,
    (control, builder): (&Control, &Builder),
    metrics: Vec<MetricsSource>,
    rate_limit: Option<RateLimit>,
    tasks: &Tasks,
    (listener, acceptor): (TcpListener, Acceptor),
) -> anyhow::Result<()> {
    let ingress = IngressAddress {
        sandbox_url: addresses.ingress.clone(),
        ingress_endpoint: addresses.ingress_endpoint.clone(),
    };
    let config = HttpConfig { rate_limit, ..HttpConfig::new(ingress, addresses.api.clone()) };
    let parts = HttpParts {
        control: control.clone(),
        builder: builder.clone(),
        entropy: Arc::new(OsEntropy),
        metrics,
    };
    let socket = data.admin_socket();
    let admin = tarn_http::bind_unix(&socket)
        .with_context(|| format!("listen on the socket {}", socket.display()))?;
    let admin_router = tarn_http::admin_router(config.clone(), parts.clone());
    let router = tarn_http::router(config, parts);
    let serve = ServeConfig::default();
    let api = tarn_http::serve_tcp(listener, acceptor, router, tasks.clone(), serve.clone());
    drop(tasks.spawn("api", api));
    let admin = tarn_http::serve_unix(admin, admin_router, tasks.clone(), serve);
    drop(tasks.spawn("admin_api", admin));
    Ok(())
}

/// Returns what shows the ingress's counters.
pub(crate) fn ingress_metrics(stats: Arc<IngressStats>) -> MetricsSource {
    Arc::new(move || render(&stats.snapshot()))
}

/// Writes the ingress's counters in the Prometheus text format.
fn render(now: &IngressStatsSnapshot) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, rows: &[(String, u64)]| {
        // Writing to a `String` cannot fail.
        _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in rows {
            _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let plain = |value| vec![(String::new(), value)];
    let classes: Vec<_> = now
        .responses
        .iter()
        .zip(["1xx", "2xx", "3xx", "4xx", "5xx"])
        .map(|(count, class)| (format!("{{class=\"{class}\"}}"), *count))
        .collect();
    family("tarn_ingress_responses_total", "counter", "Responses by status class.", &classes);
    let errors: Vec<_> = now
        .errors
        .iter()
        .map(|(code, count)| (format!("{{code=\"{}\"}}", code.as_str()), *count))
        .collect();
    family(
        "tarn_ingress_errors_total",
        "counter",
        "Errors of the ingress itself by code.",
        &errors,
    );
    let rows: [(&str, &str, &str, u64); 11] = [
        ("connections_total", "counter", "Client connections accepted.", now.connections),
        ("connections_open", "gauge", "Client connections open.", now.connections_open),
        (
            "connections_given_up_total",
            "counter",
            "Idle client connections closed for want of places.",
            now.connections_given_up,
        ),
        (
            "connections_turned_away_total",
            "counter",
            "Client connections refused for want of places.",
            now.connections_turned_away,
        ),
        ("requests_active", "gauge", "Requests under way.", now.requests_active),
        ("held_total", "counter", "Requests that waited for their sandbox.", now.held),
        ("held", "gauge", "Requests that wait for their sandbox.", now.held_now),
        ("tunnels_open", "gauge", "WebSockets open.", now.tunnels_open),
        (
            "upstream_opened_total",
            "counter",
            "Connections opened to sandboxes.",
            now.upstream_opened,
        ),
        ("upstream_reused_total", "counter", "Requests on kept connections.", now.upstream_reused),
        (
            "upstream_retried_total",
            "counter",
            "Requests sent again unexecuted.",
            now.upstream_retried,
        ),
    ];
    for (name, kind, help, value) in rows {
        family(&format!("tarn_ingress_{name}"), kind, help, &plain(value));
    }
    text
}
