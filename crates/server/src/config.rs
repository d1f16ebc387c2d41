//! `tarn.toml`: every key, its default, and the checks that need no machine.
//!
//! Unknown keys are refused: a misspelt limit must not be silently the default.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use crate::{
    images::ImagesSection,
    object_store::ObjectStoreSection,
    secrets::SecretsSection,
    tls::{TlsMode, TlsSection},
};

pub(crate) use self::{data_dir::DataDir, node::RuntimeChoice, service::LogFormat};
use self::{
    node::{
        AdmissionSection, DnsSection, NetworkSection, NodeSection, PoolSection, PrestartSection,
    },
    service::{
        ApiConfig, IngressSection, LimitsSection, LogSection, ProcessLogsSection, QuotaSection,
        RateLimitSection, RetentionSection,
    },
};

mod data_dir;
mod node;
mod service;

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

/// Keeps the line with the mistake out of the message if it may hold a secret.
fn without_secrets(text: &str, wrong: toml::de::Error) -> anyhow::Error {
    if !text.contains("secret_key") {
        return wrong.into();
    }
    let before = wrong.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    anyhow::anyhow!("line {line}: {}", wrong.message())
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
