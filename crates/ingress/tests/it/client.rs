//! Clients: one that speaks HTTP properly, and one that sends whatever bytes a test wants.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tarn_types::SandboxId;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::world::{KEY, World, soon};

/// A body of any kind.
pub(crate) type AnyBody = BoxBody<Bytes, std::io::Error>;

/// One connection of an HTTP client.
pub(crate) enum Client {
    Http1(http1::SendRequest<AnyBody>),
    Http2(http2::SendRequest<AnyBody>),
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<http::HeaderMap>,
}

/// A connection that carries raw bytes.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    pub(crate) received: Vec<u8>,
}

// === impl Client ===

impl Client {
    pub(crate) async fn http1(world: &World) -> Self {
        let io = TokioIo::new(connect(world.address).await);
        let (sender, connection) = http1::handshake(io).await.expect("a handshake");
        drop(world.tasks.spawn("client", async move {
            drop(connection.with_upgrades().await);
        }));
        Self::Http1(sender)
    }

    pub(crate) async fn http2(world: &World) -> Self {
        let io = TokioIo::new(connect(world.address).await);
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), io).await.expect("a handshake");
        drop(world.tasks.spawn("client", async move {
            drop(connection.await);
        }));
        Self::Http2(sender)
    }

    /// Sends a request and returns the head of the answer.
    pub(crate) async fn start(
        &mut self,
        request: Request<AnyBody>,
    ) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                soon("the connection is ready", sender.ready()).await?;
                soon("an answer", sender.send_request(request)).await
            }
            Self::Http2(sender) => soon("an answer", sender.send_request(request)).await,
        }
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn send(&mut self, request: Request<AnyBody>) -> Answer {
        let response = self.start(request).await.expect("an answer");
        Answer::read(response).await
    }
}

// === impl Answer ===

impl Answer {
    pub(crate) async fn read(response: Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let collected = soon("a body", body.collect()).await.expect("a whole body");
        let trailers = collected.trailers().cloned();
        let body = collected.to_bytes();
        Self { status: parts.status, headers: parts.headers, body, trailers }
    }

    /// Returns an error's stable code.
    pub(crate) fn code(&self) -> String {
        let json: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        assert!(json["error"].is_string(), "{self:?}");
        json["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

// === impl Raw ===

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self { stream: connect(address).await, received: Vec::new() }
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        soon("a write", self.stream.write_all(bytes.as_ref())).await.expect("a write");
    }

    /// Reads until the answer so far holds a text; fails if the connection ends before.
    pub(crate) async fn read_until(&mut self, text: &str) {
        let reading = async {
            while !self.text().contains(text) {
                let read = self.stream.read_buf(&mut self.received).await.unwrap_or(0);
                assert!(read > 0, "ended before {text:?}: {:?}", self.text());
            }
        };
        soon(text, reading).await;
    }

    /// Reads until the connection ends.
    pub(crate) async fn read_to_end(&mut self) -> String {
        let reading = async {
            while self.stream.read_buf(&mut self.received).await.is_ok_and(|read| read > 0) {}
        };
        soon("the connection ends", reading).await;
        self.text()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.received).into_owned()
    }
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.expect("a connection");
    stream.set_nodelay(true).expect("an option");
    stream
}

pub(crate) fn empty() -> AnyBody {
    full("")
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> AnyBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A request to the daemon of a sandbox, with the owner's key.
pub(crate) fn get(id: &SandboxId, path: &str) -> Request<AnyBody> {
    to(id.as_str(), path, Some(KEY))
}

/// A request to `<label>.local`.
pub(crate) fn to(label: &str, path: &str, key: Option<&str>) -> Request<AnyBody> {
    let mut request = Request::get(path).header("host", format!("{label}.local"));
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    request.body(empty()).expect("a request")
}

/// Sends one request on a connection of its own.
pub(crate) async fn once(world: &World, request: Request<AnyBody>) -> Answer {
    Client::http1(world).await.send(request).await
}
