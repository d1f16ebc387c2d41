//! A listener, clients that judge it at a time of the test's own, and certificates of any kind.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    time_provider::TimeProvider,
};
use tarn_task::{ManualClock, Tasks};
use tarn_tls::{Acceptor, CertificateFiles, ServerStream};
use tarn_types::UnixMillis;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Nothing in these tests takes this long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const DAY_MS: i64 = 24 * 3600 * 1000;
/// 2027-01-15, when these tests begin.
pub(crate) const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

/// A server that answers each client with what it sent, upper case.
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    tasks: Tasks,
}

/// The clock of a client.
#[derive(Debug)]
struct At(UnixMillis);

/// An authority that is not ours, and files with what it signed.
pub(crate) struct Issued {
    pub(crate) dir: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

// === impl Echo ===

impl Echo {
    pub(crate) async fn start(acceptor: Acceptor, handshake: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let tasks = Tasks::new();
        let own = tasks.clone();
        drop(tasks.spawn("echo", async move {
            while let Ok((stream, _peer)) = listener.accept().await {
                let acceptor = acceptor.clone();
                drop(own.spawn("client", async move {
                    if let Ok(stream) = acceptor.accept(stream, Instant::now() + handshake).await {
                        echo(stream).await;
                    }
                }));
            }
        }));
        Self { address, tasks }
    }

    /// Connects by a name, and trusts one authority; the protocol that was agreed comes with it.
    pub(crate) async fn connect(
        &self,
        config: ClientConfig,
        name: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let stream = TcpStream::connect(self.address).await?;
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
        tokio::time::timeout(PATIENCE, handshake).await.expect("a handshake or none")
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

// === impl At ===

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        let millis = u64::try_from(self.0.0).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_millis(millis)))
    }
}

// === impl Issued ===

impl Issued {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        Self { dir: tempfile::tempdir().expect("a directory"), issuer }
    }

    pub(crate) fn root(&self) -> &CertificateDer<'static> {
        self.issuer.der()
    }

    /// The authority's own certificate and key in PEM.
    pub(crate) fn authority(&self) -> (String, String) {
        let issuer: &Issuer<'_, KeyPair> = &self.issuer;
        (self.issuer.pem(), issuer.key().serialize_pem())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The files that are served with.
    pub(crate) fn files(&self) -> CertificateFiles {
        CertificateFiles { certificate: self.path("cert.pem"), key: self.path("key.pem") }
    }

    /// Writes a pair for some names, valid for days before and after [`NOW`].
    pub(crate) fn issue(&self, names: &[&str], days: (i64, i64)) -> CertificateFiles {
        let files = self.files();
        let (certificate, key) = self.sign(names, days);
        replace(&files.certificate, &format!("{certificate}{}", self.issuer.pem()));
        replace(&files.key, &key);
        files
    }

    /// Signs a certificate and returns it and its key in PEM.
    pub(crate) fn sign(&self, names: &[&str], days: (i64, i64)) -> (String, String) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names");
        let moment = |days: i64| {
            let millis = u64::try_from(NOW.0 + days * DAY_MS).expect("after 1970");
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(millis)
        };
        (params.not_before, params.not_after) = (moment(days.0), moment(days.1));
        let key = KeyPair::generate().expect("a key");
        let issuer: &Issuer<'_, KeyPair> = &self.issuer;
        let made = params.signed_by(&key, issuer).expect("a certificate");
        (made.pem(), key.serialize_pem())
    }
}

pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(NOW))
}

/// Puts a file in another's place, as deployment tools do.
pub(crate) fn replace(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    fs::write(&draft, text).expect("written");
    fs::rename(&draft, path).expect("renamed");
}

/// A client that trusts one authority.
pub(crate) fn client(root: &CertificateDer<'_>, now: UnixMillis) -> ClientConfig {
    client_of(root, now, rustls::ALL_VERSIONS)
}

pub(crate) fn client_of(
    root: &CertificateDer<'_>,
    now: UnixMillis,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone().into_owned()).expect("a root");
    let provider = Arc::new(aws_lc_rs::default_provider());
    ClientConfig::builder_with_details(provider, Arc::new(At(now)))
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

pub(crate) fn pem(text: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(text.as_bytes()).expect("a certificate")
}

/// Sends a word and reads the answer.
pub(crate) async fn say(stream: &mut TlsStream<TcpStream>, word: &str) -> String {
    stream.write_all(word.as_bytes()).await.expect("sent");
    let mut answer = vec![0; word.len()];
    let read = stream.read_exact(&mut answer);
    tokio::time::timeout(PATIENCE, read).await.expect("in time").expect("an answer");
    String::from_utf8(answer).expect("text")
}

async fn echo(mut stream: ServerStream) {
    let mut bytes = [0; 1024];
    while let Ok(read) = stream.read(&mut bytes).await {
        if read == 0 || stream.write_all(&bytes[..read].to_ascii_uppercase()).await.is_err() {
            break;
        }
        drop(stream.flush().await);
    }
    drop(stream.shutdown().await);
}
