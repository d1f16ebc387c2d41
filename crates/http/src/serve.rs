//! Accepting connections, bounding them, and draining them at the end.

use std::{
    error::Error as _,
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use axum::Router;
use hyper::{
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
    service::TowerToHyperService,
};
use tarn_task::Tasks;
use tarn_tls::{Acceptor, ServerStream};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    time::Instant,
};

use crate::places::{Place, Places};

/// The bounds of a listener; all are configuration.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// How many connections are open at most. Beyond that the one that has been without a request
    /// for the longest gives way to a new one; where all have one, more wait in the kernel's queue.
    /// Default: 4096.
    pub max_connections: usize,
    /// How long a connection may take to send a request's head, waiting for the next request
    /// included. Default: 120 s: above the 90 s after which the clients' pools give up idle
    /// connections, so that it is never us who close one that a client is about to use.
    pub header_timeout: Duration,
    /// How long a TLS handshake may take. Default: 15 s.
    pub handshake_timeout: Duration,
    /// How long requests in flight may take once shutdown has begun. Default: 10 s.
    pub drain: Duration,
}

/// How long accepting pauses when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

// === impl ServeConfig ===

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            header_timeout: Duration::from_secs(120),
            handshake_timeout: Duration::from_secs(15),
            drain: Duration::from_secs(10),
        }
    }
}

/// A port, and what makes streams of its connections.
struct Port {
    listener: TcpListener,
    acceptor: Acceptor,
    handshake_timeout: Duration,
}

/// Serves a TCP listener until shutdown begins, then lets requests in flight finish.
///
/// Returns when the last connection is closed, or when `config.drain` is over.
pub async fn serve_tcp(
    listener: TcpListener,
    acceptor: Acceptor,
    router: Router,
    tasks: Tasks,
    config: ServeConfig,
) {
    let port = Port { listener, acceptor, handshake_timeout: config.handshake_timeout };
    serve(port, router, tasks, config).await;
}

/// Serves a unix socket, as [`serve_tcp`] does a port.
pub async fn serve_unix(listener: UnixListener, router: Router, tasks: Tasks, config: ServeConfig) {
    serve(listener, router, tasks, config).await;
}

/// Binds a unix socket that only its owner can open, in place of one that a dead server left.
///
/// The directory must be closed to others: between the binding and the change of mode the
/// directory's mode is what keeps them out. That no server is alive on the socket is for the
/// caller's lock to know.
///
/// # Errors
/// Fails when something else than a socket is there, and when binding does.
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::from(io::ErrorKind::AlreadyExists)),
        Err(absent) if absent.kind() == io::ErrorKind::NotFound => {}
        Err(failed) => return Err(failed),
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// A listener of either kind.
trait Accept: Send {
    /// A connection as it was accepted.
    type Raw: Send + 'static;
    /// What a connection reads and writes.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Returns the next connection. Cancel-safe.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Raw>> + Send;

    /// Makes a stream of it, if the client does its part. Other connections do not wait for it.
    fn open(&self, raw: Self::Raw) -> impl Future<Output = Option<Self::Stream>> + Send + 'static;
}

impl Accept for Port {
    type Raw = TcpStream;
    type Stream = ServerStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _peer) = self.listener.accept().await?;
        // Answers are small; one that waits for more to send is a late one.
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn open(&self, raw: TcpStream) -> impl Future<Output = Option<ServerStream>> + Send + 'static {
        let (acceptor, deadline) = (self.acceptor.clone(), Instant::now() + self.handshake_timeout);
        async move {
            match acceptor.accept(raw, deadline).await {
                Ok(stream) => Some(stream),
                Err(error) => {
                    tracing::debug!(%error, cause = ?error.source(), "no TLS");
                    None
                }
            }
        }
    }
}

impl Accept for UnixListener {
    type Raw = UnixStream;
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Self::accept(self).await.map(|(stream, _peer)| stream)
    }

    fn open(&self, raw: UnixStream) -> impl Future<Output = Option<UnixStream>> + Send + 'static {
        std::future::ready(Some(raw))
    }
}

async fn serve<L: Accept>(listener: L, router: Router, tasks: Tasks, config: ServeConfig) {
    let places = Places::new(config.max_connections);
    let graceful = GracefulShutdown::new();
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(config.header_timeout);
    loop {
        let next = async {
            let raw = Accept::accept(&listener).await?;
            Ok::<_, io::Error>((raw, Arc::new(places.take().await)))
        };
        let accepted = tokio::select! {
            biased;
            () = tasks.stopping() => break,
            next = next => next,
        };
        let (raw, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (opening, stopping) = (listener.open(raw), tasks.stopping());
        let (builder, watcher, router) = (builder.clone(), graceful.watcher(), router.clone());
        drop(tasks.spawn("http-connection", async move {
            let served = async {
                let stream = tokio::select! {
                    biased;
                    stream = opening => stream,
                    () = stopping => None,
                };
                if let Some(stream) = stream {
                    connection(&builder, stream, router, &place, watcher).await;
                }
            };
            tokio::select! {
                biased;
                () = served => {}
                () = place.given_up() => tracing::debug!("an idle connection gave way to another"),
            }
        }));
    }
    if tokio::time::timeout(config.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time; what they began goes on");
    }
}

/// Serves one connection to its end.
async fn connection<S>(
    builder: &http1::Builder,
    stream: S,
    router: Router,
    place: &Arc<Place>,
    watcher: Watcher,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request| {
        let (request_here, answer) = (place.begin(), router.call(request));
        async move {
            // Whoever waits for the place has it already; the connection is about to be dropped.
            let Some(_busy) = request_here else { return std::future::pending().await };
            answer.await
        }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection broke");
    }
}
