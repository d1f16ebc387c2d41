//! `[tls]`: where certificates come from, for which names, and what is counted.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, anyhow, ensure};
use serde::Deserialize;
use tarn_acme::AcmeKeeper;
use tarn_http::MetricsSource;
use tarn_task::{Clock as _, SystemClock, Tasks};
use tarn_tls::{
    Acceptor, AuthorityCertificate, CertificateFiles, Certificates, HandshakeStats, LocalAuthority,
    Protocols, ServerNames,
};
use tarn_types::UnixMillis;
use url::{Host, Url};

use crate::{
    acme::{self, AcmeSection},
    config::{Config, DataDir},
};

/// `[tls]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TlsSection {
    /// Where the certificate of both listeners comes from. Default: off.
    pub(crate) mode: TlsMode,
    /// With `files`: the chain in PEM, the server's own certificate first.
    pub(crate) cert_file: Option<PathBuf>,
    /// With `files`: its key in PEM.
    pub(crate) key_file: Option<PathBuf>,
    /// With `acme`: who is asked, and how.
    pub(crate) acme: AcmeSection,
}

/// Where a certificate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TlsMode {
    /// Nowhere: plain HTTP.
    #[default]
    Off,
    /// Two files, read again when they change.
    Files,
    /// An authority of the server's own, in the data directory.
    LocalCa,
    /// An authority that speaks ACME.
    Acme,
}

/// What makes streams of the connections of both listeners.
pub(crate) struct Acceptors {
    pub(crate) api: Acceptor,
    pub(crate) ingress: Acceptor,
    pub(crate) certificates: Option<Certificates>,
    /// What clients are to trust, where nobody else has them trust it.
    pub(crate) authority: Option<AuthorityCertificate>,
    /// What has the certificate issued, where somebody else does.
    pub(crate) acme: Option<Arc<AcmeKeeper>>,
}

/// How the certificate of a configuration stands.
pub(crate) struct Outlook {
    pub(crate) detail: String,
    /// What to do, where something is to be done.
    pub(crate) remedy: Option<String>,
}

// === impl TlsMode ===

impl TlsMode {
    /// Returns the scheme of the listeners' own URLs.
    pub(crate) fn scheme(self) -> &'static str {
        match self {
            Self::Off => "http",
            Self::Files | Self::LocalCa | Self::Acme => "https",
        }
    }
}

// === impl TlsSection ===

impl TlsSection {
    /// Checks all that can be checked without looking at files.
    pub(crate) fn check(&self, config: &Config) -> anyhow::Result<()> {
        let files = [("cert_file", &self.cert_file), ("key_file", &self.key_file)];
        for (key, file) in files {
            match (self.mode, file) {
                (TlsMode::Files, None) => {
                    return Err(anyhow!("tls.mode = \"files\" needs tls.{key}"));
                }
                (TlsMode::Off | TlsMode::LocalCa | TlsMode::Acme, Some(_)) => {
                    return Err(anyhow!("tls.{key} is for tls.mode = \"files\" alone"));
                }
                (TlsMode::Files, Some(_))
                | (TlsMode::Off | TlsMode::LocalCa | TlsMode::Acme, None) => {}
            }
        }
        ensure!(
            self.mode == TlsMode::Acme || self.acme == AcmeSection::default(),
            "tls.acme is for tls.mode = \"acme\" alone"
        );
        if self.mode == TlsMode::Off {
            return Ok(());
        }
        for (key, url) in public_urls(config) {
            ensure!(
                public_host(key, url)?.0 == "https",
                "{key} is {url}, but with tls.mode set only https:// is spoken"
            );
        }
        let names = public_names(config)?;
        if self.mode == TlsMode::Acme { self.acme.check(&names) } else { Ok(()) }
    }

    /// Names the two files; relative paths are in the data directory.
    pub(crate) fn files(&self, data: &DataDir) -> anyhow::Result<CertificateFiles> {
        let path = |file: &Option<PathBuf>, key: &str| {
            let file = file.as_ref().with_context(|| format!("tls.{key} is not set"))?;
            anyhow::Ok(data.root.join(file))
        };
        Ok(CertificateFiles {
            certificate: path(&self.cert_file, "cert_file")?,
            key: path(&self.key_file, "key_file")?,
        })
    }

