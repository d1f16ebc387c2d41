//! One connection to a sandbox, and one request on it.

use std::{error::Error as _, io, pin::pin, sync::Arc, time::Duration};

use http::{Request, Response};
use http_body::Body as _;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{task::AbortHandle, time::Instant};

use super::{IdleConnection, Upstream, UpstreamUse, Upstreams, wire::Wire};
use crate::{
    body::{GateAnswer, RequestBody, Upload},
    ingress::ClientNumber,
    lane::LaneNumber,
    meter::{End, Meter, MeteredStream},
    seldom::Seldom,
    serve::TaskExecutor,
};

/// The read buffer of a connection to a sandbox: bounds the head of an answer, and memory.
const READ_BUFFER_BYTES: usize = 256 << 10;

/// From how much on an upload is worth a connection of its own lane: each of its pieces would wake
/// the other one.
const LONG_UPLOAD_BYTES: u64 = 1 << 20;

/// What a gRPC server may send ahead of what a client reads, in one call and in all: calls whose
/// answer nobody reads must be many before they hold up the client's others.
const STREAM_WINDOW_BYTES: u32 = 512 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// How long is waited before a port that refused is tried again: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Which HTTP a sandbox's port is spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1, for everything but gRPC.
    Http1,
    /// HTTP/2 with prior knowledge, for gRPC.
    Http2,
}

/// Where a request goes within a sandbox.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) port: u16,
    /// Whose it is: an HTTP/2 connection has one window for all its calls, so each client's get one
    /// of their own, and wait for nobody else.
    pub(crate) client: ClientNumber,
    /// Where the request is served.
    pub(crate) lane: LaneNumber,
    pub(crate) protocol: Protocol,
    /// Until when the port is tried again when it refuses.
    pub(crate) refused_until: Option<Instant>,
}

