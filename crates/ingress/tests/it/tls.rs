//! The same over TLS: both protocols, WebSockets, early answers, bounds and the drain.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tarn_ingress::{IngressConfig, PublicScheme};
use tarn_task::{Clock as _, SystemClock};
use tarn_tls::{Certificates, LocalAuthority, Protocols, ServerNames};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    client::{Client, get},
    sandbox::Recorder,
    upgrade::echo,
    world::{KEY, PATIENCE, World, eventually, soon},
};

/// An ingress that speaks TLS, and what its clients trust.
pub(crate) struct Secured {
    pub(crate) world: World,
    root: CertificateDer<'static>,
    _dir: tempfile::TempDir,
}

// === impl Secured ===

impl Secured {
    pub(crate) async fn start(config: IngressConfig) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = Arc::new(SystemClock);
        let authority =
            LocalAuthority::open_or_make(dir.path(), clock.now()).expect("an authority");
        let pem = authority.certificate().pem().to_owned();
        let mut names = ServerNames::default();
        names.add_domain("localhost").expect("a domain");
        let certificates =
            Certificates::from_authority(authority, names, clock).expect("a certificate");
        let world = World::over(config, certificates.acceptor(Protocols::Http2)).await;
        let root = CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
        Self { world, root, _dir: dir }
    }

    pub(crate) async fn connect(&self, protocols: &[&[u8]]) -> TlsStream<TcpStream> {
        self.try_connect(protocols).await.expect("a trusted server")
    }

    async fn try_connect(&self, protocols: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).expect("a root");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let stream = TcpStream::connect(self.world.address).await.expect("a connection");
        let name = ServerName::try_from("localhost").expect("a name");
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
        soon("a handshake", handshake).await
    }

    async fn client(&self, protocol: &[u8]) -> Client {
        let stream = self.connect(&[protocol]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
        let io = TokioIo::new(stream);
        let tasks = &self.world.tasks;
        if protocol == b"h2" {
            let (sender, run) =
                http2::handshake(TokioExecutor::new(), io).await.expect("a handshake");
            drop(tasks.spawn("client", async move { drop(run.await) }));
            Client::Http2(sender)
        } else {
            let (sender, run) = http1::handshake(io).await.expect("a handshake");
            drop(tasks.spawn("client", async move { drop(run.await) }));
            Client::Http1(sender)
        }
    }
}

async fn read_until(stream: &mut TlsStream<TcpStream>, received: &mut Vec<u8>, text: &str) {
    let reading = async {
        while !String::from_utf8_lossy(received).contains(text) {
            let read = stream.read_buf(received).await.unwrap_or(0);
            assert!(read > 0, "ended before {text:?}: {:?}", String::from_utf8_lossy(received));
        }
    };
    soon(text, reading).await;
}

#[tokio::test]
async fn both_protocols_reach_the_sandbox() {
    let config = IngressConfig { public_scheme: PublicScheme::Https, ..IngressConfig::default() };
    let secured = Secured::start(config).await;
    let daemon = Recorder::start(&secured.world.tasks).await;
    let id = secured.world.sandbox(daemon.address);
    for protocol in [&b"http/1.1"[..], b"h2"] {
        let mut client = secured.client(protocol).await;
        for _ in 0..3 {
            let answer = client.send(get(&id, "/api/v1/health")).await;
            assert_eq!((answer.status, answer.text()), (StatusCode::OK, "ok"));
        }
    }
    assert_eq!(daemon.seen.lock().len(), 6);
    assert_eq!(secured.world.stats().connections, 2);
}

#[tokio::test]
async fn a_websocket_closes_half_by_half() {
    let secured = Secured::start(IngressConfig::default()).await;
    let id = echo(&secured.world).await;
    let mut stream = secured.connect(&[b"http/1.1"]).await;
    let head = format!(
        "GET /api/v1/pty/1/ws HTTP/1.1\r\nHost: {id}.local\r\nAuthorization: Bearer {KEY}\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGVzdA==\r\n\r\n"
    );
    soon("a request", stream.write_all(head.as_bytes())).await.expect("sent");
    let mut received = Vec::new();
    read_until(&mut stream, &mut received, "hello").await;
    // Larger than the buffers on the way, so that writes have to wait.
    let block = "0123456789abcdef".repeat(1 << 16);
    let (mut reader, mut writer) = tokio::io::split(stream);
    let send = async {
        writer.write_all(block.as_bytes()).await.expect("sent");
        writer.shutdown().await.expect("a close");
    };
    let mut rest = Vec::new();
    let (_sent, read) =
        soon("both ways", async { tokio::join!(send, reader.read_to_end(&mut rest)) }).await;
    read.expect("a clean end");
    let rest = String::from_utf8(rest).expect("text");
    assert_eq!(rest.len(), block.len() + "goodbye".len());
    assert!(rest.starts_with(&block) && rest.ends_with("goodbye"));
    eventually("it is closed", || secured.world.stats().connections_open == 0).await;
}

#[tokio::test]
async fn an_answer_to_an_unread_upload_arrives() {
    let secured = Secured::start(IngressConfig::default()).await;
    let daemon = Recorder::start(&secured.world.tasks).await;
    let id = secured.world.sandbox(daemon.address);
    let stream = secured.connect(&[b"http/1.1"]).await;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let body = vec![b'x'; 256 << 10];
    let head = format!(
        "POST /api/v1/files HTTP/1.1\r\nHost: {id}.local\r\nAuthorization: Bearer wrong\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let send = async {
        drop(writer.write_all(head.as_bytes()).await);
        drop(writer.write_all(&body).await);
        drop(writer.flush().await);
    };
    let mut answer = String::new();
    let read = reader.read_to_string(&mut answer);
    let (_sent, read) = soon("an answer", async { tokio::join!(send, read) }).await;
    read.expect("a clean end");
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

#[tokio::test]
async fn a_slow_handshake_gives_its_place_up() {
    let config = IngressConfig {
        max_connections: 1,
        first_request_timeout: Duration::from_millis(500),
        ..IngressConfig::default()
    };
    let secured = Secured::start(config).await;
    let mut silent = TcpStream::connect(secured.world.address).await.expect("a connection");
    eventually("it has the place", || secured.world.stats().connections_open == 1).await;
    // The handshake of this one waits until then. On a slow machine it may be cut off itself.
    let handshake = async {
        loop {
            if let Ok(stream) = secured.try_connect(&[]).await {
                return stream;
            }
        }
    };
    let mut mute = soon("a handshake in time", handshake).await;
    let mut rest = Vec::new();
    soon("it is cut off", silent.read_to_end(&mut rest)).await.expect("a clean end");
    // And who says nothing after the handshake has no more time.
    drop(soon("it is cut off, too", mute.read_to_end(&mut rest)).await);
    assert_eq!(rest, b"");
    eventually("all are gone", || secured.world.stats().connections_open == 0).await;
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_handshakes() {
    let hour = Duration::from_secs(3600);
    let config = IngressConfig { first_request_timeout: hour, ..IngressConfig::default() };
    let secured = Secured::start(config).await;
    let silent = TcpStream::connect(secured.world.address).await.expect("a connection");
    eventually("it is in", || secured.world.stats().connections_open == 1).await;
    let left = soon("the shutdown", secured.world.tasks.shutdown(PATIENCE)).await;
    assert_eq!(left, 0);
    drop(silent);
}
