//! Cross-origin rules of the daemon port (spec 04 §4). Pure.
//!
//! On user ports CORS is the application's business.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, header};

use crate::body::IngressBody;

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, DELETE, OPTIONS");
const MAX_AGE_SECS: HeaderValue = HeaderValue::from_static("86400");

/// Says whether a browser asks for permission before the real request.
pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Answers a preflight: any origin may ask, since every real request needs its own credential.
pub(crate) fn preflight(request: &HeaderMap) -> Response<IngressBody> {
    let mut response = Response::new(IngressBody::full(Bytes::new()));
    let headers = response.headers_mut();
    allow_origin(headers, request.get(header::ORIGIN));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    if let Some(asked) = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECS);
    response
}

/// Lets the page at `origin` read an answer.
pub(crate) fn allow_origin(headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
    let Some(origin) = origin else { return };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    headers.append(header::VARY, HeaderValue::from_static("origin"));
}
