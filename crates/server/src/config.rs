//! `tarn.toml`: every key, its default, and the checks that need no machine.
//!
//! Unknown keys are refused: a misspelt limit must not be silently the default.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use tarn_hostnet::AddressRange;
use tarn_http::RateLimit;

use crate::{
    images::ImagesSection,
    object_store::ObjectStoreSection,
    secrets::SecretsSection,
    tls::{TlsMode, TlsSection},
};

/// The whole file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) api: ApiConfig,
    pub(crate) ingress: IngressSection,
    pub(crate) tls: TlsSection,
    pub(crate) node: NodeSection,
    pub(crate) prestart: PrestartSection,
    pub(crate) pool: PoolSection,
    pub(crate) object_store: ObjectStoreSection,
    pub(crate) images: ImagesSection,
    pub(crate) network: NetworkSection,
    pub(crate) dns: DnsSection,
    pub(crate) limits: LimitsSection,
    pub(crate) quota: QuotaSection,
    pub(crate) rate_limit: RateLimitSection,
    pub(crate) secrets: SecretsSection,
    pub(crate) admission: AdmissionSection,
    pub(crate) retention: RetentionSection,
    pub(crate) process_logs: ProcessLogsSection,
    pub(crate) log: LogSection,
}

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

/// Which isolation technology a node uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RuntimeChoice {
    /// gVisor.
    Gvisor,
    /// In memory; for tests and benches.
    Sim,
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
}

/// `[dns]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DnsSection {
    /// Where queries are forwarded; empty = `TARN_DNS_UPSTREAM`, else the host's resolvers.
    pub(crate) upstream: Vec<SocketAddr>,
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

// === impl Config ===

impl Config {
    /// Reads the file that was named, else `tarn.toml` in the data directory if there is one.
    pub(crate) fn find(named: Option<&Path>, data: &DataDir) -> anyhow::Result<Self> {
        let beside = data.root.join("tarn.toml");
        let beside = beside.exists().then_some(beside);
        Self::read(named.or(beside.as_deref()))
    }

    /// Reads a file; without one every key has its default.
    pub(crate) fn read(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("read the configuration {}", path.display()))?;
        let config: Self = toml::from_str(&text)
            .map_err(|wrong| without_secrets(&text, wrong))
            .with_context(|| format!("understand the configuration {}", path.display()))?;
        config.check().with_context(|| format!("check the configuration {}", path.display()))?;
        Ok(config)
    }

    fn check(&self) -> anyhow::Result<()> {
        self.limits.check()?;
        ensure!(self.rate_limit.burst > 0, "rate_limit.burst must be at least 1");
        ensure!(self.admission.cpu_overcommit > 0, "admission.cpu_overcommit must be above 0");
        ensure!(
            self.admission.memory_reserve_percent < 100,
            "admission.memory_reserve_percent must be below 100"
        );
        ensure!(self.node.processes >= 16, "node.processes must be at least 16");
        self.network.check()?;
        let logs = &self.process_logs;
        for (key, value) in [
            ("retention_days", u64::from(logs.retention_days)),
            ("rate_kb_per_sec", logs.rate_kb_per_sec),
            ("burst_kb", logs.burst_kb),
            ("sandbox_max_mb", logs.sandbox_max_mb),
            ("total_max_mb", logs.total_max_mb),
        ] {
            ensure!(value > 0, "process_logs.{key} must be at least 1");
        }
        self.pool.check()?;
        self.tls.check(self)?;
        self.secrets.check()?;
        self.object_store.check()?;
        self.images.check()?;
        ensure!(
            self.object_store.url.is_none() || self.node.runtime == RuntimeChoice::Gvisor,
            "object_store.url needs node.runtime = \"gvisor\""
        );
        Ok(())
    }

    /// Refuses to serve keys and code in clear text beyond this machine.
    pub(crate) fn check_exposure(&self, insecure_http: bool) -> anyhow::Result<()> {
        if self.tls.mode != TlsMode::Off {
            return Ok(());
        }
        for (key, listen) in [("api", self.api.listen), ("ingress", self.ingress.listen)] {
            if !listen.ip().is_loopback() && !insecure_http {
                bail!(
                    "{key}.listen is {listen}, which other machines can reach, and tls.mode is \
                     \"off\": keys and data would travel in clear text. Say tls.mode = \"files\", \
                     \"acme\" or \"local_ca\", listen on 127.0.0.1 behind a proxy that speaks TLS, or say \
                     --insecure-http if the network is trusted"
                );
            }
        }
        Ok(())
    }
}