    /// Gets the certificate, if there is to be one.
    pub(crate) fn open(&self, config: &Config, data: &DataDir) -> anyhow::Result<Acceptors> {
        let clock = Arc::new(SystemClock);
        let (mut authority, mut acme) = (None, None);
        let certificates = match self.mode {
            TlsMode::Off => {
                let (api, ingress) = (Acceptor::plain(), Acceptor::plain());
                return Ok(Acceptors { api, ingress, certificates: None, authority, acme });
            }
            TlsMode::Files => {
                let files = self.files(data)?;
                let read = Certificates::from_files(files, public_names(config)?, clock);
                read.context("use tls.cert_file and tls.key_file")?
            }
            TlsMode::LocalCa => {
                let opened = LocalAuthority::open_or_make(&data.root, clock.now())
                    .context("open the local CA")?;
                authority = Some(opened.certificate().clone());
                let made = Certificates::from_authority(opened, local_names(config)?, clock);
                made.context("make the server's certificate")?
            }
            TlsMode::Acme => {
                let (certificates, keeper) = self.acme.open(public_names(config)?, data)?;
                acme = Some(keeper);
                certificates
            }
        };
        Ok(Acceptors {
            // Each offers what it speaks without TLS.
            api: certificates.acceptor(Protocols::Http1),
            ingress: certificates.acceptor(Protocols::Http2),
            certificates: Some(certificates),
            authority,
            acme,
        })
    }
}

// === impl Acceptors ===

impl Acceptors {
    /// Returns the metrics of TLS, where there is any.
    pub(crate) fn metrics(&self) -> Option<MetricsSource> {
        let certificates = self.certificates.clone()?;
        let stats = [("api", self.api.stats()), ("ingress", self.ingress.stats())];
        let acme = self.acme.as_ref().map(|keeper| keeper.stats());
        Some(Arc::new(move || {
            // A temporary certificate is as good as none.
            let is_served = acme.is_none() || certificates.issued().is_some();
            let until = if is_served { certificates.not_after().0 / 1000 } else { 0 };
            let acme = acme.as_deref().map(acme::render).unwrap_or_default();
            render(&stats, until) + &acme
        }))
    }

    /// Keeps certificates current until shutdown.
    pub(crate) fn spawn_keepers(&self, tasks: &Tasks) {
        if let Some(certificates) = &self.certificates {
            certificates.spawn_keeper(tasks);
        }
        if let Some(acme) = &self.acme {
            Arc::clone(acme).spawn(tasks);
        }
    }
}

/// Looks at the certificate of a configuration, without a server.
pub(crate) fn outlook(config: &Config, data: &DataDir) -> anyhow::Result<Outlook> {
    let clock = Arc::new(SystemClock);
    let now = clock.now();
    let (what, until, remedy) = match config.tls.mode {
        TlsMode::Off => {
            let detail = "none: tls.mode is \"off\"".to_owned();
            return Ok(Outlook { detail, remedy: None });
        }
        TlsMode::Files => {
            let files = config.tls.files(data)?;
            let what = files.certificate.display().to_string();
            let read = Certificates::from_files(files, public_names(config)?, clock)?;
            (what, read.not_after(), "replace tls.cert_file and tls.key_file; no restart is needed")
        }
        TlsMode::LocalCa => {
            let Some(authority) = AuthorityCertificate::read(&data.root)? else {
                let detail = "the local CA is made at the first start".to_owned();
                return Ok(Outlook { detail, remedy: None });
            };
            let what = format!("the local CA {}", authority.path().display());
            let remedy = "remove ca.pem and ca.key and start again; every client must trust the \
                          new one";
            (what, authority.not_after(), remedy)
        }
        TlsMode::Acme => return config.tls.acme.outlook(public_names(config)?, data),
    };
    let soon = Certificates::is_soon(until, now);
    let detail = format!("{what} is valid until {}", date(until));
    Ok(Outlook { detail, remedy: soon.then(|| remedy.to_owned()) })
}

fn date(at: UnixMillis) -> String {
    tarn_api::response::rfc3339_secs(at.0).unwrap_or_else(|| at.to_string())
}

/// Writes how to have clients trust an authority.
pub(crate) fn how_to_trust(authority: &AuthorityCertificate) -> String {
    let (path, fingerprint) = (authority.path().display(), authority.fingerprint());
    format!(
        "Local CA       {path}\n\
         SHA-256        {fingerprint}\n\
         \n\
         Copy it to the client's machine (`tarn ca --pem > ca.pem` prints it). There:\n\
         \n\
         curl           curl --cacert ca.pem …\n\
         Python 0.5.113 export SSL_CERT_FILE=$PWD/ca.pem\n\
         Python 0.5.163 trusts no CA but those that are built into it: use tls.mode = \"files\" and\n\
         \x20              a certificate that the public trusts\n\
         npm 0.5.89     export SSL_CERT_FILE=$PWD/ca.pem NODE_EXTRA_CA_CERTS=$PWD/ca.pem\n\
         Browser        import it as an authority for web sites, in the certificate settings\n\
         The system     Debian, Ubuntu: cp ca.pem /usr/local/share/ca-certificates/tarn.crt &&\n\
         \x20              update-ca-certificates. Then curl, Python 0.5.113 and npm 0.5.89 (with\n\
         \x20              `node --use-system-ca`) need nothing more.\n"
    )
}

