//! How a port of a sandbox is connected to: at the sandbox's address, or through its daemon.
//!
//! Development servers listen on loopback only, where nobody outside reaches them. A user port
//! that refuses is therefore tried once more through the daemon, which connects to 127.0.0.1 and
//! ::1 inside (spec 04 §2). What comes of that is a plain byte stream, used like any other; which
//! way led there is remembered, so that a development server costs one refused attempt, not one
//! for each connection. Nothing of a client's request is sent before either way is open.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, StatusCode, header};
use hyper::{client::conn::http1, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tarn_guest_api::{CONNECT_PATH, CONNECT_UPGRADE};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};

use super::{SendError, Upstream, Upstreams};
use crate::{header::TOKEN, socket};

/// A byte stream to a port of a sandbox.
#[derive(Debug)]
pub(super) enum Wire {
    /// A connection to the sandbox's address.
    Direct(TcpStream),
    /// A connection to the daemon, which passes everything on.
    ThroughDaemon(TokioIo<Upgraded>),
}

/// The daemon did not connect us.
#[derive(Debug, thiserror::Error)]
enum NoPassage {
    #[error("connect to the daemon")]
    Connect(#[source] io::Error),
    #[error("ask the daemon")]
    Ask(#[source] hyper::Error),
    #[error("make the request for the daemon")]
    Request(#[source] http::Error),
    #[error("the daemon answered {0}")]
    Refused(StatusCode),
    #[error("the daemon did not answer in time")]
    Late,
}

// === impl Upstreams ===

impl Upstreams {
    /// Opens a byte stream to a port.
    pub(super) async fn connect(&self, upstream: &Upstream, port: u16) -> Result<Wire, SendError> {
        if port == tarn_daemon_api::PORT {
            return self.direct(upstream.daemon).await;
        }
        let address = SocketAddr::new(upstream.daemon.ip(), port);
        if upstream.is_on_loopback(port) {
            match self.through_daemon(upstream, port).await {
                Ok(wire) => return Ok(wire),
                Err(error) => {
                    // The program may have gone, or come back with another address.
                    tracing::debug!(port, %error, "no way through the daemon any more");
                    upstream.note_loopback(port, false);
                    return self.direct(address).await;
                }
            }
        }
        match self.direct(address).await {
            Err(SendError::Connect(refused))
                if refused.kind() == io::ErrorKind::ConnectionRefused =>
            {
                match self.through_daemon(upstream, port).await {
                    Ok(wire) => {
                        upstream.note_loopback(port, true);
                        Ok(wire)
                    }
                    Err(error) => {
                        tracing::debug!(port, %error, "nor does anything listen on loopback");
                        Err(SendError::Connect(refused))
                    }
                }
            }
            outcome => outcome,
        }
    }

    async fn direct(&self, address: SocketAddr) -> Result<Wire, SendError> {
        match timeout(self.config.connect_timeout, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                socket::prepare_inward(&stream);
                Ok(Wire::Direct(stream))
            }
            Ok(Err(error)) => Err(SendError::Connect(error)),
            Err(_elapsed) => Err(SendError::ConnectTimeout),
        }
    }

    async fn through_daemon(&self, upstream: &Upstream, port: u16) -> Result<Wire, NoPassage> {
        let ask = timeout(self.config.connect_timeout, self.ask_daemon(upstream, port)).await;
        ask.unwrap_or(Err(NoPassage::Late))
    }

    async fn ask_daemon(&self, upstream: &Upstream, port: u16) -> Result<Wire, NoPassage> {
        let stream = TcpStream::connect(upstream.daemon).await.map_err(NoPassage::Connect)?;
        socket::prepare_inward(&stream);
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(NoPassage::Ask)?;
        // Ends with the upgrade, with a refusal, or when nobody waits for an answer any more.
        drop(self.tasks.spawn_here("ingress-connect", async move {
            drop(connection.with_upgrades().await);
        }));
        let request = Request::get(format!("{CONNECT_PATH}?port={port}"))
            .header(header::HOST, "localhost")
            .header(TOKEN, upstream.token.reveal())
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, CONNECT_UPGRADE)
            .body(String::new())
            .map_err(NoPassage::Request)?;
        let response = sender.send_request(request).await.map_err(NoPassage::Ask)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(NoPassage::Refused(response.status()));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(NoPassage::Ask)?;
        Ok(Wire::ThroughDaemon(TokioIo::new(upgraded)))
    }
}

// === impl Wire ===

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Direct(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::ThroughDaemon(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Direct(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::ThroughDaemon(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Direct(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::ThroughDaemon(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Direct(stream) => stream.is_write_vectored(),
            Self::ThroughDaemon(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Direct(stream) => Pin::new(stream).poll_flush(cx),
            Self::ThroughDaemon(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Direct(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::ThroughDaemon(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
