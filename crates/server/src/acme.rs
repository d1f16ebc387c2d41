//! `[tls.acme]`: certificates from an authority, how the names are proved to it, and how it stands.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde::Deserialize;
use tarn_acme::{AccountBinding, AcmeConfig, AcmeKeeper, AcmeStanding, AcmeStats, Proof};
use tarn_hook::Hook;
use tarn_task::{Clock as _, OsEntropy, SystemClock};
use tarn_tls::{Certificates, ServerNames, date};
use url::Url;
use zeroize::Zeroizing;

use crate::{config::DataDir, tls::Outlook};

/// Let's Encrypt.
const DEFAULT_DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// `[tls.acme]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AcmeSection {
    /// The authority. Default: that of Let's Encrypt.
    pub(crate) directory: String,
    /// Whether the operator agrees to the authority's terms. Default: no, and then none is asked.
    pub(crate) accept_terms: bool,
    /// Where the authority may write to.
    pub(crate) email: Option<String>,
    /// Which of the authority's kinds of certificate is asked for. Default: the one it chooses.
    pub(crate) profile: Option<String>,
    /// What vouches for the directory beside the system's authorities, in PEM.
    pub(crate) ca_file: Option<PathBuf>,
    /// The account that the authority has given out, where it wants one.
    pub(crate) eab_key_id: Option<String>,
    /// The file with its key, in base64url.
    pub(crate) eab_key_file: Option<PathBuf>,
    /// A program, with its first arguments, that sets and unsets DNS records.
    pub(crate) dns_command: Vec<String>,
    /// How long it may take, in seconds. Default: 120.
    pub(crate) dns_timeout_secs: u64,
    /// How long after it the authority is told to look, in seconds. Default: 0.
    pub(crate) dns_wait_secs: u64,
}

// === impl AcmeSection ===

impl Default for AcmeSection {
    fn default() -> Self {
        Self {
            directory: DEFAULT_DIRECTORY.to_owned(),
            accept_terms: false,
            email: None,
            profile: None,
            ca_file: None,
            eab_key_id: None,
            eab_key_file: None,
            dns_command: Vec::new(),
            dns_timeout_secs: 120,
            dns_wait_secs: 0,
        }
    }
}

impl AcmeSection {
    /// Checks all that can be checked without looking at files.
    pub(crate) fn check(&self, names: &ServerNames) -> anyhow::Result<()> {
        ensure!(
            self.accept_terms,
            "tls.mode = \"acme\" makes an account with {}; read the terms of that authority and \
             say tls.acme.accept_terms = true",
            self.directory
        );
        let directory = Url::parse(&self.directory);
        let scheme = directory.with_context(|| "understand tls.acme.directory")?;
        ensure!(scheme.scheme() == "https", "tls.acme.directory must begin with https://");
        match (&self.eab_key_id, &self.eab_key_file) {
            (Some(_), Some(_)) | (None, None) => {}
            (Some(_), None) => bail!("tls.acme.eab_key_id needs tls.acme.eab_key_file"),
            (None, Some(_)) => bail!("tls.acme.eab_key_file needs tls.acme.eab_key_id"),
        }
        ensure!(
            (1..=3600).contains(&self.dns_timeout_secs),
            "tls.acme.dns_timeout_secs must be between 1 and 3600"
        );
        ensure!(self.dns_wait_secs <= 900, "tls.acme.dns_wait_secs must be at most 900");
        self.check_names(names)
    }

    fn check_names(&self, names: &ServerNames) -> anyhow::Result<()> {
        let all = names.names_to_order();
        ensure!(
            !all.is_empty(),
            "tls.mode = \"acme\" orders a certificate for the names that clients are told, and \
             there are none; set api.public_url and ingress.public_url or ingress.domains"
        );
        if let Some(address) = all.iter().find(|name| name.parse::<std::net::IpAddr>().is_ok()) {
            bail!(
                "tls.mode = \"acme\" is for names, and clients are told the address {address}; \
                 give it a name, or use tls.mode = \"files\" or \"local_ca\""
            );
        }
        if let Some(domain) = names.domains().find(|domain| !domain.contains('.')) {
            bail!(
                "no certificate covers the names below `{domain}`, which has no dot; use a longer \
                 domain in ingress.domains and ingress.public_url, or tls.mode = \"local_ca\""
            );
        }
        if let Some(domain) = names.domains().next()
            && self.dns_command.is_empty()
        {
            bail!(
                "the names of sandboxes below {domain} need a certificate for *.{domain}, which \
                 authorities give only to who can change the zone; set tls.acme.dns_command to a \
                 program that does (docs/operations.md has one), or leave ingress.public_url and \
                 ingress.domains out, so that sandboxes are addressed by a header alone"
            );
        }
        Ok(())
    }

