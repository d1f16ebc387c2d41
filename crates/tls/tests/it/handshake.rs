//! Handshakes: versions, protocols, and clients that do not do their part.

use std::time::Duration;

use tarn_tls::{Acceptor, Certificates, HandshakeCounts, LocalAuthority, Protocols, ServerNames};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::world::{Echo, NOW, PATIENCE, client, client_of, clock, pem, say};

struct Server {
    echo: Echo,
    acceptor: Acceptor,
    root: rustls::pki_types::CertificateDer<'static>,
    _dir: tempfile::TempDir,
}

async fn server(protocols: Protocols, handshake: Duration) -> Server {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = LocalAuthority::open_or_make(dir.path(), NOW).expect("an authority");
    let root = pem(authority.certificate().pem());
    let mut names = ServerNames::default();
    names.add_domain("localhost").expect("a domain");
    let certificates =
        Certificates::from_authority(authority, names, clock()).expect("a certificate");
    let acceptor = certificates.acceptor(protocols);
    let echo = Echo::start(acceptor.clone(), handshake).await;
    Server { echo, acceptor, root, _dir: dir }
}

/// Waits until something was counted.
async fn until_counted(server: &Server, expected: HandshakeCounts) {
    let counted = async {
        while server.acceptor.stats().counts() != expected {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let seen = tokio::time::timeout(PATIENCE, counted).await;
    assert!(seen.is_ok(), "{:?}", server.acceptor.stats().counts());
}

#[tokio::test]
async fn both_versions_and_the_protocols_of_the_listener() {
    let (h2, h1) = (b"h2".to_vec(), b"http/1.1".to_vec());
    let offers = [
        (Protocols::Http2, vec![h2.clone(), h1.clone()], Some(h2.clone())),
        (Protocols::Http2, vec![h1.clone()], Some(h1.clone())),
        (Protocols::Http1, vec![h2.clone(), h1.clone()], Some(h1)),
        (Protocols::Http1, vec![], None),
    ];
    for (protocols, offered, agreed) in offers {
        let server = server(protocols, PATIENCE).await;
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let mut config = client_of(&server.root, NOW, &[version]);
            config.alpn_protocols.clone_from(&offered);
            let mut stream = server.echo.connect(config, "localhost").await.expect("a handshake");
            let (_socket, session) = stream.get_ref();
            assert_eq!(session.protocol_version(), Some(version.version));
            assert_eq!(session.alpn_protocol(), agreed.as_deref());
            assert_eq!(say(&mut stream, "a word").await, "A WORD");
        }
        until_counted(&server, HandshakeCounts { done: 2, ..HandshakeCounts::default() }).await;
    }
}

#[tokio::test]
async fn the_end_passes_both_ways() {
    let server = server(Protocols::Http2, PATIENCE).await;
    let mut stream =
        server.echo.connect(client(&server.root, NOW), "localhost").await.expect("a handshake");
    assert_eq!(say(&mut stream, "last").await, "LAST");
    stream.shutdown().await.expect("sent");
    let mut rest = Vec::new();
    // Without a close of the session this would be an error: somebody might have cut the answer.
    let read = stream.read_to_end(&mut rest);
    tokio::time::timeout(PATIENCE, read).await.expect("in time").expect("a clean end");
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn plain_http_is_told_to_use_https() {
    let server = server(Protocols::Http2, PATIENCE).await;
    let requests = ["GET / HTTP/1.1\r\nhost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"];
    for request in requests {
        let mut stream = TcpStream::connect(server.echo.address).await.expect("connected");
        // More than fits into one read: the answer must survive what nobody reads.
        let all = [request.as_bytes(), &[b'x'; 64 << 10]].concat();
        stream.write_all(&all).await.expect("sent");
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        tokio::time::timeout(PATIENCE, read).await.expect("in time").expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
        assert!(answer.contains("https://"), "{answer}");
    }
    until_counted(&server, HandshakeCounts { plain: 2, ..HandshakeCounts::default() }).await;
}

#[tokio::test]
async fn who_does_not_finish_is_cut_off() {
    let server = server(Protocols::Http2, Duration::from_millis(100)).await;
    // Nothing at all, a byte, and the head of a record whose rest never comes.
    for beginning in [&[][..], &[22], &[22, 3, 1, 1, 0, 1]] {
        let mut stream = TcpStream::connect(server.echo.address).await.expect("connected");
        stream.write_all(beginning).await.expect("sent");
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest);
        let ended = tokio::time::timeout(PATIENCE, read).await.expect("closed");
        assert!(ended.is_err() || rest.is_empty(), "{rest:?}");
    }
    until_counted(&server, HandshakeCounts { slow: 3, ..HandshakeCounts::default() }).await;
}

#[tokio::test]
async fn what_fails_is_counted_and_who_leaves_is_not() {
    let server = server(Protocols::Http2, PATIENCE).await;
    drop(TcpStream::connect(server.echo.address).await.expect("connected"));
    let mut noise = TcpStream::connect(server.echo.address).await.expect("connected");
    noise.write_all(&[0; 64]).await.expect("sent");
    let wrong = server.echo.connect(client(&server.root, NOW), "example.org").await;
    assert!(wrong.is_err(), "not our name");
    until_counted(&server, HandshakeCounts { refused: 2, ..HandshakeCounts::default() }).await;
}

#[tokio::test]
async fn without_tls_the_socket_is_the_stream() {
    let echo = Echo::start(Acceptor::plain(), PATIENCE).await;
    let mut stream = TcpStream::connect(echo.address).await.expect("connected");
    stream.write_all(b"plain").await.expect("sent");
    let mut answer = [0; 5];
    let read = stream.read_exact(&mut answer);
    tokio::time::timeout(PATIENCE, read).await.expect("in time").expect("an answer");
    assert_eq!(&answer, b"PLAIN");
}
