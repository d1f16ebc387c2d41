//! Connections as their requests see them, and those that stop being HTTP after an answer.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    rc::Rc,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header};
use tokio::net::TcpStream;

use super::{ApiError, body::Body};
use crate::{
    daemon::Daemon,
    pty::{self, Session},
    seal::Era,
    tunnel,
    websocket::{WebSocket, handshake},
};

/// What is known of a connection beside the request on it.
pub(crate) struct Connection {
    /// Who is at its other end.
    pub(crate) peer: IpAddr,
    /// It is dropped when a later one begins.
    pub(crate) era: Cell<Era>,
    /// What becomes of it.
    pub(crate) upgrade: Upgrade,
}

/// What becomes of one connection; empty while it is HTTP.
///
/// A handler that answers 101 leaves here what comes after; the server, which gets its connection
/// back from hyper then, runs it. So a connection keeps its place among the counted ones, and
/// nothing needs to be `Send`.
#[derive(Default)]
pub(crate) struct Upgrade(RefCell<Option<Next>>);

/// What a connection is used for after its 101.
pub(crate) enum Next {
    /// A client looks at a terminal.
    Terminal(Rc<Session>),
    /// A client's tunnel to a server in the sandbox.
    Tunnel(TcpStream),
    /// The ingress's connection to a server in the sandbox.
    Bare(TcpStream),
}

// === impl Connection ===

impl Connection {
    /// Describes one that was accepted now.
    pub(crate) fn new(peer: IpAddr, era: Era) -> Self {
        Self { peer, era: Cell::new(era), upgrade: Upgrade::default() }
    }
}

// === impl Upgrade ===

impl Upgrade {
    /// Returns what comes after HTTP, if anything.
    pub(crate) fn take(&self) -> Option<Next> {
        self.0.take()
    }

    /// Answers 101 and notes what comes after.
    pub(crate) fn switch(&self, protocol: &'static str, next: Next) -> Response<Body> {
        self.0.replace(Some(next));
        let mut response = Response::new(Body::Full(None));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static(protocol));
        response
    }

    /// Answers 101 to a WebSocket's request.
    pub(crate) fn switch_to_websocket(&self, accept: HeaderValue, next: Next) -> Response<Body> {
        let mut response = self.switch("websocket", next);
        response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        response
    }
}

// === impl Next ===

impl Next {
    /// Uses the connection, on which `early` came already; returns it to be closed.
    pub(crate) async fn run(self, daemon: &Daemon, stream: TcpStream, early: Bytes) -> TcpStream {
        match self {
            Self::Terminal(session) => {
                pty::serve(&daemon.scratch, &session, WebSocket::new(stream, early)).await
            }
            Self::Tunnel(server) => {
                tunnel::relay(&daemon.scratch, WebSocket::new(stream, early), server).await
            }
            Self::Bare(server) => tunnel::relay_bare(stream, &early, server).await,
        }
    }
}

/// Checks a WebSocket's request; returns the header that accepts it.
pub(crate) fn accept_websocket(
    version: Version,
    headers: &HeaderMap,
) -> Result<HeaderValue, ApiError> {
    handshake::accept(version, headers).map_err(ApiError::invalid)
}