    /// Looks at files, and makes what is asked of whom.
    pub(crate) fn config(&self, names: ServerNames, data: &DataDir) -> anyhow::Result<AcmeConfig> {
        let proof = if self.dns_command.is_empty() {
            Proof::Tls
        } else {
            let deadline = Duration::from_secs(self.dns_timeout_secs);
            let hook = Hook::new(&self.dns_command, deadline).context("use tls.acme.dns_command");
            Proof::Dns { hook: hook?, wait: Duration::from_secs(self.dns_wait_secs) }
        };
        let binding = match (&self.eab_key_id, &self.eab_key_file) {
            (Some(id), Some(file)) => Some(AccountBinding {
                key_id: id.clone(),
                key: binding_key(&data.root.join(file)).context("use tls.acme.eab_key_file")?,
            }),
            (Some(_), None) | (None, Some(_)) | (None, None) => None,
        };
        Ok(AcmeConfig {
            dir: data.acme(),
            directory: self.directory.clone(),
            email: self.email.clone(),
            profile: self.profile.clone(),
            ca_file: self.ca_file.as_ref().map(|file| data.root.join(file)),
            binding,
            names,
            proof,
        })
    }

    /// Opens what is there of a certificate, and what gets a better one.
    pub(crate) fn open(
        &self,
        names: ServerNames,
        data: &DataDir,
    ) -> anyhow::Result<(Certificates, Arc<AcmeKeeper>)> {
        let config = self.config(names, data)?;
        let clock = Arc::new(SystemClock);
        let (files, names) = (config.files(), config.names.clone());
        let certificates = Certificates::from_issued(files, names, clock.clone())
            .context("make a temporary certificate")?;
        let keeper = AcmeKeeper::open(config, certificates.clone(), clock, Arc::new(OsEntropy))
            .context("prepare tls.mode = \"acme\"")?;
        Ok((certificates, Arc::new(keeper)))
    }

    /// Says how it stands, without a server.
    pub(crate) fn outlook(&self, names: ServerNames, data: &DataDir) -> anyhow::Result<Outlook> {
        let config = self.config(names, data)?;
        let standing = AcmeStanding::read(&config.dir)?;
        let now = SystemClock.now();
        let shown =
            Certificates::from_issued(config.files(), config.names.clone(), Arc::new(SystemClock))?;
        Ok(describe(&self.directory, shown.issued().map(|issued| issued.until), &standing, now))
    }
}

/// Says how it stands: what is served with, and what became of the last try.
fn describe(
    directory: &str,
    until: Option<tarn_types::UnixMillis>,
    standing: &AcmeStanding,
    now: tarn_types::UnixMillis,
) -> Outlook {
    let mut detail = match until {
        Some(until) => format!("by ACME, valid until {}", date(until)),
        None => "none by ACME yet; a temporary one is shown, which no client trusts".to_owned(),
    };
    match (&standing.failure, standing.next_try) {
        (Some(failure), next) => {
            // Writing to a `String` cannot fail.
            _ = write!(
                detail,
                "; {} tries with {directory} failed, the last on {}: {}",
                failure.count,
                date(failure.at),
                failure.error
            );
            if let Some(next) = next.filter(|next| *next > now) {
                _ = write!(detail, "; tried again on {}", date(next));
            }
        }
        (None, Some(next)) if until.is_some() && next > now => {
            _ = write!(detail, ", renewed on {}", date(next));
        }
        (None, _) => {}
    }
    let remedy = standing.failure.as_ref().map(|_| {
        "put right what the error names; it is tried again by itself, and at once by a restart"
            .to_owned()
    });
    Outlook { detail, remedy }
}

fn binding_key(path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let text = std::fs::read_to_string(path);
    let text = text.map(Zeroizing::new).with_context(|| format!("read {}", path.display()))?;
    let key = BASE64_URL_SAFE_NO_PAD.decode(text.trim().trim_end_matches('='));
    // What is wrong with it could show a part of it.
    key.map(Zeroizing::new).map_err(|_bad| anyhow!("{} is not base64url", path.display()))
}

/// Writes the counters in the Prometheus text format.
pub(crate) fn render(stats: &AcmeStats) -> String {
    let counts = stats.counts();
    let mut text = String::new();
    let rows = [
        ("{outcome=\"issued\"}", counts.issued.to_string()),
        ("{outcome=\"failed\"}", counts.failed.to_string()),
    ];
    let help = "Tries to have a certificate issued.";
    crate::metric::family(&mut text, "acme_tries_total", "counter", help, &rows);
    let next = [("", (counts.next_try_ms / 1000).to_string())];
    let help = "When the next one is, in Unix time; 0 is now.";
    crate::metric::family(&mut text, "acme_next_try_seconds", "gauge", help, &next);
    text
}

