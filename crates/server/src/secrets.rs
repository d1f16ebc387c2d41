//! `[secrets]`: what seals the keys of the projects, a file or a key service.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use tarn_control::{SecretKeys, ServiceKey};
use tarn_hook::Hook;
use tarn_kms::KeyCommand;
use tarn_seal::KeyService;
use tarn_task::{Entropy as _, OsEntropy};
use zeroize::Zeroizing;

use crate::config::DataDir;

/// `[secrets]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SecretsSection {
    /// What seals the keys of projects. Default: file.
    pub(crate) master: MasterChoice,
    /// A program, with its first arguments, that has a KMS wrap and unwrap.
    pub(crate) kms_command: Vec<String>,
    /// The key of the KMS, by the name that the program knows.
    pub(crate) kms_key: Option<String>,
    /// How long the program may take, in seconds. Default: 10.
    pub(crate) kms_timeout_secs: u64,
    /// How long a key that the KMS opened is kept in memory, in seconds; 0 = not at all.
    /// Default: 1 h.
    pub(crate) kms_cache_secs: u64,
}

/// What seals the keys of projects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MasterChoice {
    /// `secrets.key` in the data directory.
    File,
    /// A KMS, by a program.
    Kms,
}

/// How it stands with the key service.
pub(crate) struct KeyOutlook {
    pub(crate) detail: String,
    pub(crate) is_well: bool,
}

// === impl SecretsSection ===

impl Default for SecretsSection {
    fn default() -> Self {
        Self {
            master: MasterChoice::File,
            kms_command: Vec::new(),
            kms_key: None,
            kms_timeout_secs: 10,
            kms_cache_secs: 3600,
        }
    }
}

impl SecretsSection {
    /// Checks all that can be checked without looking at files.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let has_command = !self.kms_command.is_empty();
        ensure!(
            self.master == MasterChoice::File || has_command,
            "secrets.master = \"kms\" needs secrets.kms_command"
        );
        ensure!(
            has_command == self.kms_key.is_some(),
            "secrets.kms_command and secrets.kms_key need each other"
        );
        if let Some(key) = &self.kms_key {
            let is_name = |char: char| char.is_ascii_graphic();
            ensure!(
                (1..=512).contains(&key.len()) && key.chars().all(is_name) && !key.starts_with('-'),
                "secrets.kms_key must be of 1 to 512 visible ASCII characters, a minus not first"
            );
        }
        ensure!(
            (1..=60).contains(&self.kms_timeout_secs),
            "secrets.kms_timeout_secs must be between 1 and 60"
        );
        ensure!(
            self.kms_cache_secs <= 7 * 24 * 3600,
            "secrets.kms_cache_secs must be at most 604800"
        );
        Ok(())
    }

    /// Opens the keys of the secrets. A key service is not asked.
    pub(crate) fn open(&self, data: &DataDir) -> anyhow::Result<SecretKeys> {
        let service = self.service_key()?;
        SecretKeys::open_with(&data.secrets_key(), service).context("open the key of the secrets")
    }

    fn service_key(&self) -> anyhow::Result<Option<ServiceKey>> {
        let Some(key_id) = self.kms_key.clone() else { return Ok(None) };
        let deadline = Duration::from_secs(self.kms_timeout_secs);
        let hook = Hook::new(&self.kms_command, deadline).context("use secrets.kms_command")?;
        Ok(Some(ServiceKey {
            service: Arc::new(KeyCommand::new(hook)),
            key_id,
            is_master: self.master == MasterChoice::Kms,
            kept_secs: self.kms_cache_secs,
        }))
    }

    /// Has the service wrap and unwrap something, if there is one.
    pub(crate) async fn outlook(&self) -> anyhow::Result<Option<KeyOutlook>> {
        let Some(key) = self.service_key()? else { return Ok(None) };
        let mut plain = Zeroizing::new([0; 64]);
        OsEntropy.fill(&mut *plain);
        Ok(Some(match try_out(&*key.service, &key.key_id, &*plain).await {
            Ok(()) => KeyOutlook {
                detail: format!("wraps and unwraps with the key `{}`", key.key_id),
                is_well: true,
            },
            Err(detail) => KeyOutlook { detail, is_well: false },
        }))
    }
}

async fn try_out(service: &dyn KeyService, key_id: &str, plain: &[u8]) -> Result<(), String> {
    let said = |verb: &'static str| move |error| format!("{verb} with `{key_id}`: {error}");
    let wrapped = service.wrap(key_id, plain).await.map_err(said("wrap"))?;
    let opened = service.unwrap(key_id, &wrapped).await.map_err(said("unwrap"))?;
    if *opened != *plain {
        return Err(format!("it does not unwrap with `{key_id}` what it wrapped"));
    }
    if wrapped == plain {
        return Err(format!("it wraps nothing with `{key_id}`: what comes out is what went in"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_the_section_may_say() {
        let command = "kms_command = [\"/bin/kms\"]\n";
        for (text, wrong) in [
            (String::new(), None),
            ("master = \"file\"".to_owned(), None),
            (format!("{command}kms_key = \"k\""), None),
            (format!("master = \"kms\"\n{command}kms_key = \"arn:aws:kms:eu:1:key/2\""), None),
            ("master = \"kms\"".to_owned(), Some("kms_command")),
            ("master = \"vault\"".to_owned(), Some("vault")),
            (command.to_owned(), Some("kms_key")),
            ("kms_key = \"k\"".to_owned(), Some("kms_command")),
            (format!("{command}kms_key = \"\""), Some("1 to 512")),
            (format!("{command}kms_key = \"a b\""), Some("1 to 512")),
            (format!("{command}kms_key = \"-k\""), Some("a minus not first")),
            ("kms_timeout_secs = 0".to_owned(), Some("between 1 and 60")),
            ("kms_cache_secs = 604801".to_owned(), Some("at most 604800")),
        ] {
            let text = format!("[secrets]\n{text}");
            let read = toml::from_str::<Config>(&text).map_err(anyhow::Error::from);
            let checked = read.and_then(|config| config.secrets.check());
            match (checked, wrong) {
                (Ok(()), None) => {}
                (Err(error), Some(part)) => {
                    assert!(format!("{error:#}").contains(part), "{text}: {error:#}");
                }
                (checked, _) => unreachable!("{text}: {checked:?}"),
            }
        }
    }

    #[tokio::test]
    async fn the_doctor_tries_the_service() {
        // The second of the two that seal is its own reverse.
        for (script, expected) in [
            ("base64 -d | tr '\\000-\\377' '\\001-\\377\\000' | base64", "does not unwrap"),
            ("cat", "wraps nothing"),
            ("echo sealed off >&2; exit 1", "sealed off"),
            ("base64 -d | tr '\\000-\\377' '\\200-\\377\\000-\\177' | base64", "wraps and unwraps"),
        ] {
            let section = SecretsSection {
                kms_command: ["/bin/sh", "-c", script, "kms"].map(str::to_owned).to_vec(),
                kms_key: Some("k".to_owned()),
                ..SecretsSection::default()
            };
            let outlook = section.outlook().await.expect("a program").expect("a service");
            assert!(outlook.detail.contains(expected), "{script}: {}", outlook.detail);
            assert_eq!(outlook.is_well, expected == "wraps and unwraps", "{script}");
        }
    }
}
