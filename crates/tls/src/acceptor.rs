//! From a socket to a stream: the handshake, bounded, and an answer for who does not speak TLS.

use std::{fmt, io, sync::Arc, time::Duration};

use rustls::{ServerConfig, crypto::aws_lc_rs, server::ResolvesServerCert, version};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;

use crate::{HandshakeStats, ServerStream, challenge::CHALLENGE_PROTOCOL};

/// How long a client that spoke plain HTTP may go on sending after our answer; a socket that is
/// closed with unread bytes takes the answer with it.
const LINGER: Duration = Duration::from_secs(2);

/// The whole answer to plain HTTP; the code is that of docs/errors/INVALID_REQUEST.md.
const USE_HTTPS: &str = "HTTP/1.1 400 Bad Request\r\n\
    content-type: application/json\r\n\
    content-length: 87\r\n\
    connection: close\r\n\r\n\
    {\"error\":\"this port speaks TLS; begin the URL with https://\",\"code\":\"INVALID_REQUEST\"}\n";

/// The protocols that are offered beneath TLS (ALPN).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocols {
    /// HTTP/1.1 alone.
    Http1,
    /// HTTP/2, and HTTP/1.1.
    Http2,
}

/// Makes a stream of each connection. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    /// None: streams are the sockets themselves.
    tls: Option<TlsAcceptor>,
    stats: Arc<HandshakeStats>,
}

/// Says why a connection came to nothing.
#[derive(Debug, Error)]
pub enum AcceptError {
    /// The client left before it said anything.
    #[error("the client left")]
    Gone,
    /// It did not say enough in time.
    #[error("the handshake did not end in time")]
    Slow,
    /// It spoke plain HTTP, and was told.
    #[error("the client spoke plain HTTP")]
    PlainHttp,
    /// It asked whose name this is (TLS-ALPN-01), and was told; there is nothing more to say.
    #[error("the client had a challenge")]
    Challenge,
    /// The two sides could not agree.
    #[error("the handshake failed")]
    Handshake(#[source] io::Error),
}

// === impl Protocols ===

impl Protocols {
    pub(crate) fn names(self, answers_challenges: bool) -> Vec<Vec<u8>> {
        let mut names = match self {
            Self::Http1 => vec![b"http/1.1".to_vec()],
            Self::Http2 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        if answers_challenges {
            names.push(CHALLENGE_PROTOCOL.to_vec());
        }
        names
    }
}

// === impl Acceptor ===

impl Acceptor {
    /// Makes one that passes sockets through, without TLS.
    #[must_use]
    pub fn plain() -> Self {
        Self { tls: None, stats: Arc::default() }
    }

    pub(crate) fn new(certificates: Arc<dyn ResolvesServerCert>, protocols: Vec<Vec<u8>>) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .expect("the provider has suites for both versions")
            .with_no_client_auth()
            .with_cert_resolver(certificates);
        config.alpn_protocols = protocols;
        Self { tls: Some(TlsAcceptor::from(Arc::new(config))), stats: Arc::default() }
    }

    /// Returns the counters, for `/metrics`.
    #[must_use]
    pub fn stats(&self) -> Arc<HandshakeStats> {
        Arc::clone(&self.stats)
    }

    /// Makes a stream of a connection. Dropping the future closes it.
    ///
    /// # Errors
    /// Fails when there is no handshake before the deadline; the connection is closed then.
    pub async fn accept(
        &self,
        stream: TcpStream,
        deadline: Instant,
    ) -> Result<ServerStream, AcceptError> {
        let Some(tls) = &self.tls else { return Ok(ServerStream::Plain(stream)) };
        let opened = match timeout_at(deadline, open(tls, stream)).await {
            Ok(opened) => opened,
            Err(_elapsed) => Err(AcceptError::Slow),
        };
        self.stats.count(&opened);
        opened
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

async fn open(tls: &TlsAcceptor, stream: TcpStream) -> Result<ServerStream, AcceptError> {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(0) | Err(_) => return Err(AcceptError::Gone),
        Ok(_) => {}
    }
    // A handshake begins with 22, and every method of HTTP with a letter.
    if first[0].is_ascii_alphabetic() {
        refuse_plain_http(stream).await;
        return Err(AcceptError::PlainHttp);
    }
    let opened = tls.accept(stream).await.map_err(AcceptError::Handshake)?;
    if opened.get_ref().1.alpn_protocol() == Some(CHALLENGE_PROTOCOL) {
        return Err(AcceptError::Challenge);
    }
    Ok(ServerStream::Tls(Box::new(opened)))
}

/// Tells a client to use TLS.
async fn refuse_plain_http(mut stream: TcpStream) {
    let answer = async {
        stream.write_all(USE_HTTPS.as_bytes()).await?;
        stream.shutdown().await?;
        let mut dropped = [0; 4096];
        while stream.read(&mut dropped).await? > 0 {}
        io::Result::Ok(())
    };
    // Whether it was heard is the client's affair.
    drop(timeout(LINGER, answer).await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_plain_http_is_as_long_as_it_says() {
        let (head, body) = USE_HTTPS.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
    }
}