// === impl sections ===

impl LimitsSection {
    fn check(&self) -> anyhow::Result<()> {
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

impl PoolSection {
    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.initial_mb >= 512, "pool.initial_mb must be at least 512");
        ensure!(
            self.max_mb.is_none_or(|most| most >= 512),
            "pool.max_mb must be at least 512, or be left out"
        );
        Ok(())
    }
}

impl NetworkSection {
    fn check(&self) -> anyhow::Result<()> {
        self.range
            .parse::<AddressRange>()
            .with_context(|| format!("understand network.range `{}`", self.range))?;
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

impl Default for ApiConfig {
    fn default() -> Self {
        Self { listen: loopback(8900), public_url: None }
    }
}

impl Default for IngressSection {
    fn default() -> Self {
        Self { listen: loopback(9443), public_url: None, domains: Vec::new() }
    }
}

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

impl Default for PrestartSection {
    fn default() -> Self {
        Self { kept: 4, most: 32, restores: 8 }
    }
}

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
        }
    }
}

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

impl Default for QuotaSection {
    fn default() -> Self {
        Self { sandboxes: 0, pools: 1000, secrets: 1000, ssh_keys: 1000 }
    }
}

impl RateLimitSection {
    /// Returns the limit, if there is one.
    pub(crate) fn limit(&self) -> Option<RateLimit> {
        let Self { requests_per_sec: per_sec, burst } = *self;
        (per_sec > 0).then_some(RateLimit { per_sec, burst })
    }
}

impl Default for RateLimitSection {
    fn default() -> Self {
        Self { requests_per_sec: 0, burst: 200 }
    }
}

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

impl Default for RetentionSection {
    fn default() -> Self {
        Self { archive_after_secs: 24 * 3600, archive_keep_secs: 30 * 24 * 3600 }
    }
}

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

impl Default for LogSection {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Text }
    }
}