/// Says why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// No connection could be opened.
    #[error("connect to the sandbox")]
    Connect(#[source] io::Error),
    /// No connection was accepted in time.
    #[error("connect to the sandbox: no answer in time")]
    ConnectTimeout,
    /// The connection closed before it accepted one byte of the request.
    #[error("the connection closed before the request was sent")]
    NotSent,
    /// The port did not greet back in HTTP/2.
    #[error("the port does not speak HTTP/2")]
    NoHttp2,
    /// No byte moved for the idle time while the body was being sent.
    #[error("the sandbox did not accept the request's body in time")]
    WriteIdle,
    /// No byte moved for the idle time while the answer was awaited.
    #[error("the sandbox did not answer in time")]
    ReadIdle,
    /// The sandbox stopped.
    #[error("the sandbox stopped")]
    Gone,
    /// The client's body ended early.
    #[error("the request's body ended early")]
    ClientBody,
    /// The sandbox closed the connection instead of answering.
    #[error("the connection closed before an answer came")]
    Closed(#[source] hyper::Error),
    /// The port gave the call up, for a reason that the client has to know.
    #[error("the call was reset")]
    Reset(#[source] hyper::Error),
    /// What the sandbox sent is not the HTTP that was expected.
    #[error("the sandbox's answer cannot be read")]
    Malformed(#[source] hyper::Error),
}

/// An answer, and the connection it comes on.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Lease,
}

/// A connection in use by one request; cut when dropped before [`Lease::complete`].
#[derive(Debug)]
pub(crate) struct Lease {
    channel: Channel,
    upload: Option<Arc<Upload>>,
    port: u16,
    keep: Duration,
    limit: usize,
    used: UpstreamUse,
}

/// An HTTP/1 connection; its task is stopped, and with it the socket closed, when this is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    sender: http1::SendRequest<RequestBody>,
    meter: Arc<Meter>,
    task: AbortHandle,
    /// Where it was opened and is driven.
    pub(super) lane: LaneNumber,
}

/// One of many users of an HTTP/2 connection; it closes after the last.
#[derive(Debug, Clone)]
pub(super) struct Http2Handle {
    sender: http2::SendRequest<RequestBody>,
    meter: Arc<Meter>,
}

#[derive(Debug)]
enum Channel {
    Http1(Connection),
    Http2(Http2Handle),
}

/// How one attempt failed.
enum Attempt {
    /// The request came back whole: not one byte of it was sent.
    Returned(Box<Request<RequestBody>>),
    Failed(SendError),
}

// === impl Upstreams ===

impl Upstreams {
    /// Sends a request and waits for the head of its answer.
    ///
    /// A request that a kept connection gives back untouched is sent once more, on a new one.
    /// Dropping the future withdraws the request: its connection is cut.
    pub(crate) async fn send(
        self: &Arc<Self>,
        used: UpstreamUse,
        target: Target,
        request: Request<RequestBody>,
    ) -> Result<Sent, SendError> {
        let daemon = target.port == tarn_daemon_api::PORT;
        let config = &self.config;
        let (keep, limit) = if daemon {
            (config.pool_daemon_idle, config.pool_daemon_most)
        } else {
            (config.pool_user_idle, config.pool_user_most)
        };
        let kept = match target.protocol {
            Protocol::Http1 => {
                // The daemon takes as many connections as are opened.
                let any_lane = !daemon || !is_long(request.body());
                used.0.take_http1(target.port, target.lane, any_lane).map(Channel::Http1)
            }
            Protocol::Http2 => {
                used.0.take_http2((target.port, target.client), keep).map(Channel::Http2)
            }
        };
        let mut request = request;
        let upload = request.body().upload();
        let lease = |channel, used| Lease {
            channel,
            upload: upload.clone(),
            port: target.port,
            keep,
            limit,
            used,
        };
        if let Some(mut channel) = kept {
            self.stats.count_reused();
            match channel.exchange(request).await {
                Ok(response) => return Ok(Sent { response, lease: lease(channel, used) }),
                Err(Attempt::Failed(error)) => return Err(error),
                Err(Attempt::Returned(unsent)) => {
                    self.stats.count_retried();
                    request = *unsent;
                }
            }
        }
        // Boxed, because what is rare would make every request's future large to move.
        let mut channel = Box::pin(self.open(&used.0, target, keep)).await?;
        match channel.exchange(request).await {
            Ok(response) => Ok(Sent { response, lease: lease(channel, used) }),
            Err(Attempt::Failed(error)) => Err(error),
            Err(Attempt::Returned(_)) => Err(match target.protocol {
                Protocol::Http1 => SendError::NotSent,
                Protocol::Http2 => SendError::NoHttp2,
            }),
        }
    }

    async fn open(
        &self,
        upstream: &Arc<Upstream>,
        target: Target,
        keep: Duration,
    ) -> Result<Channel, SendError> {
        let wire = self.connect_patiently(upstream, target).await?;
        self.stats.count_opened();
        let meter = Arc::new(Meter::new());
        let io = TokioIo::new(MeteredStream::new(wire, Arc::clone(&meter)));
        match target.protocol {
            Protocol::Http1 => {
                let mut builder = http1::Builder::new();
                builder.max_buf_size(READ_BUFFER_BYTES);
                let (sender, connection) =
                    builder.handshake(io).await.map_err(SendError::Closed)?;
                let task = self.drive(upstream, &meter, connection.with_upgrades());
                Ok(Channel::Http1(Connection { sender, meter, task, lane: target.lane }))
            }
            Protocol::Http2 => {
                let executor = TaskExecutor::new(self.tasks.clone());
                let mut builder = http2::Builder::new(executor);
                builder
                    .timer(TokioTimer::new())
                    .initial_stream_window_size(STREAM_WINDOW_BYTES)
                    .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
                let (sender, connection) =
                    builder.handshake(io).await.map_err(SendError::Malformed)?;
                drop(self.drive(upstream, &meter, connection));
                let handle = Http2Handle { sender, meter };
                upstream.put_http2((target.port, target.client), handle.clone(), keep);
                Ok(Channel::Http2(handle))
            }
        }
    }

    /// Connects, and tries again while a port that may still be on its way up refuses. Nothing of
    /// a request has been sent by then.
    async fn connect_patiently(
        &self,
        upstream: &Arc<Upstream>,
        target: Target,
    ) -> Result<Wire, SendError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let refused = match self.connect(upstream, target.port).await {
                Err(SendError::Connect(error)) if comes_up(&error) => error,
                // Whoever has the address by now is somebody else.
                Ok(_wire) if upstream.has_stopped() => {
                    return Err(SendError::Connect(io::ErrorKind::HostUnreachable.into()));
                }
                outcome => return outcome,
            };
            let next = Instant::now() + pause;
            if target.refused_until.is_none_or(|end| next > end) || upstream.has_stopped() {
                return Err(SendError::Connect(refused));
            }
            tokio::time::sleep_until(next).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Runs a connection until it ends, is idle for too long, or its sandbox stops.
    fn drive<C>(&self, upstream: &Arc<Upstream>, meter: &Arc<Meter>, connection: C) -> AbortHandle
    where
        C: Future<Output = hyper::Result<()>> + Send + 'static,
    {
        let meter = Arc::clone(meter);
        let gone = upstream.gone.clone();
        let limit = self.config.idle_timeout;
        let run = async move {
            // The end is noted before the connection is dropped: the request that is thrown back
            // then looks for the note.
            let mut connection = Box::pin(connection);
            let cut = pin!(async {
                tokio::select! {
                    () = meter.idle(limit) => End::Idle,
                    () = gone.cancelled() => End::Gone,
                }
            });
            tokio::select! {
                biased;
                ended = connection.as_mut() => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection to a sandbox broke");
                    meter.finish(End::Broken);
                },
                end = Seldom::new(cut) => meter.finish(end),
            }
        };
        self.tasks.spawn_here("ingress-upstream", run).abort_handle()
    }
}