fn public_urls(config: &Config) -> impl Iterator<Item = (&'static str, &str)> {
    let urls = [
        ("api.public_url", config.api.public_url.as_deref()),
        ("ingress.public_url", config.ingress.public_url.as_deref()),
    ];
    urls.into_iter().filter_map(|(key, url)| Some((key, url?)))
}

/// Reads the scheme and the host of a URL that clients are told.
fn public_host(key: &str, url: &str) -> anyhow::Result<(String, Host)> {
    let parsed = Url::parse(url).with_context(|| format!("understand {key} `{url}`"))?;
    let host = parsed.host().with_context(|| format!("{key} `{url}` names no host"))?;
    Ok((parsed.scheme().to_owned(), host.to_owned()))
}

/// Returns the names under which clients come because they were told them.
fn public_names(config: &Config) -> anyhow::Result<ServerNames> {
    let mut names = ServerNames::default();
    for (key, url) in public_urls(config) {
        let (_scheme, host) = public_host(key, url)?;
        let text = host.to_string();
        let is_name = matches!(host, Host::Domain(_));
        let add = |names: &mut ServerNames| {
            if is_name && key == "ingress.public_url" {
                return names.add_domain(&text);
            }
            // The clients make `sandbox.X` of an API at `api.X` (spec 00 §2).
            if let Some(rest) = text.strip_prefix("api.").filter(|_| is_name) {
                names.add_host(&format!("sandbox.{rest}"))?;
            }
            names.add_host(&text)
        };
        add(&mut names).with_context(|| format!("use the host of {key}"))?;
    }
    for domain in &config.ingress.domains {
        names.add_domain(domain).context("use ingress.domains")?;
    }
    Ok(names)
}

/// Returns every name that a certificate of our own can be for.
fn local_names(config: &Config) -> anyhow::Result<ServerNames> {
    let mut names = public_names(config)?;
    if let Some(url) = &config.api.public_url
        && let (_scheme, Host::Domain(host)) = public_host("api.public_url", url)?
    {
        names.add_domain(&host)?;
    }
    names.add_domain("localhost")?;
    for host in ["127.0.0.1", "::1"] {
        names.add_host(host)?;
    }
    for (key, listen, public_url) in [
        ("api", config.api.listen, &config.api.public_url),
        ("ingress", config.ingress.listen, &config.ingress.public_url),
    ] {
        if is_any(listen) && public_url.is_none() {
            tracing::warn!(
                "{key}.listen is {listen}, which is no address to come by: the certificate is for \
                 this machine's own clients; set {key}.public_url to what others are to use"
            );
        } else if !is_any(listen) {
            names.add_host(&listen.ip().to_string())?;
        }
    }
    Ok(names)
}

fn is_any(listen: SocketAddr) -> bool {
    listen.ip().to_canonical().is_unspecified()
}

/// Writes the counters in the Prometheus text format.
fn render(listeners: &[(&str, Arc<HandshakeStats>)], not_after_secs: i64) -> String {
    const DONE: &str = "tarn_tls_handshakes_total";
    const FAILED: &str = "tarn_tls_handshakes_failed_total";
    const UNTIL: &str = "tarn_tls_certificate_not_after_seconds";
    let (mut done, mut failed) = (String::new(), String::new());
    for (listener, stats) in listeners {
        let counts = stats.counts();
        // Writing to a `String` cannot fail.
        _ = writeln!(done, "{DONE}{{listener=\"{listener}\"}} {}", counts.done);
        let reasons =
            [("handshake", counts.refused), ("timeout", counts.slow), ("plain_http", counts.plain)];
        for (reason, count) in reasons {
            let labels = format!("listener=\"{listener}\",reason=\"{reason}\"");
            _ = writeln!(failed, "{FAILED}{{{labels}}} {count}");
        }
    }
    format!(
        "# HELP {DONE} TLS handshakes that were finished.\n# TYPE {DONE} counter\n{done}\
         # HELP {FAILED} Those that were not, by reason.\n# TYPE {FAILED} counter\n{failed}\
         # HELP {UNTIL} When the certificate expires, in Unix time.\n# TYPE {UNTIL} gauge\n\
         {UNTIL} {not_after_secs}\n"
    )
}

