//! Accepting connections, bounding them, and draining them at the end.

use std::{error::Error, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hyper::{rt::Executor, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use tarn_task::Tasks;
use tarn_tls::{Acceptor, ServerStream};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::Instant,
};

use crate::{
    alarm::ConnectionTimer,
    forward::StreamReset,
    ingress::{ClientConnection, Ingress},
    lane::Lanes,
    places::{Place, Places},
    seldom::Seldom,
    socket::{self, ClientStream},
    stats::Gauge,
};

/// What is read from an HTTP/1 client at once, at most: every 64 KiB of an upload cost two turns of
/// the runtime. Heads are bounded by their own limit.
const READ_BUFFER_BYTES: usize = 256 << 10;
/// How long a client may take that is only told that there is no place.
const REFUSAL: Duration = Duration::from_secs(2);
/// How long accepting pauses when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What an HTTP/2 client may send ahead of what is read, on one stream and on all of them. Uploads
/// that nobody reads must be many before they hold up the others of the connection.
const STREAM_WINDOW_BYTES: u32 = 512 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// How often an HTTP/2 client is asked whether it is still there, and how long it may take to say.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_PATIENCE: Duration = Duration::from_secs(20);

/// How a connection has to end that has not by itself.
#[derive(Debug, Clone, Copy)]
enum Parting {
    Now,
    /// When its requests have ended, at the latest then.
    AfterRequests(Instant),
}

/// Lets hyper spawn through [`Tasks`].
#[derive(Debug, Clone)]
pub(crate) struct TaskExecutor(Tasks);

// === impl TaskExecutor ===

impl TaskExecutor {
    pub(crate) fn new(tasks: Tasks) -> Self {
        Self(tasks)
    }
}

impl<F> Executor<F> for TaskExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        drop(self.0.spawn_here("ingress-http2", future));
    }
}

// === impl Ingress ===

