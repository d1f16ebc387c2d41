//! The sections on the service to callers: where it listens, how much each may have, how long what
//! they did is kept, and what is logged of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::ensure;
use serde::Deserialize;
use tarn_http::RateLimit;

/// `[api]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ApiConfig {
    /// Where the API listens. Port 0 takes a free one. Default: 127.0.0.1:8900.
    pub(crate) listen: SocketAddr,
    /// The URL that clients are told, when it is not that of `listen`.
    pub(crate) public_url: Option<String>,
}

/// `[ingress]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct IngressSection {
    /// Where the ingress listens. Port 0 takes a free one. Default: 127.0.0.1:9443.
    pub(crate) listen: SocketAddr,
    /// `sandbox_url` and `ingress_endpoint` of every sandbox, when a proxy stands before the
    /// ingress.
    pub(crate) public_url: Option<String>,
    /// Further domains under which sandboxes are addressed, beside `local` and `localhost`.
    pub(crate) domains: Vec<String>,
}

/// `[limits]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LimitsSection {
    /// The least CPUs of a sandbox. Default: 0.1.
    pub(crate) cpus_min: f64,
    /// The most CPUs of a sandbox. Default: those of the largest node.
    pub(crate) cpus_max: Option<f64>,
    /// The least memory, in MiB. Default: 128.
    pub(crate) memory_min_mb: u64,
    /// The most memory, in MiB. Default: that of the largest node.
    pub(crate) memory_max_mb: Option<u64>,
    /// The least disk, in MiB. Default: 1024.
    pub(crate) disk_min_mb: u64,
    /// The most disk, in MiB. Default: 102400.
    pub(crate) disk_max_mb: u64,
    /// The longest time limit in seconds, and what 0 asks for. Default: unlimited.
    pub(crate) timeout_max_secs: Option<u64>,
    /// How many copies of a sandbox one request may ask for. Default: 100.
    pub(crate) copies_max: u32,
}

/// `[quota]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct QuotaSection {
    /// How many sandboxes that are not suspended a project may have that was given no quota of its
    /// own; 0 = any number. Default: 0.
    pub(crate) sandboxes: u32,
    /// How many pools a project may have; 0 = any number. Default: 1000.
    pub(crate) pools: u32,
    /// How many secrets a project may have; 0 = any number. Default: 1000.
    pub(crate) secrets: u32,
    /// How many SSH keys a project may have; 0 = any number. Default: 1000.
    pub(crate) ssh_keys: u32,
}

/// `[rate_limit]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RateLimitSection {
    /// How many requests a second a key may send to the API over time; 0 = any number. Default: 0.
    pub(crate) requests_per_sec: u32,
    /// How many at once, after a silence. Default: 200.
    pub(crate) burst: u32,
}

/// `[retention]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RetentionSection {
    /// How long a terminated sandbox stays in the ordinary list, in seconds. Default: 24 h.
    pub(crate) archive_after_secs: u64,
    /// How long it stays in the archive after that, in seconds. Default: 30 days.
    pub(crate) archive_keep_secs: u64,
}

/// `[process_logs]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ProcessLogsSection {
    /// How long what processes print is kept, in days; records show at most 127. Default: 7.
    pub(crate) retention_days: u32,
    /// How much one sandbox may print into the store over time, in KiB a second. Default: 1024.
    pub(crate) rate_kb_per_sec: u64,
    /// How much of it may come at once after a silence, in KiB. Default: 8192.
    pub(crate) burst_kb: u64,
    /// The most that is kept of one sandbox, in MiB. Default: 64.
    pub(crate) sandbox_max_mb: u64,
    /// The most that is kept of all, in MiB. Default: 4096.
    pub(crate) total_max_mb: u64,
}

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LogSection {
    /// What is logged: a level, or directives such as `info,tarn_node=debug`. Default: info.
    pub(crate) filter: String,
    /// `text` or `json`. Default: text.
    pub(crate) format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

// === impl ApiConfig ===

impl Default for ApiConfig {
    fn default() -> Self {
        Self { listen: loopback(8900), public_url: None }
    }
}

// === impl IngressSection ===

impl Default for IngressSection {
    fn default() -> Self {
        Self { listen: loopback(9443), public_url: None, domains: Vec::new() }
    }
}

// === impl LimitsSection ===

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            cpus_min: 0.1,
            cpus_max: None,
            memory_min_mb: 128,
            memory_max_mb: None,
            disk_min_mb: 1024,
            disk_max_mb: 102_400,
            timeout_max_secs: None,
            copies_max: 100,
        }
    }
}

impl LimitsSection {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(self.cpus_min > 0.0, "limits.cpus_min must be above 0");
        ensure!(
            self.cpus_max.is_none_or(|most| self.cpus_min <= most),
            "limits.cpus_min is above cpus_max"
        );
        ensure!(self.memory_min_mb >= 64, "limits.memory_min_mb must be at least 64");
        ensure!(
            self.memory_max_mb.is_none_or(|most| self.memory_min_mb <= most),
            "limits.memory_min_mb is above memory_max_mb"
        );
        ensure!(self.disk_min_mb >= 64, "limits.disk_min_mb must be at least 64");
        ensure!(self.disk_min_mb <= self.disk_max_mb, "limits.disk_min_mb is above disk_max_mb");
        Ok(())
    }
}

// === impl QuotaSection ===

impl Default for QuotaSection {
    fn default() -> Self {
        Self { sandboxes: 0, pools: 1000, secrets: 1000, ssh_keys: 1000 }
    }
}

// === impl RateLimitSection ===

impl Default for RateLimitSection {
    fn default() -> Self {
        Self { requests_per_sec: 0, burst: 200 }
    }
}

impl RateLimitSection {
    /// Returns the limit, if there is one.
    pub(crate) fn limit(&self) -> Option<RateLimit> {
        let Self { requests_per_sec: per_sec, burst } = *self;
        (per_sec > 0).then_some(RateLimit { per_sec, burst })
    }
}

// === impl RetentionSection ===

impl Default for RetentionSection {
    fn default() -> Self {
        Self { archive_after_secs: 24 * 3600, archive_keep_secs: 30 * 24 * 3600 }
    }
}

// === impl ProcessLogsSection ===

impl Default for ProcessLogsSection {
    fn default() -> Self {
        Self {
            retention_days: 7,
            rate_kb_per_sec: 1024,
            burst_kb: 8192,
            sandbox_max_mb: 64,
            total_max_mb: 4096,
        }
    }
}

// === impl LogSection ===

impl Default for LogSection {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Text }
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

#[cfg(test)]
mod tests {
    use super::{super::Config, *};

    #[test]
    fn rates_are_unlimited_until_said() {
        let limit = |text: &str| {
            toml::from_str::<Config>(text).expect("it is understood").rate_limit.limit()
        };
        assert_eq!(limit(""), None);
        assert_eq!(limit("[rate_limit]\nburst = 5"), None);
        let said = limit("[rate_limit]\nrequests_per_sec = 10");
        assert_eq!(said, Some(RateLimit { per_sec: 10, burst: 200 }));
        let none: Config = toml::from_str("[rate_limit]\nburst = 0").expect("it is understood");
        assert!(none.check().is_err());
    }
}