/// Keeps the line with the mistake out of the message if it may hold a secret.
fn without_secrets(text: &str, wrong: toml::de::Error) -> anyhow::Error {
    if !text.contains("secret_key") {
        return wrong.into();
    }
    let before = wrong.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    anyhow::anyhow!("line {line}: {}", wrong.message())
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Where the server keeps its things, below the data directory.
#[derive(Debug, Clone)]
pub(crate) struct DataDir {
    pub(crate) root: PathBuf,
}

// === impl DataDir ===

impl DataDir {
    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn default_key(&self) -> PathBuf {
        self.root.join("default.key")
    }

    pub(crate) fn master_key(&self) -> PathBuf {
        self.root.join("master.key")
    }

    /// Which object store answered at a start, and whether it has our mark.
    pub(crate) fn object_store_used(&self) -> PathBuf {
        self.root.join("object_store.used")
    }

    pub(crate) fn secrets_key(&self) -> PathBuf {
        self.root.join("secrets.key")
    }

    /// Account, certificate and state of ACME.
    pub(crate) fn acme(&self) -> PathBuf {
        self.root.join("acme")
    }

    pub(crate) fn node_id(&self) -> PathBuf {
        self.root.join("node.id")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.root.join("store").join("tarn.sqlite")
    }

    pub(crate) fn log_store(&self) -> PathBuf {
        self.root.join("store").join("logs.sqlite")
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.root.join("ledger")
    }

    pub(crate) fn builds(&self) -> PathBuf {
        self.root.join("builds")
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    pub(crate) fn netns(&self) -> PathBuf {
        self.run().join("netns")
    }

    pub(crate) fn runsc(&self) -> PathBuf {
        self.root.join("runsc")
    }

    pub(crate) fn addresses(&self) -> PathBuf {
        self.run().join("addresses.json")
    }

    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.root.join("admin.sock")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Returns the full names of all keys in a table, as the parser lists them when it refuses
    /// another one; none for what is no table of keys.
    fn keys_of(table: &str) -> Vec<String> {
        let header = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
        let wrong = toml::from_str::<Config>(&format!("{header}no-key = 1"));
        let wrong = wrong.expect_err("there is no such key");
        let known = wrong.message().strip_prefix("unknown field `no-key`, expected ");
        let mut keys = Vec::new();
        // Each name stands between two backticks.
        for name in known.unwrap_or_default().split('`').skip(1).step_by(2) {
            let key = if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") };
            match keys_of(&key) {
                none if none.is_empty() => keys.push(key),
                beneath => keys.extend(beneath),
            }
        }
        keys
    }

    /// Returns the full names of all keys in a file, those that are commented out among them.
    fn keys_in(text: &str) -> BTreeSet<String> {
        let is_name = |key: &str| key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let (mut table, mut keys) = ("", BTreeSet::new());
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                table = name;
            } else if let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ")
                && is_name(key)
            {
                keys.insert(format!("{table}.{key}"));
            }
        }
        keys
    }

    #[test]
    fn the_shipped_example_has_every_key() {
        let known = BTreeSet::from_iter(keys_of(""));
        assert!(known.contains("tls.acme.email") && known.contains("images.mirrors"), "{known:?}");
        assert_eq!(keys_in(include_str!("../../../tarn.toml.example")), known);
    }

    #[test]
    fn the_shipped_example_is_the_defaults() {
        let text = include_str!("../../../tarn.toml.example");
        let example: Config = toml::from_str(text).expect("the example is understood");
        let default = Config::default();
        assert_eq!(format!("{example:?}"), format!("{default:?}"));
    }

    #[test]
    fn unknown_keys_are_refused() {
        for text in [
            "[api]\nlissten = \"127.0.0.1:1\"",
            "[apy]",
            "[limits]\ncpus = 1",
            "[object_store]\nbucket = \"b\"",
        ] {
            assert!(toml::from_str::<Config>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_mistake_beside_a_secret_does_not_show_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("tarn.toml");
        for (text, line) in [
            ("[object_store]\nsecret_key = \"hush", "line 2"),
            ("[object_store]\nsecret_key = [\"hush\"]", "line 2"),
            ("[object_store]\nregion = 1 # hush\nsecret_key = \"hush\"", "line 2"),
            ("[object_store]\nsecret_key = \"hush\"\nsecret = \"hush\"", "line 3"),
        ] {
            std::fs::write(&path, text).expect("it is written");
            let wrong = format!("{:#}", Config::read(Some(&path)).expect_err(text));
            assert!(!wrong.contains("hush"), "{wrong}");
            assert!(wrong.contains(line), "{wrong}");
        }
    }

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

    #[test]
    fn values_out_of_range_are_refused_by_their_key() {
        let checked =
            |text: &str| toml::from_str::<Config>(text).expect("it is understood").check();
        for good in [
            "[limits]\ncpus_min = 2.0\ncpus_max = 2.0",
            "[limits]\nmemory_min_mb = 512\nmemory_max_mb = 512",
            "[network]\nmax_slots = 1",
            "[network]\nmax_slots = 1000",
            "[pool]\nmax_mb = 512",
        ] {
            checked(good).expect(good);
        }
        for (text, key) in [
            ("[limits]\ncpus_min = 0.0", "limits.cpus_min"),
            ("[limits]\ncpus_min = 2.0\ncpus_max = 1.0", "limits.cpus_min"),
            ("[limits]\ncpus_max = nan", "limits.cpus_min"),
            ("[limits]\nmemory_max_mb = 127", "limits.memory_min_mb"),
            ("[limits]\ndisk_max_mb = 1023", "limits.disk_min_mb"),
            ("[network]\nrange = \"everywhere\"", "network.range"),
            ("[network]\nmax_slots = 0", "network.max_slots"),
            ("[network]\nmax_slots = 1001", "network.max_slots"),
            ("[pool]\ninitial_mb = 511", "pool.initial_mb"),
            ("[pool]\nmax_mb = 511", "pool.max_mb"),
        ] {
            let refused = checked(text).expect_err(text).to_string();
            assert!(refused.contains(key), "{text}: {refused}");
        }
    }

    #[test]
    fn clear_text_stays_on_this_machine_unless_said() {
        let mut config = Config::default();
        assert!(config.check_exposure(false).is_ok());
        config.api.listen = "0.0.0.0:8900".parse().expect("an address");
        let refused = config.check_exposure(false).expect_err("clear text").to_string();
        assert!(refused.contains("tls.mode") && refused.contains("0.0.0.0"), "{refused}");
        assert!(config.check_exposure(true).is_ok());
        for mode in [TlsMode::Files, TlsMode::LocalCa, TlsMode::Acme] {
            config.tls.mode = mode;
            assert!(config.check_exposure(false).is_ok(), "{mode:?}");
        }
    }
}
