//! The sections on a node: how it runs sandboxes, and what of its host it takes for them.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use tarn_hostnet::{AddressRange, OpenedNetworks};

/// `[node]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NodeSection {
    /// `gvisor`, or `sim` where it is explicitly allowed. Default: gvisor.
    pub(crate) runtime: RuntimeChoice,
    /// The most processes inside one sandbox. Default: 1024.
    pub(crate) processes: u32,
    /// How long a sandbox that the store does not know is kept, in seconds. Default: 7 days.
    pub(crate) orphan_grace_secs: u64,
    /// How long the processes of a suspended sandbox are kept in memory, so that it resumes
    /// quickly, in seconds; 0 = not at all. Under memory pressure they are dropped earlier.
    /// Default: 300.
    pub(crate) keep_warm_secs: u64,
}

/// Which isolation technology a node uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RuntimeChoice {
    /// gVisor.
    Gvisor,
    /// In memory; for tests and benches.
    Sim,
}

/// `[prestart]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PrestartSection {
    /// How many sandboxes of the default image and resources are kept started ahead of requests.
    /// More are, of whatever is asked for, as long as it is. Default: 4.
    pub(crate) kept: u32,
    /// The most of all kinds together; 0 = none are. Default: 32.
    pub(crate) most: u32,
    /// The most that is made ready for restores of memory, resumes and copies; 0 = nothing is.
    /// Default: 8.
    pub(crate) restores: u32,
}

/// `[pool]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PoolSection {
    /// The first size of the pool image in MiB, where the data directory cannot reflink.
    /// Default: 8192.
    pub(crate) initial_mb: u64,
    /// The largest size it may grow to, in MiB. Default: as far as the disk below allows.
    pub(crate) max_mb: Option<u64>,
    /// Running sandboxes are frozen when less than this is free, in MiB; 0 = never. Default: 2048,
    /// or a twentieth of a pool of less than 40 GiB.
    pub(crate) freeze_below_mb: Option<u64>,
    /// How long after a snapshot was last read it is read again in the background, to find damage
    /// before somebody needs it, in seconds; 0 = never. Default: 7 days.
    pub(crate) scrub_interval_secs: u64,
}

/// `[network]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NetworkSection {
    /// The range from which host-side addresses are taken. Default: 198.18.0.0/16.
    pub(crate) range: String,
    /// How many free slots are kept built. Default: 8.
    pub(crate) spare_slots: u16,
    /// The most sandboxes with a network at one time. Default: 1000.
    pub(crate) max_slots: u16,
    /// How many connections one sandbox may have at a time. Default: 4096.
    pub(crate) connections: u32,
    /// How many it may begin in a second over time. Default: 500.
    pub(crate) new_connections_per_sec: u32,
    /// How many at once, after a silence. Default: 1000.
    pub(crate) new_connections_burst: u32,
    /// How many megabits a second pass between one sandbox and the world, each way; 0 is without
    /// limit. Default: 1000.
    pub(crate) bandwidth_mbit: u32,
    /// Whether sandboxes have IPv6 where the host has it. Default: true.
    pub(crate) ipv6: bool,
    /// Private networks that sandboxes may reach, such as `10.1.2.0/24`. Default: none.
    pub(crate) open_private: Vec<String>,
}

/// `[dns]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DnsSection {
    /// Where queries are forwarded; empty = `TARN_DNS_UPSTREAM`, else the host's resolvers.
    pub(crate) upstream: Vec<SocketAddr>,
}

/// `[admission]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AdmissionSection {
    /// How many times the CPUs may be promised. Default: 16.
    pub(crate) cpu_overcommit: u32,
    /// The least memory that stays free, in MiB. Default: 1024.
    pub(crate) memory_reserve_mb: u64,
    /// The part of the memory that stays free at least, in percent. Default: 10.
    pub(crate) memory_reserve_percent: u64,
    /// What each start under way may still take, in MiB. Default: 64.
    pub(crate) memory_per_start_mb: u64,
}

// === impl NodeSection ===

impl Default for NodeSection {
    fn default() -> Self {
        Self {
            runtime: RuntimeChoice::Gvisor,
            processes: 1024,
            orphan_grace_secs: 7 * 24 * 3600,
            keep_warm_secs: 300,
        }
    }
}

// === impl PrestartSection ===

impl Default for PrestartSection {
    fn default() -> Self {
        Self { kept: 4, most: 32, restores: 8 }
    }
}

// === impl PoolSection ===

impl Default for PoolSection {
    fn default() -> Self {
        Self {
            initial_mb: 8192,
            max_mb: None,
            freeze_below_mb: None,
            scrub_interval_secs: 7 * 24 * 3600,
        }
    }
}

impl PoolSection {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(self.initial_mb >= 512, "pool.initial_mb must be at least 512");
        ensure!(
            self.max_mb.is_none_or(|most| most >= 512),
            "pool.max_mb must be at least 512, or be left out"
        );
        Ok(())
    }
}

// === impl NetworkSection ===

impl Default for NetworkSection {
    fn default() -> Self {
        Self {
            range: "198.18.0.0/16".to_owned(),
            spare_slots: 8,
            max_slots: 1000,
            connections: 4096,
            new_connections_per_sec: 500,
            new_connections_burst: 1000,
            bandwidth_mbit: 1000,
            ipv6: true,
            open_private: Vec::new(),
        }
    }
}

impl NetworkSection {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let range = self
            .range
            .parse::<AddressRange>()
            .with_context(|| format!("understand network.range `{}`", self.range))?;
        OpenedNetworks::read(&self.open_private, range).context("read network.open_private")?;
        ensure!(
            (1..=1000).contains(&self.max_slots),
            "network.max_slots must be between 1 and 1000"
        );
        for (key, value) in [
            ("connections", self.connections),
            ("new_connections_per_sec", self.new_connections_per_sec),
            ("new_connections_burst", self.new_connections_burst),
        ] {
            ensure!(
                (1..=1_000_000).contains(&value),
                "network.{key} must be between 1 and 1000000"
            );
        }
        ensure!(
            self.bandwidth_mbit <= 30_000,
            "network.bandwidth_mbit must be at most 30000 (0 is without limit)"
        );
        Ok(())
    }
}

// === impl AdmissionSection ===

impl Default for AdmissionSection {
    fn default() -> Self {
        Self {
            cpu_overcommit: 16,
            memory_reserve_mb: 1024,
            memory_reserve_percent: 10,
            memory_per_start_mb: 64,
        }
    }
}
