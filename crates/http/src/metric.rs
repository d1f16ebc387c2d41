//! Every metric of the HTTP layer, and the Prometheus text of all.
//!
//! Written by hand: three metrics of fixed labels need no library, and other components add their
//! own text.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use axum::http::StatusCode;
use parking_lot::Mutex;
use tarn_control::{LogCounts, PoolCounts, SnapshotCounts};
use tarn_types::SandboxStatus;

/// The upper bounds of the create histogram, in milliseconds.
const CREATE_BOUNDS_MS: [u64; 11] = [25, 50, 100, 200, 300, 500, 1000, 2500, 5000, 10_000, 30_000];

/// Counts what the HTTP layer does.
#[derive(Debug, Default)]
pub(crate) struct HttpMetrics {
    /// By route label and status class: both come from fixed sets.
    requests: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    create: Histogram,
}

/// How many creates took at most each bound. The last place counts all.
#[derive(Debug, Default)]
struct Histogram {
    counts: [AtomicU64; CREATE_BOUNDS_MS.len() + 1],
    sum_us: AtomicU64,
}

// === impl HttpMetrics ===

impl HttpMetrics {
    pub(crate) fn count(&self, route: &'static str, status: StatusCode) {
        *self.requests.lock().entry((route, class(status))).or_default() += 1;
    }

    pub(crate) fn observe_create(&self, took: Duration) {
        self.create.observe(took);
    }

    /// Writes the metrics as text.
    pub(crate) fn render(
        &self,
        sandboxes: &[(SandboxStatus, usize)],
        logs: &LogCounts,
        snapshots: &SnapshotCounts,
        pools: &PoolCounts,
    ) -> String {
        let mut text = String::new();
        // Writing to a `String` cannot fail.
        _ = self.write(&mut text, sandboxes);
        _ = write_logs(&mut text, logs);
        _ = write_snapshots(&mut text, snapshots);
        _ = write_pools(&mut text, pools);
        text
    }

    fn write(&self, text: &mut String, sandboxes: &[(SandboxStatus, usize)]) -> std::fmt::Result {
        text.push_str(
            "# HELP tarn_http_requests_total Requests answered, by route and class of status.\n\
             # TYPE tarn_http_requests_total counter\n",
        );
        for ((route, class), count) in &*self.requests.lock() {
            writeln!(
                text,
                "tarn_http_requests_total{{route=\"{route}\",status=\"{class}\"}} {count}"
            )?;
        }
        self.create.write(text)?;
        text.push_str(
            "# HELP tarn_sandboxes Live sandboxes, by status.\n# TYPE tarn_sandboxes gauge\n",
        );
        for (status, count) in sandboxes {
            writeln!(text, "tarn_sandboxes{{status=\"{}\"}} {count}", status.as_str())?;
        }
        Ok(())
    }
}

/// Writes how much output of processes was taken.
fn write_logs(text: &mut String, logs: &LogCounts) -> std::fmt::Result {
    let rows: [(&str, &str, u64); 5] = [
        ("tarn_log_lines_total", "Lines of output stored.", logs.lines),
        ("tarn_log_bytes_total", "Bytes that stored lines are charged for.", logs.bytes),
        (
            "tarn_log_lines_dropped_by_sandbox_total",
            "Lines that sandboxes could not hold until they were read.",
            logs.dropped_by_sandbox,
        ),
        (
            "tarn_log_lines_dropped_by_store_total",
            "Lines removed because of a cap.",
            logs.dropped_by_store,
        ),
        ("tarn_log_failures_total", "Batches that could not be stored at once.", logs.failures),
    ];
    for (name, help, value) in rows {
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}")?;
    }
    Ok(())
}

/// Writes how many containers the pools have.
fn write_pools(text: &mut String, counts: &PoolCounts) -> std::fmt::Result {
    const POOLS: &str = "tarn_pools";
    writeln!(
        text,
        "# HELP {POOLS} Sandbox pools.\n# TYPE {POOLS} gauge\n{POOLS} {}",
        counts.pools
    )?;
    const CONTAINERS: &str = "tarn_pool_containers";
    writeln!(text, "# HELP {CONTAINERS} Containers of pools, and claims that wait for one.")?;
    writeln!(text, "# TYPE {CONTAINERS} gauge")?;
    let states = [
        ("idle", counts.idle),
        ("starting", counts.starting),
        ("claimed", counts.claimed),
        ("waiting", counts.waiting),
    ];
    for (state, count) in states {
        writeln!(text, "{CONTAINERS}{{state=\"{state}\"}} {count}")?;
    }
    Ok(())
}

