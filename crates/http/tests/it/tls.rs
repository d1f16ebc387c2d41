//! The API over TLS: requests, bounds and the drain.

use std::{sync::Arc, time::Duration};

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
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::server::Server;

const PATIENCE: Duration = Duration::from_secs(20);
const GET: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

async fn connect(address: std::net::SocketAddr, root: &str) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes()).expect("PEM")).expect("a root");
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.expect("connected");
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
    tokio::time::timeout(PATIENCE, handshake).await.expect("in time").expect("a handshake")
}

#[tokio::test]
async fn requests_are_served_beside_and_after_silent_clients() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(SystemClock);
    let authority = LocalAuthority::open_or_make(dir.path(), clock.now()).expect("an authority");
    let root = authority.certificate().pem().to_owned();
    let mut names = ServerNames::default();
    names.add_host("127.0.0.1").expect("a host");
    let certificates =
        Certificates::from_authority(authority, names, clock).expect("a certificate");

    let server = Server::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let tasks = Tasks::new();
    let config = ServeConfig {
        max_connections: 2,
        handshake_timeout: Duration::from_millis(500),
        ..ServeConfig::default()
    };
    let acceptor = certificates.acceptor(Protocols::Http1);
    let router = server.router.clone();
    let serving =
        tasks.spawn("serve", serve_tcp(listener, acceptor, router, tasks.clone(), config));

    // The first takes a place and says nothing; the second one is served beside it.
    let mut silent = TcpStream::connect(address).await.expect("connected");
    let mut stream = connect(address, &root).await;
    stream.write_all(GET).await.expect("sent");
    let mut text = String::new();
    let read = stream.read_to_string(&mut text);
    tokio::time::timeout(PATIENCE, read).await.expect("in time").expect("a clean end");
    assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
    let mut rest = Vec::new();
    let cut = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut rest));
    cut.await.expect("it is cut off").expect("a clean end");

    let idle = connect(address, &root).await;
    let silent = TcpStream::connect(address).await.expect("connected");
    tasks.stop();
    tokio::time::timeout(PATIENCE, serving).await.expect("drained").expect("no panic");
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    drop((idle, silent));
}
