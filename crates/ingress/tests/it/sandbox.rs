//! Stand-ins for what listens in a sandbox.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use tarn_task::Tasks;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
};

use crate::client::{AnyBody, full};

/// What a program in the sandbox saw of a request.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) version: http::Version,
    pub(crate) headers: HeaderMap,
    /// The whole body; an error if it ended early.
    pub(crate) body: Result<Bytes, String>,
    pub(crate) trailers: Option<HeaderMap>,
}

/// A server that remembers every request and answers `ok`.
pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
}

/// The sending end of a body that a test feeds.
pub(crate) type Feed = mpsc::Sender<Result<Frame<Bytes>, std::io::Error>>;

// === impl Recorder ===

impl Recorder {
    pub(crate) async fn start(tasks: &Tasks) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let address = serve(tasks, move |request| {
            let log = Arc::clone(&log);
            async move {
                let record = see(request).await;
                log.lock().push(record);
                Response::new(full("ok"))
            }
        })
        .await;
        Self { address, seen }
    }

    pub(crate) fn last(&self) -> Seen {
        self.seen.lock().last().cloned().expect("a request")
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().len()
    }
}

// === impl Seen ===

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Reads a request whole.
pub(crate) async fn see(request: Request<Incoming>) -> Seen {
    let (parts, body) = request.into_parts();
    let (body, trailers) = match body.collect().await {
        Ok(whole) => {
            let trailers = whole.trailers().cloned();
            (Ok(whole.to_bytes()), trailers)
        }
        Err(error) => (Err(error.to_string()), None),
    };
    let target = parts.uri.to_string();
    Seen {
        method: parts.method,
        target,
        version: parts.version,
        headers: parts.headers,
        body,
        trailers,
    }
}

/// Serves HTTP/1 and HTTP/2 on a port of its own.
pub(crate) async fn serve<H, F>(tasks: &Tasks, handler: H) -> SocketAddr
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<AnyBody>> + Send + 'static,
{
    serve_raw(tasks, move |stream| {
        let handler = handler.clone();
        async move {
            let service = service_fn(move |request| {
                let answer = handler(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let server = auto::Builder::new(TokioExecutor::new());
            drop(server.serve_connection_with_upgrades(TokioIo::new(stream), service).await);
        }
    })
    .await
}

/// Gives every connection to a handler.
pub(crate) async fn serve_raw<H, F>(tasks: &Tasks, handler: H) -> SocketAddr
where
    H: Fn(TcpStream) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let spawner = tasks.clone();
    drop(tasks.spawn("sandbox", async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream.set_nodelay(true));
            drop(spawner.spawn("sandbox-connection", handler(stream)));
        }
    }));
    address
}

/// A port where nothing listens, as long as this is kept: it is taken.
pub(crate) struct Nobody(TcpSocket);

impl Nobody {
    pub(crate) fn here() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("an address")
    }

    /// Listens on it after all.
    pub(crate) fn listen(self) -> TcpListener {
        self.0.listen(8).expect("listens")
    }
}

/// Makes a body that a test feeds frame by frame; it ends when the feed is dropped.
pub(crate) fn fed() -> (Feed, AnyBody) {
    let (feed, mut frames) = mpsc::channel(1);
    let stream = futures_stream(move |cx| frames.poll_recv(cx));
    (feed, BoxBody::new(StreamBody::new(stream)))
}

/// Makes a stream of a poll function.
fn futures_stream<T, P>(poll: P) -> impl futures::Stream<Item = T>
where
    P: FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<T>>,
{
    futures::stream::poll_fn(poll)
}
