//! The counters of the ingress; the server renders them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use http::StatusCode;

use crate::{activity::ActivityGuard, error::IngressCode, places::Busy};

/// Counts what the ingress does.
#[derive(Debug, Default)]
pub struct IngressStats {
    classes: [AtomicU64; 5],
    codes: [AtomicU64; IngressCode::ALL.len()],
    connections: AtomicU64,
    connections_open: AtomicU64,
    connections_given_up: AtomicU64,
    connections_turned_away: AtomicU64,
    requests_active: AtomicU64,
    held: AtomicU64,
    held_now: AtomicU64,
    tunnels: AtomicU64,
    tunnels_open: AtomicU64,
    upstream_opened: AtomicU64,
    upstream_reused: AtomicU64,
    upstream_retried: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngressStatsSnapshot {
    /// Responses by status class: 1xx, 2xx, 3xx, 4xx, 5xx.
    pub responses: [u64; 5],
    /// Errors of our own by code; each is also among `responses`.
    pub errors: Vec<(IngressCode, u64)>,
    /// Client connections accepted.
    pub connections: u64,
    /// Client connections open now.
    pub connections_open: u64,
    /// Idle client connections closed because a new one needed their place.
    pub connections_given_up: u64,
    /// Client connections that were told that there is no place.
    pub connections_turned_away: u64,
    /// Requests between their head and the last byte of their answer, now.
    pub requests_active: u64,
    /// Requests that had to wait for their sandbox.
    pub held: u64,
    /// Requests that wait for their sandbox now.
    pub held_now: u64,
    /// WebSockets opened.
    pub tunnels: u64,
    /// WebSockets open now.
    pub tunnels_open: u64,
    /// Connections to sandboxes opened.
    pub upstream_opened: u64,
    /// Requests sent on a kept connection.
    pub upstream_reused: u64,
    /// Requests sent again because the kept connection had closed before it took them.
    pub upstream_retried: u64,
}

/// Which number of [`IngressStats`] goes up and down.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Gauge {
    Connections,
    Requests,
    Held,
    Tunnels,
}

/// Holds a gauge up by one while it lives.
#[derive(Debug)]
pub(crate) struct GaugeGuard {
    stats: Arc<IngressStats>,
    gauge: Gauge,
}

/// A request under way: counted as a whole, for its sandbox, and on its connection.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) _busy: Option<Busy>,
    pub(crate) _gauge: GaugeGuard,
    pub(crate) _activity: ActivityGuard,
}

// === impl IngressStats ===

impl IngressStats {
    /// Reads every counter.
    #[must_use]
    pub fn snapshot(&self) -> IngressStatsSnapshot {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        IngressStatsSnapshot {
            responses: std::array::from_fn(|class| read(&self.classes[class])),
            errors: IngressCode::ALL.map(|code| (code, read(&self.codes[code.index()]))).to_vec(),
            connections: read(&self.connections),
            connections_open: read(&self.connections_open),
            connections_given_up: read(&self.connections_given_up),
            connections_turned_away: read(&self.connections_turned_away),
            requests_active: read(&self.requests_active),
            held: read(&self.held),
            held_now: read(&self.held_now),
            tunnels: read(&self.tunnels),
            tunnels_open: read(&self.tunnels_open),
            upstream_opened: read(&self.upstream_opened),
            upstream_reused: read(&self.upstream_reused),
            upstream_retried: read(&self.upstream_retried),
        }
    }

    pub(crate) fn count_response(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.classes[class].fetch_add(1, Relaxed);
    }

    pub(crate) fn count_error(&self, code: IngressCode) {
        self.codes[code.index()].fetch_add(1, Relaxed);
    }

    /// Returns how many requests are under way.
    pub(crate) fn requests_active(&self) -> u64 {
        self.requests_active.load(Relaxed)
    }

    pub(crate) fn count_given_up(&self) {
        self.connections_given_up.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_turned_away(&self) {
        self.connections_turned_away.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_opened(&self) {
        self.upstream_opened.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_reused(&self) {
        self.upstream_reused.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_retried(&self) {
        self.upstream_retried.fetch_add(1, Relaxed);
    }

    /// Raises a gauge, and its counter if it has one, until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>, gauge: Gauge) -> GaugeGuard {
        match gauge {
            Gauge::Connections => self.connections.fetch_add(1, Relaxed),
            Gauge::Held => self.held.fetch_add(1, Relaxed),
            Gauge::Tunnels => self.tunnels.fetch_add(1, Relaxed),
            Gauge::Requests => 0,
        };
        self.gauge(gauge).fetch_add(1, Relaxed);
        GaugeGuard { stats: Arc::clone(self), gauge }
    }

    fn gauge(&self, gauge: Gauge) -> &AtomicU64 {
        match gauge {
            Gauge::Connections => &self.connections_open,
            Gauge::Requests => &self.requests_active,
            Gauge::Held => &self.held_now,
            Gauge::Tunnels => &self.tunnels_open,
        }
    }
}

// === impl IngressStatsSnapshot ===

impl IngressStatsSnapshot {
    /// Returns how often an error of ours was sent.
    #[must_use]
    pub fn errors_of(&self, code: IngressCode) -> u64 {
        self.errors.iter().find(|(known, _)| *known == code).map_or(0, |(_, count)| *count)
    }
}

// === impl GaugeGuard ===

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.stats.gauge(self.gauge).fetch_sub(1, Relaxed);
    }
}