/// Returns the certificate of the local CA of a data directory.
pub(crate) fn authority(root: &Path) -> anyhow::Result<AuthorityCertificate> {
    AuthorityCertificate::read(root)?.with_context(|| {
        format!(
            "there is no local CA in {}; a start with tls.mode = \"local_ca\" makes one",
            root.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> anyhow::Result<Config> {
        let config: Config = toml::from_str(text)?;
        config.tls.check(&config)?;
        Ok(config)
    }

    #[test]
    fn what_the_section_may_say() {
        let files = "[tls]\nmode = \"files\"\ncert_file = \"a\"\nkey_file = \"b\"\n";
        for (text, wrong) in [
            ("", None),
            ("[tls]\nmode = \"off\"", None),
            ("[tls]\nmode = \"local_ca\"", None),
            (files, None),
            ("[tls]\nmode = \"letsencrypt\"", Some("letsencrypt")),
            ("[tls]\nacme_email = \"a@b\"", Some("acme_email")),
            ("[tls]\nmode = \"acme\"\ncert_file = \"a\"", Some("tls.cert_file")),
            ("[tls]\nmode = \"files\"\nkey_file = \"b\"", Some("tls.cert_file")),
            ("[tls]\nmode = \"files\"\ncert_file = \"a\"", Some("tls.key_file")),
            ("[tls]\ncert_file = \"a\"", Some("tls.cert_file")),
            ("[tls]\nmode = \"local_ca\"\nkey_file = \"b\"", Some("tls.key_file")),
            (
                "[tls]\nmode = \"local_ca\"\n[api]\npublic_url = \"http://a.example\"",
                Some("https://"),
            ),
            (
                "[tls]\nmode = \"local_ca\"\n[api]\npublic_url = \"a.example\"",
                Some("api.public_url"),
            ),
            ("[tls]\nmode = \"local_ca\"\n[ingress]\ndomains = [\"a b\"]", Some("`a b`")),
            ("[tls]\nmode = \"local_ca\"\n[ingress]\ndomains = [\"10.0.0.1\"]", Some("10.0.0.1")),
            // Without TLS of our own nothing changes for who has a proxy.
            ("[api]\npublic_url = \"http://a.example\"", None),
        ] {
            match (config(text), wrong) {
                (Ok(_), None) => {}
                (Err(error), Some(part)) => {
                    let error = format!("{error:#}");
                    assert!(error.contains(part), "{text}: {error}");
                }
                (Ok(_), Some(part)) => unreachable!("{text}: accepted in spite of {part}"),
                (Err(error), None) => unreachable!("{text}: {error:#}"),
            }
        }
    }

    fn names(hosts: &[&str], domains: &[&str]) -> ServerNames {
        let mut names = ServerNames::default();
        for host in hosts {
            names.add_host(host).expect(host);
        }
        for domain in domains {
            names.add_domain(domain).expect(domain);
        }
        names
    }

    #[test]
    fn the_names_follow_from_the_configuration() {
        let own = "[tls]\nmode = \"local_ca\"\n";
        let example = format!(
            "{own}[api]\npublic_url = \"https://API.example.com:8443/\"\nlisten = \"0.0.0.0:1\"\n\
             [ingress]\npublic_url = \"https://sb.example.com\"\nlisten = \"[fd00::1]:1\"\n\
             domains = [\"boxes\", \"x.example.org\"]\n"
        );
        let (told, told_domains): (&[_], &[_]) = (
            &["api.example.com", "sandbox.example.com"],
            &["sb.example.com", "boxes", "x.example.org"],
        );
        let by_address = format!("{own}[ingress]\npublic_url = \"https://10.1.2.3:9443\"");
        for (text, public, local) in [
            (own, names(&[], &[]), names(&["127.0.0.1", "::1"], &["localhost"])),
            (
                &*example,
                names(told, told_domains),
                names(
                    &[told, &["127.0.0.1", "::1", "fd00::1"]].concat(),
                    &[told_domains, &["localhost", "api.example.com"]].concat(),
                ),
            ),
            (
                &*by_address,
                names(&["10.1.2.3"], &[]),
                names(&["10.1.2.3", "127.0.0.1", "::1"], &["localhost"]),
            ),
        ] {
            let config = config(text).expect(text);
            assert_eq!(public_names(&config).expect(text), public, "{text}");
            assert_eq!(local_names(&config).expect(text), local, "{text}");
        }
    }

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let text = render(&[("api", Arc::default()), ("ingress", Arc::default())], 1_800_000_000);
        for line in [
            "tarn_tls_handshakes_total{listener=\"api\"} 0",
            "tarn_tls_handshakes_failed_total{listener=\"ingress\",reason=\"plain_http\"} 0",
            "tarn_tls_certificate_not_after_seconds 1800000000",
        ] {
            assert!(text.lines().any(|each| each == line), "{line}\n{text}");
        }
        assert!(text.ends_with('\n'));
    }
}