impl Ingress {
    /// Serves a listener until shutdown begins, then lets requests in flight finish.
    ///
    /// Returns when the last connection is closed, at the latest a little after `drain_grace`.
    pub async fn serve(self, listener: TcpListener, acceptor: Acceptor) {
        let stats = Arc::clone(&self.shared.stats);
        let places = Places::new(self.shared.config.max_connections, stats);
        let mut lanes = Lanes::start(self.shared.config.threads);
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.shared.tasks.stopping() => break,
                accepted = accept(&listener, &places) => accepted,
            };
            let (stream, peer, place) = accepted;
            let lane = lanes.next();
            let client = ClientConnection::holding(peer, place, lane.number);
            let (ingress, acceptor) = (self.clone(), acceptor.clone());
            let serve = async move {
                let _open = ingress.shared.stats.enter(Gauge::Connections);
                // One time for both: a slow handshake leaves less of it for the first request.
                let patience = ingress.shared.config.first_request_timeout;
                let patience =
                    if client.is_turned_away() { patience.min(REFUSAL) } else { patience };
                let deadline = Instant::now() + patience;
                if let Some(stream) = ingress.open(&acceptor, stream, deadline).await {
                    ingress.connection(stream, client, deadline).await;
                }
            };
            drop(self.shared.tasks.spawn_on(&lane.runtime, "ingress-client", serve));
        }
        drop(listener);
        let patience = self.shared.config.drain_grace + Duration::from_secs(1);
        if tokio::time::timeout(patience, places.empty()).await.is_err() {
            tracing::warn!("some client connections did not end in time");
        }
    }

    /// Makes what serves one connection.
    fn connection_builder(&self) -> auto::Builder<TaskExecutor> {
        let config = &self.shared.config;
        let header_list = u32::try_from(config.max_header_bytes).unwrap_or(u32::MAX);
        let mut builder = auto::Builder::new(TaskExecutor::new(self.shared.tasks.clone()));
        builder
            .http1()
            .timer(ConnectionTimer::default())
            .header_read_timeout(config.header_timeout)
            // How many headers there may be is left at hyper's 100: to be told makes it set up that
            // many places for each request.
            .max_buf_size(config.max_header_bytes.max(READ_BUFFER_BYTES));
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(config.max_streams)
            .max_header_list_size(header_list)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_PATIENCE);
        builder
    }

    /// Makes a stream of a connection, if the client does its part in time.
    async fn open(
        &self,
        acceptor: &Acceptor,
        stream: std::net::TcpStream,
        deadline: Instant,
    ) -> Option<ServerStream> {
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be served");
                return None;
            }
        };
        socket::prepare(&stream);
        let opened = tokio::select! {
            biased;
            opened = acceptor.accept(stream, deadline) => opened,
            () = self.shared.tasks.stopping() => return None,
        };
        match opened {
            Ok(stream) => Some(stream),
            Err(error) => {
                tracing::debug!(%error, cause = ?error.source(), "no TLS");
                None
            }
        }
    }

    /// Serves one connection to its end.
    async fn connection(self, stream: ServerStream, client: ClientConnection, deadline: Instant) {
        let server = self.connection_builder();
        let stream = ClientStream::new(stream, Arc::clone(client.phase()));
        let spoke = Arc::new(Notify::new());
        let service = {
            let (ingress, client, spoke) = (self.clone(), client.clone(), Arc::clone(&spoke));
            service_fn(move |request| {
                spoke.notify_one();
                let (ingress, client) = (ingress.clone(), client.clone());
                async move {
                    let answer = ingress.answer(&client, request).await;
                    match answer.extensions().get::<StreamReset>() {
                        Some(reset) => Err(reset.clone()),
                        None => Ok(answer),
                    }
                }
            })
        };
        let mut connection =
            pin!(server.serve_connection_with_upgrades(TokioIo::new(stream), service));
        let parting = pin!(self.parting(&client, &spoke, deadline));
        let drained_by = tokio::select! {
            biased;
            ended = connection.as_mut() => return note_end(ended, &client),
            parting = Seldom::new(parting) => match parting {
                Parting::Now => return,
                Parting::AfterRequests(by) => by,
            },
        };
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            biased;
            ended = connection.as_mut() => note_end(ended, &client),
            () = tokio::time::sleep_until(drained_by) => {}
            () = client.given_up() => {}
        }
    }

    /// Resolves when a connection that has not ended by itself has to.
    async fn parting(
        &self,
        client: &ClientConnection,
        spoke: &Notify,
        deadline: Instant,
    ) -> Parting {
        let grace = self.shared.config.drain_grace;
        let mut stopping = pin!(self.shared.tasks.stopping());
        let mut given_up = pin!(client.given_up());
        tokio::select! {
            spoke = tokio::time::timeout_at(deadline, spoke.notified()) => match spoke {
                Ok(()) if client.is_turned_away() => return Parting::AfterRequests(deadline),
                Ok(()) => {}
                Err(_elapsed) => return Parting::Now,
            },
            () = stopping.as_mut() => {
                return Parting::AfterRequests(deadline.min(Instant::now() + grace));
            }
            () = given_up.as_mut() => return Parting::Now,
        }
        tokio::select! {
            () = stopping => Parting::AfterRequests(Instant::now() + grace),
            () = given_up => Parting::Now,
        }
    }
}

/// Says why a connection ended, if it broke.
fn note_end(ended: Result<(), Box<dyn Error + Send + Sync>>, client: &ClientConnection) {
    if let Err(error) = ended {
        tracing::debug!(error, peer = %client.peer(), "a connection broke");
    }
}

/// Takes the next connection, and a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Places>,
) -> (std::net::TcpStream, SocketAddr, Arc<Place>) {
    loop {
        let accepted = listener.accept().await;
        match accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))) {
            Ok((stream, peer)) => return (stream, peer, Arc::new(places.take().await)),
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                // Whoever waits can use the descriptors of those who do nothing.
                let freed = places.give_some_up();
                tracing::warn!(%error, freed, "cannot accept connections; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Says whether accepting failed because the client went away again.
fn is_of_the_client(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset];
    kinds.contains(&error.kind())
}
