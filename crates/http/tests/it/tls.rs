//! The API over TLS: requests, bounds and the drain.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tarn_http::{ServeConfig, serve_tcp};
use tarn_task::{Clock as _, SystemClock, Tasks};
use tarn_tls::{Certificates, LocalAuthority, Protocols, ServerNames};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::server::Server;

const PATIENCE: Duration = Duration::from_secs(20);
const GET: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// An API that speaks TLS.
struct Secured {
    address: SocketAddr,
    root: String,
    tasks: Tasks,
    serving: JoinHandle<()>,
    _kept: (Server, tempfile::TempDir),
}

// === impl Secured ===

impl Secured {
    async fn start(config: ServeConfig) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = Arc::new(SystemClock);
        let authority =
            LocalAuthority::open_or_make(dir.path(), clock.now()).expect("an authority");
        let root = authority.certificate().pem().to_owned();
        let mut names = ServerNames::default();
        names.add_host("127.0.0.1").expect("a host");
        let certificates =
            Certificates::from_authority(authority, names, clock).expect("a certificate");
        let acceptor = certificates.acceptor(Protocols::Http1);
        let server = Server::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let tasks = Tasks::new();
        let serve = serve_tcp(listener, acceptor, server.router.clone(), tasks.clone(), config);
        let serving = tasks.spawn("serve", serve);
        Self { address, root, tasks, serving, _kept: (server, dir) }
    }

    async fn silent(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connected")
    }

    async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(self.root.as_bytes()).expect("PEM");
        roots.add(root).expect("a root");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, self.silent().await);
        tokio::time::timeout(PATIENCE, handshake).await.expect("in time")
    }
}

#[tokio::test]
async fn a_silent_client_delays_nobody_and_is_cut_off() {
    let config = ServeConfig {
        max_connections: 2,
        handshake_timeout: Duration::from_millis(500),
        ..ServeConfig::default()
    };
    let secured = Secured::start(config).await;
    let mut silent = secured.silent().await;
    // On a slow machine a handshake may be cut off that is not silent at all.
    let handshake = async {
        loop {
            if let Ok(stream) = secured.connect().await {
                return stream;
            }
        }
    };
    let mut stream = tokio::time::timeout(PATIENCE, handshake).await.expect("a handshake in time");
    stream.write_all(GET).await.expect("sent");
    let mut text = String::new();
    let read = stream.read_to_string(&mut text);
    tokio::time::timeout(PATIENCE, read).await.expect("in time").expect("a clean end");
    assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
    let mut rest = Vec::new();
    let cut = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut rest));
    cut.await.expect("it is cut off").expect("a clean end");
    secured.tasks.stop();
}

#[tokio::test]
async fn the_drain_waits_for_no_handshake() {
    let hour = Duration::from_secs(3600);
    let config = ServeConfig { handshake_timeout: hour, drain: hour, ..ServeConfig::default() };
    let secured = Secured::start(config).await;
    let silent = secured.silent().await;
    // The one before it was taken, too.
    let idle = secured.connect().await.expect("a handshake");
    secured.tasks.stop();
    let address = secured.address;
    tokio::time::timeout(PATIENCE, secured.serving).await.expect("drained").expect("no panic");
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    drop((idle, silent));
}
