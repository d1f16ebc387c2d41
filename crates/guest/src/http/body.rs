//! Bodies: reading them within bounds, and the three kinds that we send.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::{Serialize, de::DeserializeOwned};
use tarn_daemon_api::MAX_JSON_BYTES;
use tokio::sync::mpsc;

use super::ApiError;

/// A JSON body takes at most this long; files and input, which stream, take as long as they take.
const JSON_BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Chunks that a stream's producer may be ahead of the socket: one in flight, one in the making.
const STREAM_CHUNKS_AHEAD: usize = 1;

/// What we send.
pub(crate) enum Body {
    /// Nothing, or something that is all there.
    Full(Option<Bytes>),
    /// Chunks from a task, which learns by the closed channel that the client has gone.
    Stream(mpsc::Receiver<io::Result<Bytes>>),
    /// The same, of a length that was announced.
    Sized(mpsc::Receiver<io::Result<Bytes>>, u64),
}

/// The task's end of a stream.
pub(crate) type ChunkSender = mpsc::Sender<io::Result<Bytes>>;

// === impl Body ===

impl Body {
    /// Makes a stream of unknown length.
    pub(crate) fn stream() -> (ChunkSender, Self) {
        let (sender, receiver) = mpsc::channel(STREAM_CHUNKS_AHEAD);
        (sender, Self::Stream(receiver))
    }

    /// Makes a stream of unknown length whose first chunk is there already.
    pub(crate) fn stream_from(first: Bytes) -> (ChunkSender, Self) {
        let (sender, body) = Self::stream();
        // An empty channel takes a chunk.
        drop(sender.try_send(Ok(first)));
        (sender, body)
    }

    /// Makes a stream of a known length.
    pub(crate) fn sized(length: u64) -> (ChunkSender, Self) {
        let (sender, receiver) = mpsc::channel(STREAM_CHUNKS_AHEAD);
        (sender, Self::Sized(receiver, length))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(chunks) => {
                chunks.poll_recv(context).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
            }
            Self::Sized(chunks, left) => {
                if *left == 0 {
                    return Poll::Ready(None);
                }
                let chunk = std::task::ready!(chunks.poll_recv(context));
                if let Some(Ok(bytes)) = &chunk {
                    *left = left.saturating_sub(bytes.len() as u64);
                }
                Poll::Ready(chunk.map(|chunk| chunk.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(None) | Self::Sized(_, 0))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Stream(_) => SizeHint::default(),
            Self::Sized(_, left) => SizeHint::with_exact(*left),
        }
    }
}

/// Answers 200 with JSON.
pub(crate) fn json_response<T: Serialize>(value: &T) -> Response<Body> {
    json_body(value)
}

/// Answers 200 with JSON that is encoded already.
pub(crate) fn json_bytes_response(bytes: Bytes) -> Response<Body> {
    with_type("application/json", Body::Full(Some(bytes)))
}

/// Makes a response with a JSON body; the status is the caller's to change.
pub(crate) fn json_body<T: Serialize>(value: &T) -> Response<Body> {
    // Our own types have no maps with odd keys and no failing serialisers.
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    with_type("application/json", Body::Full(Some(bytes.into())))
}

/// Answers 204.
pub(crate) fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::Full(None));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Makes a response with a content type.
pub(crate) fn with_type(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Reads and parses a JSON body of at most 4 MiB.
pub(crate) async fn read_json<T: DeserializeOwned>(
    request: Request<Incoming>,
) -> Result<T, ApiError> {
    parse_json(&read_json_bytes(request).await?)
}

/// Reads a body that is to be JSON.
pub(crate) async fn read_json_bytes(request: Request<Incoming>) -> Result<Vec<u8>, ApiError> {
    match tokio::time::timeout(JSON_BODY_TIMEOUT, collect(request.into_body())).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => {
            let secs = JSON_BODY_TIMEOUT.as_secs();
            Err(ApiError::invalid(format!("the body did not arrive within {secs} s")))
        }
    }
}

/// Parses JSON; a wrong type is named by its path, such as `args[0]`.
pub(crate) fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        ApiError::invalid(match path.as_str() {
            "." => format!("the body is not what this route expects: {cause}"),
            path => format!("`{path}`: {cause}"),
        })
    })?;
    json.end().map_err(|error| ApiError::invalid(format!("after the JSON value: {error}")))?;
    Ok(value)
}

async fn collect(mut body: Incoming) -> Result<Vec<u8>, ApiError> {
    if body.size_hint().lower() > MAX_JSON_BYTES as u64 {
        return Err(ApiError::too_large(MAX_JSON_BYTES));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = next_chunk(&mut body).await? {
        if bytes.len() + chunk.len() > MAX_JSON_BYTES {
            return Err(ApiError::too_large(MAX_JSON_BYTES));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Returns the next bytes of a request's body; an error if it broke off before its end.
pub(crate) async fn next_chunk(body: &mut Incoming) -> Result<Option<Bytes>, ApiError> {
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| ApiError::invalid(format!("the body broke off: {error}")))?;
        // Trailers are nothing to us.
        if let Ok(bytes) = frame.into_data() {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}