/// Writes what became of snapshots.
fn write_snapshots(text: &mut String, counts: &SnapshotCounts) -> std::fmt::Result {
    const TOTAL: &str = "tarn_snapshots_total";
    writeln!(text, "# HELP {TOTAL} Snapshots by what became of them, those for copies included.")?;
    writeln!(text, "# TYPE {TOTAL} counter")?;
    let outcomes =
        [("taken", counts.taken), ("failed", counts.failed), ("cancelled", counts.cancelled)];
    for (outcome, count) in outcomes {
        writeln!(text, "{TOTAL}{{outcome=\"{outcome}\"}} {count}")?;
    }
    const VERIFIED: &str = "tarn_snapshot_verifications_total";
    writeln!(text, "# HELP {VERIFIED} Times that a snapshot was read, by what was found.")?;
    writeln!(text, "# TYPE {VERIFIED} counter")?;
    let found =
        [("sound", counts.sound), ("damaged", counts.damaged), ("unread", counts.unverified)];
    for (outcome, count) in found {
        writeln!(text, "{VERIFIED}{{outcome=\"{outcome}\"}} {count}")?;
    }
    let rows: [(&str, &str, &str, u64); 3] = [
        (
            "tarn_snapshot_verified_bytes_total",
            "counter",
            "Bytes of snapshots that were read and found sound.",
            counts.verified_bytes,
        ),
        ("tarn_snapshot_bytes_total", "counter", "Bytes that snapshots occupied.", counts.bytes),
        ("tarn_copies_total", "counter", "Sandboxes made by copies.", counts.copies),
    ];
    for (name, kind, help, value) in rows {
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}")?;
    }
    let millis = counts.duration_millis.saturating_mul(1000);
    let rows: [(&str, &str, &str, u64); 3] = [
        (
            "tarn_snapshot_duration_seconds_total",
            "counter",
            "How long snapshots took, from order to answer.",
            millis,
        ),
        (
            "tarn_snapshot_standstill_seconds_total",
            "counter",
            "How long their sources stood still.",
            counts.standstill_micros,
        ),
        (
            "tarn_snapshot_standstill_seconds_max",
            "gauge",
            "The longest that a source stood still.",
            counts.standstill_micros_max,
        ),
    ];
    for (name, kind, help, micros) in rows {
        let (secs, rest) = (micros / 1_000_000, micros % 1_000_000);
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {secs}.{rest:06}")?;
    }
    Ok(())
}

// === impl Histogram ===

impl Histogram {
    fn observe(&self, took: Duration) {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let bounds = CREATE_BOUNDS_MS.iter().chain([&u64::MAX]);
        for (count, bound) in self.counts.iter().zip(bounds) {
            if millis <= *bound {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(micros, Ordering::Relaxed);
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        const NAME: &str = "tarn_sandbox_create_duration_seconds";
        writeln!(text, "# HELP {NAME} How long creates were held, where they were.")?;
        writeln!(text, "# TYPE {NAME} histogram")?;
        let labels = CREATE_BOUNDS_MS.map(seconds);
        let labels = labels.iter().map(String::as_str).chain(["+Inf"]);
        for (count, label) in self.counts.iter().zip(labels) {
            let count = count.load(Ordering::Relaxed);
            writeln!(text, "{NAME}_bucket{{le=\"{label}\"}} {count}")?;
        }
        let sum_us = self.sum_us.load(Ordering::Relaxed);
        writeln!(text, "{NAME}_sum {}.{:06}", sum_us / 1_000_000, sum_us % 1_000_000)?;
        let all = self.counts[CREATE_BOUNDS_MS.len()].load(Ordering::Relaxed);
        writeln!(text, "{NAME}_count {all}")
    }
}

fn seconds(millis: u64) -> String {
    format!("{}.{:03}", millis / 1000, millis % 1000)
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let metrics = HttpMetrics::default();
        metrics.count("sandbox_create", StatusCode::OK);
        metrics.count("sandbox_create", StatusCode::OK);
        metrics.count("none", StatusCode::NOT_FOUND);
        metrics.observe_create(Duration::from_millis(40));
        metrics.observe_create(Duration::from_secs(60));
        let text = metrics.render(
            &[(SandboxStatus::Running, 3)],
            &LogCounts { lines: 7, dropped_by_store: 2, ..LogCounts::default() },
            &SnapshotCounts {
                taken: 4,
                duration_millis: 2500,
                standstill_micros_max: 30_000,
                ..SnapshotCounts::default()
            },
            &PoolCounts { pools: 2, idle: 5, ..PoolCounts::default() },
        );
        for line in [
            "tarn_http_requests_total{route=\"none\",status=\"4xx\"} 1",
            "tarn_http_requests_total{route=\"sandbox_create\",status=\"2xx\"} 2",
            "tarn_sandbox_create_duration_seconds_bucket{le=\"0.025\"} 0",
            "tarn_sandbox_create_duration_seconds_bucket{le=\"0.050\"} 1",
            "tarn_sandbox_create_duration_seconds_bucket{le=\"30.000\"} 1",
            "tarn_sandbox_create_duration_seconds_bucket{le=\"+Inf\"} 2",
            "tarn_sandbox_create_duration_seconds_sum 60.040000",
            "tarn_sandbox_create_duration_seconds_count 2",
            "tarn_sandboxes{status=\"running\"} 3",
            "tarn_log_lines_total 7",
            "tarn_log_lines_dropped_by_store_total 2",
            "tarn_snapshots_total{outcome=\"taken\"} 4",
            "tarn_snapshots_total{outcome=\"failed\"} 0",
            "tarn_snapshot_duration_seconds_total 2.500000",
            "tarn_snapshot_standstill_seconds_max 0.030000",
            "tarn_pools 2",
            "tarn_pool_containers{state=\"idle\"} 5",
        ] {
            assert!(text.lines().any(|each| each == line), "{line}\n{text}");
        }
    }
}
