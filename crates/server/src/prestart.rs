//! What the metrics say of sandboxes that are started ahead of requests, and of what is made ready
//! for restores.

use std::sync::Arc;

use tarn_http::MetricsSource;
use tarn_node::{AheadCounts, NodeService};

use crate::metric;

/// How the numbers of one sort are called.
struct Words {
    /// The gauge of what is there now.
    now: &'static str,
    /// What the other names begin with.
    prefix: &'static str,
    /// What the gauge, requests, builds, drops and build times are.
    help: [&'static str; 5],
}

const PRESTARTED: Words = Words {
    now: "prestarted",
    prefix: "prestart",
    help: [
        "Sandboxes that wait for a request, and such that are being started for one.",
        "Creates that found a sandbox started ahead, one that was being started, or none.",
        "Sandboxes started ahead, and starts that failed.",
        "Sandboxes started ahead and removed without having been used.",
        "Time that starting them took.",
    ],
};

const STAGES: Words = Words {
    now: "stages",
    prefix: "stage",
    help: [
        "What waits for a restore of memory, and what is being made ready for one.",
        "Restores of memory that found something made ready, something that was being made, or nothing.",
        "What was made ready for restores, and what could not be.",
        "What was made ready for restores and removed without having been used.",
        "Time that making them ready took.",
    ],
};

/// Returns what shows them.
pub(crate) fn metrics(node: &NodeService) -> MetricsSource {
    let node = node.clone();
    Arc::new(move || {
        render(&PRESTARTED, &node.prestart_counts()) + &render(&STAGES, &node.stage_counts())
    })
}

/// Writes them in the Prometheus text format.
fn render(words: &Words, now: &AheadCounts) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, rows: &[(&str, String)]| {
        metric::family(&mut text, name, kind, help, rows);
    };
    let total = |what: &str| format!("{}_{what}_total", words.prefix);
    let plain = |value: String| [("", value)];
    let [there, requests, builds, dropped, seconds] = words.help;
    family(
        words.now,
        "gauge",
        there,
        &[
            ("{state=\"ready\"}", now.ready.to_string()),
            ("{state=\"building\"}", now.building.to_string()),
        ],
    );
    family(
        &total("requests"),
        "counter",
        requests,
        &[
            ("{result=\"hit\"}", now.hits.to_string()),
            ("{result=\"joined\"}", now.joined.to_string()),
            ("{result=\"miss\"}", now.misses.to_string()),
        ],
    );
    family(
        &total("builds"),
        "counter",
        builds,
        &[
            ("{result=\"built\"}", now.built.to_string()),
            ("{result=\"failed\"}", now.failed.to_string()),
        ],
    );
    family(&total("dropped"), "counter", dropped, &plain(now.dropped.to_string()));
    // Shown in seconds, which is all that a float is needed for.
    let micros = now.build_micros;
    let took = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    family(&total("build_seconds"), "counter", seconds, &plain(took));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_there() {
        let text = render(
            &PRESTARTED,
            &AheadCounts {
                ready: 3,
                hits: 5,
                misses: 2,
                build_micros: 1_250_000,
                ..AheadCounts::default()
            },
        );
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