#[cfg(test)]
mod tests {
    use tarn_types::UnixMillis;

    use super::*;
    use crate::config::Config;

    const HEAD: &str = "[tls]\nmode = \"acme\"\n";

    fn config(text: &str) -> anyhow::Result<Config> {
        let config: Config = toml::from_str(text)?;
        config.tls.check(&config)?;
        Ok(config)
    }

    #[test]
    fn what_the_section_may_say() {
        let yes = "[tls.acme]\naccept_terms = true\n";
        let api = "[api]\npublic_url = \"https://api.example.com\"\n";
        let ingress = "[ingress]\npublic_url = \"https://sb.example.com\"\n";
        let dns = "dns_command = [\"/bin/hook\"]\n";
        for (parts, wrong) in [
            (vec![yes, api], None),
            (vec![yes, dns, api, ingress], None),
            (vec![yes, dns, ingress], None),
            (vec![yes, dns, "[ingress]\ndomains = [\"sb.example.com\"]"], None),
            (vec![yes, "eab_key_id = \"k\"\neab_key_file = \"f\"\n", api], None),
            (vec![api], Some("tls.acme.accept_terms = true")),
            (vec![yes], Some("api.public_url")),
            (vec![yes, api, ingress], Some("*.sb.example.com")),
            (vec![yes, api, ingress], Some("tls.acme.dns_command")),
            (vec![yes, dns, "[ingress]\ndomains = [\"boxes\"]"], Some("`boxes`")),
            (vec![yes, "[api]\npublic_url = \"https://10.0.0.1\"\n"], Some("address 10.0.0.1")),
            (vec![yes, "directory = \"http://ca.example/\"\n", api], Some("https://")),
            (vec![yes, "directory = \"ca\"\n", api], Some("tls.acme.directory")),
            (vec![yes, "eab_key_id = \"k\"\n", api], Some("eab_key_file")),
            (vec![yes, "eab_key_file = \"k\"\n", api], Some("eab_key_id")),
            (vec![yes, "dns_timeout_secs = 0\n", api], Some("dns_timeout_secs")),
            (vec![yes, "dns_wait_secs = 901\n", api], Some("dns_wait_secs")),
            (vec![yes, "dns_comand = []\n", api], Some("dns_comand")),
        ] {
            let text = format!("{HEAD}{}", parts.concat());
            match (config(&text), wrong) {
                (Ok(_), None) => {}
                (Err(error), Some(part)) => {
                    let error = format!("{error:#}");
                    assert!(error.contains(part), "{text}: {error}");
                }
                (Ok(_), Some(part)) => unreachable!("{text}: accepted in spite of {part}"),
                (Err(error), None) => unreachable!("{text}: {error:#}"),
            }
        }
        let elsewhere = config("[tls]\nmode = \"local_ca\"\n[tls.acme]\naccept_terms = true");
        let error = format!("{:#}", elsewhere.expect_err("another mode"));
        assert!(error.contains("tls.acme is for tls.mode = \"acme\" alone"), "{error}");
    }

    #[test]
    fn the_key_of_an_account_is_read_and_never_shown() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key");
        for (text, key) in [("aGk\n", Some(&b"hi"[..])), ("aGk=", Some(b"hi")), ("a+!hush", None)] {
            std::fs::write(&path, text).expect("written");
            match (binding_key(&path), key) {
                (Ok(read), Some(key)) => assert_eq!(&**read, key),
                (Err(error), None) => assert!(!format!("{error:#}").contains("hush"), "{error:#}"),
                (read, _) => unreachable!("{text}: {}", read.is_ok()),
            }
        }
    }

    #[test]
    fn the_doctor_says_how_it_stands() {
        let now = UnixMillis(1_700_000_000_000);
        let with = |next, failure: Option<(u32, &str)>| {
            let mut standing = AcmeStanding::default();
            standing.next_try = next;
            if let Some((count, error)) = failure {
                standing.failure = Some(tarn_acme::AcmeFailure::new(count, now, error));
            }
            standing
        };
        let later = Some(now.plus_secs(3600));
        for (until, standing, expected, is_well) in [
            (None, with(None, None), "none by ACME yet", true),
            (later, with(later, None), "renewed on 2023-11-14T23:13:20Z", true),
            (None, with(later, Some((2, "no zone"))), "2 tries with d failed", false),
            (later, with(later, Some((2, "no zone"))), "no zone; tried again on", false),
        ] {
            let outlook = describe("d", until, &standing, now);
            assert!(outlook.detail.contains(expected), "{}", outlook.detail);
            assert_eq!(outlook.remedy.is_none(), is_well, "{}", outlook.detail);
        }
    }
}
