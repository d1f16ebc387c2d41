//! `[images]`: what is pulled from registries, and how much of it is kept.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use tarn_oci::{Bounds, Reach, Reference, RegistryOptions};
use tarn_storage::ImageRules;
use tarn_types::ByteSize;

/// `[images]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ImagesSection {
    /// Whether images are pulled from registries. Default: true.
    pub(crate) pull: bool,
    /// The registries they are pulled from; empty = all. Default: empty.
    pub(crate) registries: Vec<String>,
    /// The hosts that may be at addresses that are not public. Default: none.
    pub(crate) internal: Vec<String>,
    /// The registries that are spoken to without TLS. Default: none.
    pub(crate) plain_http: Vec<String>,
    /// For a registry, the base URLs that are asked before it. Default: none.
    pub(crate) mirrors: BTreeMap<String, Vec<String>>,
    /// Files of certificates that are trusted beside the system's. Default: none.
    pub(crate) ca_files: Vec<PathBuf>,
    /// The most that the files of an image may take, in MiB. Default: 32768.
    pub(crate) max_mb: u64,
    /// How many layers an image may have. Default: 256.
    pub(crate) max_layers: usize,
    /// How many files, directories and links its layers may hold. Default: 4000000.
    pub(crate) max_entries: u64,
    /// How many images are pulled at once; others wait. Default: 4.
    pub(crate) pulls: usize,
    /// The room on the disk of the data directory that images leave alone, in MiB. Default: 2048.
    pub(crate) reserve_mb: u64,
    /// How old a registry's answer about a tag may be that a create relies on, in seconds.
    /// Default: 300.
    pub(crate) recheck_secs: u64,
    /// How long an image is kept that nothing needs, in seconds. Default: 7 days.
    pub(crate) keep_unused_secs: u64,
    /// The names of the projects that may give an image a name for all projects.
    /// Default: `default`.
    pub(crate) publishers: Vec<String>,
    /// How many registered images a project may have; 0 = any number. Default: 1000.
    pub(crate) per_project: u32,
}

// === impl ImagesSection ===

impl Default for ImagesSection {
    fn default() -> Self {
        Self {
            pull: true,
            registries: Vec::new(),
            internal: Vec::new(),
            plain_http: Vec::new(),
            mirrors: BTreeMap::new(),
            ca_files: Vec::new(),
            max_mb: 32 << 10,
            max_layers: 256,
            max_entries: 4_000_000,
            pulls: 4,
            reserve_mb: 2048,
            recheck_secs: 300,
            keep_unused_secs: 7 * 24 * 3600,
            publishers: vec!["default".to_owned()],
            per_project: 1000,
        }
    }
}

impl ImagesSection {
    /// Checks all that can be checked without asking anybody.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        for (key, value) in [
            ("max_mb", self.max_mb),
            ("max_layers", self.max_layers as u64),
            ("max_entries", self.max_entries),
            ("pulls", self.pulls as u64),
        ] {
            ensure!(value > 0, "images.{key} must be at least 1");
        }
        for (key, hosts) in [("registries", &self.registries), ("plain_http", &self.plain_http)] {
            for host in hosts {
                registry(host).with_context(|| format!("understand images.{key}"))?;
            }
        }
        self.rules().map(drop)
    }

    /// Returns what the storage of a node is told.
    pub(crate) fn rules(&self) -> anyhow::Result<ImageRules> {
        let mut mirrors = BTreeMap::new();
        for (of, urls) in &self.mirrors {
            let urls = urls.iter().map(|url| {
                url.parse().with_context(|| format!("understand images.mirrors: `{url}`"))
            });
            mirrors.insert(registry(of)?, urls.collect::<anyhow::Result<_>>()?);
        }
        let most = self.max_mb.saturating_mul(1 << 20);
        let bounds = Bounds::default();
        Ok(ImageRules {
            pull: self.pull,
            allowed: self.registries.iter().map(|host| registry(host)).collect::<Result<_, _>>()?,
            registries: RegistryOptions {
                mirrors,
                plain_http: self
                    .plain_http
                    .iter()
                    .map(|host| registry(host))
                    .collect::<Result<_, _>>()?,
                extra_roots: self.ca_files.clone(),
                reach: Reach::PublicAnd(
                    self.internal.iter().map(|host| host.to_ascii_lowercase()).collect(),
                ),
                ..RegistryOptions::default()
            },
            bounds: Bounds {
                fetched_bytes: bounds.fetched_bytes.min(most),
                unpacked_bytes: most,
                entries: self.max_entries,
                layers: self.max_layers,
                ..bounds
            },
            reserve: ByteSize::from_mib(self.reserve_mb),
            at_once: self.pulls,
        })
    }
}

/// Returns a registry as references name it.
fn registry(host: &str) -> anyhow::Result<String> {
    let reference: Reference = format!("{host}/any/image").parse()?;
    let registry = reference.registry().to_owned();
    let whole = host.eq_ignore_ascii_case(&registry) || host == "index.docker.io";
    ensure!(
        whole,
        "`{host}` is no registry: write a host with a dot, or `localhost`, and its port"
    );
    Ok(registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_mirrors_are_checked() {
        let section = |text: &str| toml::from_str::<ImagesSection>(text).expect("it is TOML");
        for (text, good) in [
            ("", true),
            ("registries = [\"docker.io\", \"127.0.0.1:5000\"]", true),
            ("registries = [\"team\"]", false),
            ("plain_http = [\"h.example/x\"]", false),
            ("mirrors = { \"docker.io\" = [\"https://mirror.example\"] }", true),
            ("mirrors = { \"docker.io\" = [\"mirror\"] }", false),
            ("pulls = 0", false),
        ] {
            assert_eq!(section(text).check().is_ok(), good, "{text}");
        }
    }
}
