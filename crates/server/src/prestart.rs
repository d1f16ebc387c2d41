//! What the metrics say of sandboxes that are started ahead of requests, and of what is made ready
//! for restores.

use std::sync::Arc;

use tarn_http::MetricsSource;
use tarn_node::{AheadCounts, NodeService};

use crate::metric;

/// Returns what shows them.
pub(crate) fn metrics(node: &NodeService) -> MetricsSource {
    let node = node.clone();
    Arc::new(move || render(&node.prestart_counts()) + &render_stages(&node.stage_counts()))
}

/// Writes what is made ready for restores, in the same format.
fn render_stages(now: &AheadCounts) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, rows: &[(&str, String)]| {
        metric::family(&mut text, name, kind, help, rows);
    };
    family(
        "stages",
        "gauge",
        "What waits for a restore of memory, and what is being made ready for one.",
        &[
            ("{state=\"ready\"}", now.ready.to_string()),
            ("{state=\"building\"}", now.building.to_string()),
        ],
    );
    family(
        "stage_requests_total",
        "counter",
        "Restores of memory that found something made ready, something that was being made, or nothing.",
        &[
            ("{result=\"hit\"}", now.hits.to_string()),
            ("{result=\"joined\"}", now.joined.to_string()),
            ("{result=\"miss\"}", now.misses.to_string()),
        ],
    );
    family(
        "stage_builds_total",
        "counter",
        "What was made ready for restores, and what could not be.",
        &[
            ("{result=\"built\"}", now.built.to_string()),
            ("{result=\"failed\"}", now.failed.to_string()),
        ],
    );
    let plain = |value: String| [("", value)];
    family(
        "stage_dropped_total",
        "counter",
        "What was made ready for restores and removed without having been used.",
        &plain(now.dropped.to_string()),
    );
    let micros = now.build_micros;
    let seconds = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    family(
        "stage_build_seconds_total",
        "counter",
        "Time that making them ready took.",
        &plain(seconds),
    );
    text
}

/// Writes them in the Prometheus text format.
fn render(now: &AheadCounts) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, rows: &[(&str, String)]| {
        metric::family(&mut text, name, kind, help, rows);
    };
    family(
        "prestarted",
        "gauge",
        "Sandboxes that wait for a request, and such that are being started for one.",
        &[
            ("{state=\"ready\"}", now.ready.to_string()),
            ("{state=\"building\"}", now.building.to_string()),
        ],
    );
    family(
        "prestart_requests_total",
        "counter",
        "Creates that found a sandbox started ahead, one that was being started, or none.",
        &[
            ("{result=\"hit\"}", now.hits.to_string()),
            ("{result=\"joined\"}", now.joined.to_string()),
            ("{result=\"miss\"}", now.misses.to_string()),
        ],
    );
    family(
        "prestart_builds_total",
        "counter",
        "Sandboxes started ahead, and starts that failed.",
        &[
            ("{result=\"built\"}", now.built.to_string()),
            ("{result=\"failed\"}", now.failed.to_string()),
        ],
    );
    let plain = |value: String| [("", value)];
    family(
        "prestart_dropped_total",
        "counter",
        "Sandboxes started ahead and removed without having been used.",
        &plain(now.dropped.to_string()),
    );
    // Shown in seconds, which is all that a float is needed for.
    let micros = now.build_micros;
    let seconds = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    family(
        "prestart_build_seconds_total",
        "counter",
        "Time that starting them took.",
        &plain(seconds),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_there() {
        let text = render(&AheadCounts {
            ready: 3,
            hits: 5,
            misses: 2,
            build_micros: 1_250_000,
            ..AheadCounts::default()
        });
        for line in [
            "tarn_prestarted{state=\"ready\"} 3",
            "tarn_prestart_requests_total{result=\"hit\"} 5",
            "tarn_prestart_requests_total{result=\"miss\"} 2",
            "tarn_prestart_dropped_total 0",
            "tarn_prestart_build_seconds_total 1.250000",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
    }
}