/// Says whether a body is long, or may be.
fn is_long(body: &RequestBody) -> bool {
    !body.is_end_stream() && body.size_hint().upper().is_none_or(|bytes| bytes >= LONG_UPLOAD_BYTES)
}

/// Says whether a failure to connect may be that of a sandbox that has only just come up.
fn comes_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

// === impl Channel ===

impl Channel {
    fn meter(&self) -> &Meter {
        match self {
            Self::Http1(connection) => &connection.meter,
            Self::Http2(handle) => &handle.meter,
        }
    }

    async fn exchange(
        &mut self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Attempt> {
        let written_before = self.meter().written();
        let upload = request.body().upload();
        let gate = request.body().gate();
        if let Some(gate) = gate.clone() {
            hyper::ext::on_informational(&mut request, move |response| {
                if response.status() == http::StatusCode::CONTINUE {
                    gate.answer(GateAnswer::Continue);
                }
            });
        }
        let answer = match self {
            Self::Http1(connection) => connection.sender.try_send_request(request).await,
            Self::Http2(handle) => handle.sender.try_send_request(request).await,
        };
        if let (Some(gate), true) = (gate, answer.is_ok()) {
            gate.answer(GateAnswer::Refuse);
        }
        answer.map_err(|error| self.diagnose(error, written_before, upload.as_deref()))
    }

    /// Says what became of a request that got no answer.
    fn diagnose(
        &self,
        mut error: TrySendError<Request<RequestBody>>,
        written_before: u64,
        upload: Option<&Upload>,
    ) -> Attempt {
        if let Some(request) = error.take_message() {
            return Attempt::Returned(Box::new(request));
        }
        let error = error.into_error();
        let sent = match self {
            Self::Http1(_) => self.meter().written() > written_before,
            // Other requests write on the same socket.
            Self::Http2(_) => true,
        };
        let uploading = upload.is_some_and(|upload| !upload.is_done());
        Attempt::Failed(match self.meter().end() {
            _ if upload.is_some_and(Upload::is_broken) => SendError::ClientBody,
            _ if !sent => SendError::NotSent,
            _ if is_reset(&error) => SendError::Reset(error),
            End::Idle if uploading => SendError::WriteIdle,
            End::Idle => SendError::ReadIdle,
            End::Gone => SendError::Gone,
            End::Open | End::Broken => match self {
                Self::Http1(_) if !error.is_parse() => SendError::Closed(error),
                Self::Http1(_) | Self::Http2(_) => SendError::Malformed(error),
            },
        })
    }
}

/// Says whether the other side ended the stream, and not the connection.
fn is_reset(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| cause.is_reset() && cause.is_remote())
}

// === impl Lease ===

impl Lease {
    /// Resolves once no byte has moved on the connection for `limit`.
    pub(crate) async fn idle(&self, limit: Duration) {
        self.channel.meter().idle(limit).await;
    }

    /// Resolves when the sandbox has stopped.
    pub(crate) async fn gone(&self) {
        self.used.gone().await;
    }

    /// Gives the connection back after a whole answer, if the whole request was sent too.
    pub(crate) fn complete(self) {
        let Self { channel, upload, port, keep, limit, used } = self;
        let sent = upload.is_none_or(|upload| upload.is_done());
        match channel {
            Channel::Http1(connection) if sent => {
                let until = Instant::now() + keep;
                used.0.put_http1(port, IdleConnection { connection, until }, limit);
            }
            Channel::Http1(_) | Channel::Http2(_) => {}
        }
    }
}

// === impl Connection ===

impl Connection {
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Http2Handle ===

impl Http2Handle {
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}
