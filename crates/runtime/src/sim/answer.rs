//! The answers of a simulated daemon.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Empty, Full, combinators::UnsyncBoxBody};
use serde::Serialize;
use tarn_daemon_api::{ErrorBody, code};

/// The body of every answer.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// An answer, or the error that is one too.
pub(super) type Answer = Result<Response<Body>, Refusal>;

/// Says why a request was not done.
#[derive(Debug)]
pub(super) struct Refusal {
    status: u16,
    code: &'static str,
    text: String,
}

// === impl Refusal ===

impl Refusal {
    pub(super) fn new(status: u16, code: &'static str, text: impl Into<String>) -> Self {
        Self { status, code, text: text.into() }
    }

    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Self::new(400, code::INVALID_REQUEST, text)
    }

    /// Returns the same under another code, for whoever caused it by another way.
    pub(super) fn recoded(self, code: &'static str) -> Self {
        Self { code, ..self }
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let body = ErrorBody { error: self.text, code: Some(self.code.to_owned()) };
        json(self.status, &body)
    }
}

/// Answers with JSON.
pub(super) fn json(status: u16, value: &impl Serialize) -> Response<Body> {
    let bytes = serde_json::to_vec(value).expect("wire types are plain data");
    with_type(status, "application/json", full(bytes.into()))
}

/// Answers with a file's bytes.
pub(super) fn octets(bytes: Bytes) -> Response<Body> {
    with_type(200, "application/octet-stream", full(bytes))
}

/// Answers with a stream of events.
pub(super) fn events(body: Body) -> Response<Body> {
    with_type(200, "text/event-stream", body)
}

/// Answers that it is done, and nothing else.
pub(super) fn done() -> Response<Body> {
    let mut response = Response::new(Empty::new().boxed_unsync());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).boxed_unsync()
}

fn with_type(status: u16, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(status).expect("the statuses of this module are valid");
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
