//! Bodies on their way through: frame by frame, never gathered.
//!
//! A body whose connection is dropped ends with an error, never as if it were whole: a truncated
//! upload must not be stored, a truncated answer not be believed. hyper does that since its drop
//! guard for body senders; the tests hold it to it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::time::Sleep;

use crate::{header, stats::Active, upstream::Lease};

/// How long an upload waits for the sandbox's `100 Continue`; older servers never send one
/// (RFC 9110 §10.1.1).
const CONTINUE_PATIENCE: Duration = Duration::from_secs(1);

/// Says that a body ended early.
#[derive(Debug, Error)]
#[error("read the body")]
pub struct BodyError(#[source] hyper::Error);

/// How far the upload of one request has come.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    done: AtomicBool,
    broken: AtomicBool,
}

/// Holds an upload back until the sandbox says `100 Continue`.
#[derive(Debug, Default)]
pub(crate) struct Gate(Mutex<GateState>);

#[derive(Debug, Default)]
struct GateState {
    answer: Option<GateAnswer>,
    waker: Option<Waker>,
}

/// What the sandbox said to `Expect: 100-continue`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GateAnswer {
    /// Send the body.
    Continue,
    /// It answered without wanting the body.
    Refuse,
}

/// A client's body on its way to the sandbox.
#[derive(Debug)]
pub(crate) struct RequestBody {
    inner: Incoming,
    /// None for a request without a body.
    upload: Option<Arc<Upload>>,
    gate: Option<Arc<Gate>>,
    patience: Option<Pin<Box<Sleep>>>,
}

/// The body of every answer of the ingress.
#[derive(Debug)]
pub struct IngressBody(Kind);

#[derive(Debug)]
enum Kind {
    Full(Option<Bytes>),
    Sandbox(Box<SandboxBody>),
}

/// A sandbox's body on its way to the client.
#[derive(Debug)]
struct SandboxBody {
    inner: Incoming,
    /// The connection; given back at the end, cut when dropped before.
    lease: Option<Lease>,
    _active: Active,
}

// === impl Upload ===

impl Upload {
    /// Says whether the client's whole body was read.
    pub(crate) fn is_done(&self) -> bool {
        self.done.load(SeqCst)
    }

    /// Says whether the client's body ended early.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(SeqCst)
    }
}

// === impl Gate ===

impl Gate {
    /// Answers once; the first answer stays.
    pub(crate) fn answer(&self, answer: GateAnswer) {
        let mut state = self.0.lock();
        if state.answer.is_none() {
            state.answer = Some(answer);
        }
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<GateAnswer> {
        let mut state = self.0.lock();
        if let Some(answer) = state.answer {
            return Poll::Ready(answer);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

// === impl RequestBody ===

impl RequestBody {
    pub(crate) fn new(inner: Incoming) -> Self {
        let upload = (!inner.is_end_stream()).then(Arc::default);
        Self { inner, upload, gate: None, patience: None }
    }

    /// Holds the body back until the gate opens.
    pub(crate) fn gated(mut self) -> Self {
        self.gate = self.upload.is_some().then(Arc::default);
        self
    }

    pub(crate) fn gate(&self) -> Option<Arc<Gate>> {
        self.gate.clone()
    }

    pub(crate) fn upload(&self) -> Option<Arc<Upload>> {
        self.upload.clone()
    }

    fn poll_gate(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(gate) = &self.gate else { return Poll::Ready(()) };
        if let Poll::Ready(answer) = gate.poll(cx) {
            return match answer {
                GateAnswer::Continue => {
                    self.gate = None;
                    Poll::Ready(())
                }
                GateAnswer::Refuse => Poll::Pending,
            };
        }
        let sleep = || Box::pin(tokio::time::sleep(CONTINUE_PATIENCE));
        ready!(self.patience.get_or_insert_with(sleep).as_mut().poll(cx));
        self.gate = None;
        Poll::Ready(())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        ready!(self.poll_gate(cx));
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(upload) = &self.upload {
            match &frame {
                Some(Err(_)) => upload.broken.store(true, SeqCst),
                None => upload.done.store(true, SeqCst),
                Some(Ok(_)) if self.inner.is_end_stream() => upload.done.store(true, SeqCst),
                Some(Ok(_)) => {}
            }
        }
        Poll::Ready(frame.map(|frame| frame.map(passing).map_err(BodyError)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

// === impl IngressBody ===

impl IngressBody {
    /// Makes a body that is already there.
    #[must_use]
    pub fn full(bytes: Bytes) -> Self {
        Self(Kind::Full((!bytes.is_empty()).then_some(bytes)))
    }

    pub(crate) fn sandbox(inner: Incoming, lease: Lease, active: Active) -> Self {
        let mut body = SandboxBody { inner, lease: Some(lease), _active: active };
        if body.inner.is_end_stream() {
            body.complete();
        }
        Self(Kind::Sandbox(Box::new(body)))
    }
}

impl Body for IngressBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Sandbox(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Sandbox(body) => body.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Kind::Sandbox(body) => body.inner.size_hint(),
        }
    }
}

// === impl SandboxBody ===

impl SandboxBody {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let Some(frame) = frame else {
            self.complete();
            return Poll::Ready(None);
        };
        if frame.is_ok() && self.inner.is_end_stream() {
            self.complete();
        }
        Poll::Ready(Some(frame.map(passing).map_err(BodyError)))
    }

    fn complete(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.complete();
        }
    }
}

/// Takes from trailers what may not pass in them.
fn passing(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            header::clean_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(data) => data,
    }
}
